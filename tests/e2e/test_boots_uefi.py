"""Real boots on UEFI (OVMF), and the exit status with which scripts leave iPXE on either firmware."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import guest
from tests.e2e.conftest import KEY
from tests.e2e.site import Site
from tests.e2e.vm import ASK, GATEWAY, VirtualServer, ask_at

pytestmark = pytest.mark.e2e


class Efi:
    """What a UEFI machine has besides its network card."""

    def __init__(self, folder: Path) -> None:
        self.disk = guest.efi_disk(folder / "efi-disk")
        self.vars = folder / "efi-vars"


@pytest.fixture
def efi(tmp_path: Path) -> Efi:
    return Efi(tmp_path)


def test_a_uefi_machine_without_rescue_boots_its_disk(site: Site, efi: Efi) -> None:
    with VirtualServer(efi.disk, uefi_vars=efi.vars, boot_file=ask_at(site.port)) as server:
        server.wait_for("No rescue mode requested, exiting")
        # OVMF has four network boot entries of its own for the card; without a cable they give up at once.
        server.unplug()
        server.wait_for(guest.DISK_MARKER)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_with_its_cable_in_a_uefi_machine_boots_its_disk_after_the_firmware_has_tried_the_card_in_four_other_ways(
    efi: Efi, record_property: Callable[[str, object], None]
) -> None:
    # DHCP names no boot file: all four wait for one.
    with VirtualServer(efi.disk, uefi_vars=efi.vars) as server:
        server.wait_for(">>Start PXE over IPv4")
        left = time.monotonic()
        server.wait_for(guest.DISK_MARKER, timeout=600)
        took = time.monotonic() - left
    asked = re.findall(">>Start (PXE|HTTP Boot) over (IPv[46])", server.text)
    assert asked == [("PXE", "IPv4"), ("PXE", "IPv6"), ("HTTP Boot", "IPv4"), ("HTTP Boot", "IPv6")]
    record_property("measured", f"OVMF's own network entries, after iPXE has left: {took:.0f} s")


def test_a_uefi_machine_with_rescue_enabled_boots_the_rescue_kernel_with_keys_and_comes_up(
    site: Site, efi: Efi
) -> None:
    site.manage("rescue", "enable", "web01", "--by", "alice")
    with VirtualServer(efi.disk, uefi_vars=efi.vars, boot_file=ask_at(site.port), memory=1024) as server:
        server.wait_for("RESCUE-REPORTED", unless=guest.DISK_MARKER)
    assert re.search(r"RESCUE-CMDLINE .*BOOTIF=01-52-54-00-12-34-56 initrd=initrd initrd=rescue.cpio", server.text)
    assert f"RESCUE-KEYS {KEY}" in server.text
    assert "RESCUE-KEYS-MODE 600 0 700" in server.text
    assert site.rescue()["state"] == "up"


def status_script(folder: Path, site: Site) -> Path:
    """A TFTP folder with a script that asks the site as two machines, and prints the status each answer leaves."""
    folder.mkdir()
    lines = ["#!ipxe"]
    for name, mac in (("local", "52:54:00:00:00:01"), ("refused", "52:54:00:00:00:02")):
        lines += [
            # In iPXE, as in sh, `A && B || C` runs C after B failed only, so each status is a jump.
            f"chain http://{GATEWAY}:{site.port}/boot?{ASK.replace('${mac}', mac)} && goto {name}-zero ||",
            f"echo STATUS {name} ${{rescuesite}} nonzero",
            f"goto {name}-done",
            f":{name}-zero",
            f"echo STATUS {name} ${{rescuesite}} zero",
            f":{name}-done",
        ]
    (folder / "status.ipxe").write_text("\n".join([*lines, "echo STATUS end", "exit 1", ""]))
    return folder


@pytest.fixture
def refusing_site(site: Site) -> Site:
    """A site with a machine, 52:54:00:00:00:02, whose rescue is for another network."""
    site.manage("machine", "add", "web02", "--mac", "52:54:00:00:00:02", "--network", "192.0.2.0/24")
    site.manage("rescue", "enable", "web02")
    return site


def test_on_bios_every_answer_leaves_with_status_zero(refusing_site: Site, disk: Path, tmp_path: Path) -> None:
    tftp = status_script(tmp_path / "tftp", refusing_site)
    with VirtualServer(disk, tftp=tftp, boot_file="status.ipxe") as server:
        server.wait_for("STATUS end")
    found = re.findall(r"STATUS (\w+) (\w+) (\w+)", server.text)
    assert found == [("local", "local", "zero"), ("refused", "refused", "zero")]


def test_on_uefi_every_answer_leaves_with_a_status_that_is_not_zero(
    refusing_site: Site, efi: Efi, tmp_path: Path
) -> None:
    tftp = status_script(tmp_path / "tftp", refusing_site)
    with VirtualServer(efi.disk, uefi_vars=efi.vars, tftp=tftp, boot_file="status.ipxe") as server:
        server.wait_for("STATUS end")
    found = re.findall(r"STATUS (\w+) (\w+) (\w+)", server.text)
    assert found == [("local", "local", "nonzero"), ("refused", "refused", "nonzero")]
