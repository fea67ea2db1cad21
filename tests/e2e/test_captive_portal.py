"""ROMs of every profile against what answers in the site's place: a portal's page, junk that looks like a program."""

from __future__ import annotations

import http.server
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roms.toolchain.ipxe.build import Builder, BuildRequest, Target
from roms.toolchain.ipxe.script.render import render, required_options
from roms.toolchain.ipxe.script.spec import ScriptSpec
from roms.toolchain.ipxe.source import DEFAULT_REF, SourceTree
from tests.e2e import guest
from tests.e2e.vm import GATEWAY, VirtualServer

SOURCE = os.environ.get("RESCUESITE_IPXE_SOURCE", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SOURCE, reason="RESCUESITE_IPXE_SOURCE points to no source tree of iPXE"),
    pytest.mark.timeout(2400),
]

#: ELF for i386 with one segment, loaded at 1 MiB and entered there.
ELF = bytes.fromhex("7f454c46010101000000000000000000 0200 0300 01000000 00001000 34000000 00000000 00000000 3400")
ELF += bytes.fromhex("2000 0100 0000 0000 0000")
ELF += bytes.fromhex("01000000 00000000 00001000 00001000 00010000 00020000 07000000 00100000")
#: Multiboot's magic, flags that give the addresses to load to, and their checksum.
MULTIBOOT = bytes.fromhex("02b0ad1b 00000100 fe4f51e4 00001000 00001000 00000000 00000000 20001000")
NOISE = random.Random(11).randbytes(4096)
ANSWERS = {
    "a page": b"<!DOCTYPE html><html><title>Log in</title><body>Welcome to our network</body></html>\n" * 20,
    "one byte": b"x",
    "noise": NOISE,
    "ELF": ELF + NOISE,
    "Multiboot": MULTIBOOT + NOISE,
    "PXE, a jump": b"\xeb\xfe" + NOISE,
    "a DOS program": b"MZ" + NOISE,
    "COMBOOT": b"\xb8\xff\x4c\xcd\x21" + NOISE,
    "nearly a script": b"\xef\xbb\xbf#!ipxe\nsleep 100000\n",
}


class Portal:
    """Answers each question with the next of the answers, status 200, and the last one from then on."""

    def __init__(self) -> None:
        asked: list[str] = []
        answers = list(ANSWERS.values())
        all_asked = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = answers[min(len(asked), len(answers) - 1)]
                asked.append(self.path)
                if len(asked) == len(answers):
                    all_asked.set()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.asked, self.all_asked = asked, all_asked
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://{GATEWAY}:{self.server.server_port}"


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    with portal.server:
        threading.Thread(target=portal.server.serve_forever, daemon=True).start()
        yield portal
        portal.server.shutdown()


@pytest.fixture
def rom(portal: Portal, tmp_path: Path) -> Callable[[str], Path]:
    """Build the ROM for BIOS and UEFI of a profile, which asks the portal once for each of its answers."""
    builder = Builder(SourceTree(SOURCE, DEFAULT_REF, guest.CACHE / "ipxe"), guest.CACHE / "ipxe")

    def built(profile: str) -> Path:
        spec = ScriptSpec(portal.url, tries=len(ANSWERS))
        options = dict.fromkeys(sorted(required_options(spec)), True)
        script = render(spec).encode()
        request = BuildRequest(Target.COMBINED, script, "8086:100e", profile=profile, options=options, banner=0)
        return builder.build(request, tmp_path).artifact

    return built


@pytest.mark.parametrize(
    "profile",
    ["standard", pytest.param("everything", marks=pytest.mark.soak), pytest.param("minimal", marks=pytest.mark.soak)],
)
def test_a_machine_behind_a_portal_boots_its_disk(
    profile: str, rom: Callable[[str], Path], portal: Portal, disk: Path, tmp_path: Path
) -> None:
    combined = rom(profile)
    with VirtualServer(disk, rom=combined) as server:
        server.wait_for(guest.DISK_MARKER, timeout=180)
        (features,) = re.findall(r"Features: ([\w ]*)", server.text)
    assert not {"PXE", "PXEXT", "ELF", "MBOOT", "NBI", "COMBOOT"} & set(features.split())
    assert len(portal.asked) == len(ANSWERS)

    portal.asked.clear()
    portal.all_asked.clear()
    with VirtualServer(guest.efi_disk(tmp_path / "efi"), rom=combined, uefi_vars=tmp_path / "vars") as server:
        assert portal.all_asked.wait(180), server.text
        # The firmware goes on to its own network entries of the card; without a cable they give up at once.
        server.unplug()
        server.wait_for(guest.DISK_MARKER, timeout=180)
    assert len(portal.asked) == len(ANSWERS)
