"""Firmware × fault: a machine in rescue that meets trouble reaches its disk, or its rescue, in a bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import guest
from tests.e2e.faults import FAULTS, WAYS, Workshop
from tests.e2e.site import Site, free_port
from tests.e2e.vm import VirtualServer

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

#: For each fault and way the verdict, and the seconds from power-on within which it falls: “disk” (the machine boots
#: its disk), “left” (UEFI goes on to its next boot entries; they are its own for the same card, and what they cost is
#: measured in test_boots_uefi.py), “rescue” (its rescue system has reported), “hung” (neither, and a person must go
#: there). A star: in `make test`; the others are in `make soak`. “-”: not to be met there, or not yet run.
TABLE = """
fault             bios stock   bios script  bios own     uefi stock   uefi rom     uefi program
none              rescue 240   rescue 240   rescue 240   rescue 240   rescue 240   rescue 240
site down         disk 180     disk 180     disk 180     left 180     left 180     disk 180
silent at once    -            -            disk 180     -            -            -
silent in script  -            -            disk 180     -            -            -
404               -            -            disk 180     -            -            -
500               -            -            disk 180     -            -            -
503, garbage      -            -            disk 180     -            -            -
503, try again    -            -            disk 180*    -            -            -
captive portal    -            -            disk 180*    -            -            -
binary junk       -            -            disk 180     -            -            -
redirect loop     -            -            disk 180     -            -            -
"""

VERDICTS = {guest.DISK_MARKER: "disk", "RESCUE-REPORTED": "rescue", ">>Start PXE over IPv4": "left"}


def cells() -> Iterator[object]:
    """The table's cells, as parameters."""
    head, *rows = (re.split(r"  +", line.strip()) for line in TABLE.strip().splitlines())
    for fault, *row in rows:
        for way, cell in zip(head[1:], row, strict=True):
            if cell == "-":
                continue
            verdict, seconds = cell.rstrip("*").split()
            marks = [pytest.mark.timeout(int(seconds) + 600), *([] if cell.endswith("*") else [pytest.mark.soak])]
            yield pytest.param(way, fault, verdict, int(seconds), id=f"{way}-{fault}".replace(" ", "_"), marks=marks)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(free_port(), tmp_path_factory.mktemp("roms"))


@pytest.mark.parametrize(("way", "fault", "expected", "bound"), list(cells()))
def test_a_machine_that_meets_a_fault(
    way: str,
    fault: str,
    expected: str,
    bound: int,
    workshop: Workshop,
    site: Site,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    site.manage("rescue", "enable", "web01")
    wrong = FAULTS[fault]
    machine = WAYS[way](workshop, wrong, tmp_path)
    with wrong.on(site, workshop.port):
        started = time.monotonic()
        with machine as server:
            if wrong.during:
                wrong.during(server)
            found = verdict(server, started + bound - time.monotonic())
        took = time.monotonic() - started
    record_property("measured", f"{way:14} {fault:18} {found:7} {took:5.0f} s of {bound}")
    assert found == expected, machine.text


def verdict(server: VirtualServer, bound: float) -> str:
    """What becomes of the machine within so many seconds, by what it prints."""
    try:
        return VERDICTS[server.wait_for("|".join(VERDICTS), bound).group()]
    except AssertionError:
        assert server.runs, server.text
        return "hung"
