"""The ways in which a machine comes to ask, and the faults that it may meet: rows and columns of test_faults.py."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from machines.boot.script import for_dhcp
from roms.toolchain.ipxe.build import Builder, BuildRequest, Target
from roms.toolchain.ipxe.script.render import option_values, render, required_options
from roms.toolchain.ipxe.script.spec import DHCP, ScriptSpec, StaticNetwork
from roms.toolchain.ipxe.source import DEFAULT_REF, SourceTree
from tests.e2e import guest
from tests.e2e.proxy import Proxy, Trouble, answered, cut, silent
from tests.e2e.site import Site
from tests.e2e.vm import GATEWAY, VirtualServer, ask_at

#: Seconds for which nothing gets through, where DHCP is late: spanning tree takes 30, of which the firmware takes some.
LATE = 20
#: Nobody has it.
_NO_DNS = StaticNetwork("10.0.2.77", "255.255.255.0", GATEWAY, "10.0.2.66")


# Faults


@dataclass(frozen=True)
class Fault:
    """What goes wrong, by what stands between the machine and the site, in the site, or on the wire."""

    troubles: tuple[Trouble, ...] = ()
    #: Whether anything listens where the machine asks.
    listens: bool = True
    #: What is wrong with the site itself, for as long as the machine runs.
    site: Callable[[Site], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    #: Of VirtualServer.
    options: dict[str, Any] = field(default_factory=dict)
    #: What the script in an own ROM is rendered for, in place of the site's address.
    host: str = GATEWAY
    network: StaticNetwork | str = DHCP
    #: What happens while the machine runs, in a thread of its own.
    during: Callable[[VirtualServer], None] | None = None

    @contextlib.contextmanager
    def on(self, site: Site, port: int) -> Iterator[None]:
        """Have it wrong while the machine runs. Raises AssertionError where the machine has met no trouble."""
        with self.site(site):
            if not self.listens:
                yield
                return
            with Proxy(site.port, *self.troubles, port=port) as proxy:
                yield
            assert not self.troubles or proxy.met, f"the machine has met no trouble: {proxy.requests}"


@contextlib.contextmanager
def _locked(site: Site) -> Iterator[None]:
    """Nobody can write to the database."""
    site.expect_in_log("answered without the database")
    with contextlib.closing(sqlite3.connect(site.database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def _forward_late(server: VirtualServer) -> None:
    server.wait_for("Configuring")
    threading.Timer(LATE, server.forward).start()


_ANY = "^GET|^HEAD"
_PAGE = b"<!DOCTYPE html>\n<html><title>Welcome</title><p>Please log in to use this network.</html>\n"
_JUNK = random.Random(11).randbytes(5000)
FAULTS = {
    "none": Fault(),
    "site down": Fault(listens=False),
    "silent at once": Fault((silent(_ANY),)),
    "silent in script": Fault((silent(r"GET /boot\?", 300),)),
    "silent in kernel": Fault((silent("GET .*/kernel$", 200_000),)),
    "silent in initrd": Fault((silent("GET .*/initrd$", 200_000),)),
    "silent in ready": Fault((silent("GET .*/ready$"),)),
    "cut in kernel": Fault((cut("GET .*/kernel$", 200_000),)),
    "404": Fault((answered(_ANY, 404, b"Not here.\n"),)),
    "500": Fault((answered(_ANY, 500),)),
    "503, garbage": Fault((answered(_ANY, 503, _JUNK),)),
    "503, try again": Fault((answered(_ANY, 503, head="Retry-After: 1\r\n"),)),
    "captive portal": Fault((answered(_ANY, 200, _PAGE, head="Content-Type: text/html\r\n"),)),
    "binary junk": Fault((answered(_ANY, 200, _JUNK),)),
    "redirect loop": Fault((answered(_ANY, 302, head="Location: /boot\r\n"),)),
    "no cable": Fault(options={"link": False}),
    "no DHCP": Fault(options={"dhcp": False}),
    "late DHCP": Fault(options={"forwards": False}, during=_forward_late),
    "no DNS": Fault(host="rescue.example", network=_NO_DNS, listens=False),
    "database locked": Fault(site=_locked),
}


# Ways


class Workshop:
    """Makes what machines are started with. ROMs are kept: one port, and so one script, for all faults but a few."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._folder = folder

    def own(self, target: Target, fault: Fault) -> Path:
        """A ROM or program of the site's. Skips the test where there is no source of iPXE."""
        source = os.environ.get("RESCUESITE_IPXE_SOURCE", "")
        if not source:
            pytest.skip("RESCUESITE_IPXE_SOURCE points to no source tree of iPXE")
        spec = ScriptSpec(f"http://{fault.host}:{self.port}", fault.network, tries=2, timeout=3, link_wait=3)
        script = render(spec).encode()
        kept = self._folder / f"{target}-{hashlib.sha256(script).hexdigest()[:12]}"
        if not kept.exists():
            builder = Builder(SourceTree(source, DEFAULT_REF, guest.CACHE / "ipxe"), guest.CACHE / "ipxe")
            card = "8086:100e" if target.needs_card else ""
            options = {**dict.fromkeys(sorted(required_options(spec)), True), **option_values(spec)}
            request = BuildRequest(target, script, card, options=options, banner=0)
            built = builder.build(request, self._folder)
            built.artifact.rename(kept)
        return kept


