"""The whole way of a ROM: built from iPXE's real source, flashed, read back, and booted as the card's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from roms.toolchain.ipxe.script.spec import from_json
from roms.toolchain.ipxe.script.waits import worst_case
from tests.e2e import guest
from tests.e2e.conftest import MakeSite
from tests.e2e.site import Site
from tests.e2e.vm import GATEWAY, VirtualServer

SOURCE = os.environ.get("RESCUESITE_IPXE_SOURCE", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SOURCE, reason="RESCUESITE_IPXE_SOURCE points to no source tree of iPXE"),
    # A first build compiles 900 files.
    pytest.mark.timeout(1200),
]
#: The card that started it all, as QEMU emulates it: PCI 8086:1229.
NIC = "i82559c"
CHIP = 64 << 10


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    site = make_site({"RESCUESITE_IPXE_SOURCE": SOURCE})
    site.shell("from roms.models import Card; Card.objects.load_curated()")
    return site


def work(site: Site) -> None:
    """Run what is in the queues."""
    site.shell(
        "from roms.worker.worker import Worker, housekeeping\nhousekeeping('local')\n"
        "worker = Worker(builds=True, station='local')\nwhile worker.run_next(): pass",
        timeout=900,
    )


def test_a_rom_is_built_flashed_read_back_and_booted_with_every_answer(site: Site, disk: Path) -> None:
    order = ("--site", f"http://{GATEWAY}:{site.port}", "--profile", "minimal", "--tries", "2", "--timeout", "4")
    site.manage("build_rom", "8086:1229", *order, "--json")
    work(site)
    built = site.manage("rom", "builds", "--json")[0]
    assert (built["state"], built["error"]) == ("succeeded", "")
    assert built["fits"] is True

    site.manage(
        "flash_rom", str(built["id"]), "--card", "practice", "--machine", "web01", "--confirm", "web01", "--json"
    )
    work(site)
    flashed = site.manage("rom", "flashes", "--json")[0]
    assert (flashed["state"], flashed["error"], flashed["wrote"]) == ("succeeded", "", True)
    chip = site.data_dir / "stations" / "local-practice.bin"
    assert chip.stat().st_size == CHIP

    with VirtualServer(disk, nic=NIC, rom=chip) as server:
        server.wait_for("No rescue mode requested, exiting")
        left = time.monotonic()
        server.wait_for(guest.DISK_MARKER)
        disk_start = time.monotonic() - left
    site.manage("rescue", "enable", "web01", "--reason", "whole way")
    with VirtualServer(disk, nic=NIC, rom=chip) as server:
        server.wait_for("RESCUE-KERNEL")
    site.manage("rescue", "disable", "web01")
    site.stop()
    with VirtualServer(disk, nic=NIC, rom=chip) as server:
        server.wait_for("Waiting for link-up")
        began = time.monotonic()
        server.wait_for(guest.DISK_MARKER, 300)
        taken = time.monotonic() - began - disk_start
    # What the form shows beside this order.
    assert taken <= worst_case(from_json(built["script"])).no_site
    held = site.manage("rom", "installed", "--json")[0]
    assert (held["machine"], held["build"]) == ("web01", built["id"])