Way = Callable[[Workshop, Fault, Path], VirtualServer]


def _bios_stock(workshop: Workshop, fault: Fault, folder: Path) -> VirtualServer:
    """Debian's iPXE of 2019; DHCP names the site itself."""
    return VirtualServer(guest.disk_image(folder / "disk"), boot_file=ask_at(workshop.port), **fault.options)


def _bios_script(workshop: Workshop, fault: Fault, folder: Path) -> VirtualServer:
    """The same; DHCP names the site's small script, on a TFTP server."""
    tftp = folder / "tftp"
    tftp.mkdir()
    (tftp / "dhcp.ipxe").write_text(for_dhcp(f"http://{GATEWAY}:{workshop.port}/boot"))
    return VirtualServer(guest.disk_image(folder / "disk"), tftp=tftp, boot_file="dhcp.ipxe", **fault.options)


def _bios_own(workshop: Workshop, fault: Fault, folder: Path) -> VirtualServer:
    """The site's own ROM. What each of its profiles makes of a portal is in test_captive_portal.py."""
    rom = workshop.own(Target.ROM, fault)
    return VirtualServer(guest.disk_image(folder / "disk"), rom=rom, **fault.options)


def _uefi(folder: Path, **options: Any) -> VirtualServer:
    disk = guest.efi_disk(folder / "efi-disk")
    return VirtualServer(disk, uefi_vars=folder / "efi-vars", memory=1024, **options)


def _uefi_stock(workshop: Workshop, fault: Fault, folder: Path) -> VirtualServer:
    """OVMF, Debian's iPXE of 2019 in the card; DHCP names the site itself."""
    return _uefi(folder, boot_file=ask_at(workshop.port), **fault.options)


def _uefi_own_rom(workshop: Workshop, fault: Fault, folder: Path) -> VirtualServer:
    """OVMF, the site's own ROM."""
    return _uefi(folder, rom=workshop.own(Target.EFIROM, fault), **fault.options)


def _uefi_own_program(workshop: Workshop, fault: Fault, folder: Path) -> VirtualServer:
    """OVMF, the site's own program on a disk that is first in the order; the firmware knows no network."""
    boot = folder / "stick" / "EFI" / "BOOT"
    boot.mkdir(parents=True)
    program = workshop.own(Target.EFI, fault)
    (boot / "BOOTX64.EFI").write_bytes(program.read_bytes())
    return _uefi(folder, stick=folder / "stick", **fault.options)


WAYS: dict[str, Way] = {
    "bios stock": _bios_stock,
    "bios script": _bios_script,
    "bios own": _bios_own,
    "uefi stock": _uefi_stock,
    "uefi rom": _uefi_own_rom,
    "uefi program": _uefi_own_program,
}
