"""The worker as a process: what it runs, and what is left when it is ended, kindly or not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeSite
from tests.e2e.site import ROOT, Site, children

pytestmark = pytest.mark.e2e

STAND_IN = ROOT / "tests" / "roms" / "stand_in"
#: As large as Debian's ROM needs it.
CHIP = 128 << 10
ROM = Path("/usr/lib/ipxe/qemu/pxe-e1000.rom")


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A site that builds from the stand-in tree; nobody needs its pages here."""
    site = make_site({"RESCUESITE_IPXE_SOURCE": str(STAND_IN)}, start=False)
    site.shell("from roms.models import Card; Card.objects.load_curated()")
    return site


MANAGE = (str(ROOT / "manage.py"),)
#: manage.py where cards are played by a slow chip, in the practice chip's file.
SLOW_CHIP = """
import sys
import django
from django.core.management import execute_from_command_line
django.setup()
from roms.models import Card
from tests.roms.chips import dummy
Card.programmer_at = lambda card, station: dummy(station.practice_chip, "M25P10.RES", freq="1mhz")
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""


@contextmanager
def worker(site: Site, program: Sequence[str] = MANAGE) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py worker`, as make run starts it."""
    log = site.data_dir.with_name("worker.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *program, "worker"],
            cwd=ROOT,
            env=site.environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def job(site: Site, kind: str, pk: int = 1) -> dict[str, Any]:
    found: list[dict[str, Any]] = site.manage("rom", kind, "--json")
    return next(one for one in found if one["id"] == pk)


def until(what: Callable[[], object], timeout: float = 120) -> None:
    """Wait for it; there is nothing to be told by."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.2)


def logged(site: Site, name: str, text: str) -> Callable[[], bool]:
    log = site.data_dir / "job-logs" / name
    return lambda: log.exists() and text in log.read_text(errors="replace")


def state(site: Site, kind: str, pk: int = 1) -> Callable[[], bool]:
    return lambda: bool(job(site, kind, pk)["state"] not in {"queued", "running"})


def order_build(site: Site, *options: str) -> None:
    parts = [part for option in options for part in ("--option", option)]
    site.manage("build_rom", "8086:1229", "--site", "http://192.0.2.10", "--profile", "minimal", *parts, "--json")


def test_what_lies_in_its_queues_is_run(site: Site) -> None:
    order_build(site)
    with worker(site):
        until(state(site, "builds"))
    assert job(site, "builds")["state"] == "succeeded"


def test_of_two_workers_each_job_is_run_by_one(site: Site) -> None:
    for _ in range(6):
        order_build(site)
    with worker(site), worker(site):
        until(lambda: all(one["state"] == "succeeded" for one in site.manage("rom", "builds", "--json")))
    starts = [(site.data_dir / "job-logs" / f"build-{n}.log").read_text().count("== source") for n in range(1, 7)]
    assert starts == [1] * 6
    rows = site.rows("SELECT worker FROM roms_build")
    assert len({row["worker"].split("/")[1] for row in rows}) == 2


def test_a_worker_that_is_told_to_end_stops_its_build_and_says_so(site: Site) -> None:
    order_build(site, "FAULT_HANG")
    with worker(site) as process:
        until(logged(site, "build-1.log", "fault"))
        process.terminate()
        assert process.wait(60) == 0
    ended = job(site, "builds")
    assert ended["state"] == "cancelled"
    assert "worker was stopped" in ended["error"]


def test_a_worker_killed_in_a_build_leaves_no_process_and_a_job_that_is_lost(site: Site) -> None:
    order_build(site, "FAULT_HANG")
    with worker(site) as process:
        until(logged(site, "build-1.log", "fault"))
        descendants = all_descendants(process.pid)
        assert descendants
        process.kill()
        process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in descendants))
    assert job(site, "builds")["state"] == "running"
    let_time_pass(site, "build")
    assert job(site, "builds")["state"] == "lost"
    with worker(site):
        until(lambda: site.rows("SELECT state FROM roms_build")[0]["state"] == "lost")
    assert "retry" in job(site, "builds")["error"].lower()


def test_a_worker_killed_while_it_writes_lets_flashrom_finish_and_the_next_job_succeed(
    site: Site, tmp_path: Path
) -> None:
    chip = site.data_dir / "stations" / "local-practice.bin"
    chip.parent.mkdir(exist_ok=True)
    chip.write_bytes(b"\x55" * CHIP)
    site.shell(
        "from pathlib import Path\nfrom machines.models import StoredFile, Actor\nfrom roms.models import *\n"
        f"rom = StoredFile.objects.store([Path({str(ROM)!r}).read_bytes()])\n"
        "card = Card.objects.create(slug='slow', pci_id='8086:100e', name='slow', programmer='nicintel')\n"
        "build = Build.of('#!ipxe\\nexit 1\\n', card=card, state='succeeded', artifact=rom,"
        " size=rom.size, sha256=rom.sha256)\nbuild.clean()\nbuild.save()\n"
        "station = Station.objects.get_or_create(name='local')[0]\n"
        "for _ in range(2):\n    FlashJob(station=station, card=card, build=build).submit(Actor('alice'))\n"
    )
    with worker(site, ("-c", SLOW_CHIP)) as process:
        until(logged(site, "flash-1.log", "== write"))
        until(lambda: flashroms(process.pid))
        (writing,) = flashroms(process.pid)
        process.kill()
        process.wait()
    assert Path(f"/proc/{writing}").exists(), "flashrom was ended with its worker"
    until(lambda: not Path(f"/proc/{writing}").exists())
    assert chip.read_bytes().startswith(ROM.read_bytes())
    let_time_pass(site, "flashjob")
    lost = job(site, "flashes")
    assert lost["state"] == "lost"
    assert "Do not power off" in lost["error"]
    assert lost["backup_sha256"]
    with worker(site, ("-c", SLOW_CHIP)):
        until(state(site, "flashes", 2))
    assert (job(site, "flashes", 2)["state"], job(site, "flashes", 2)["wrote"]) == ("succeeded", False)


def let_time_pass(site: Site, table: str) -> None:
    """The heartbeat stopped long ago."""
    model = {"build": "Build", "flashjob": "FlashJob"}[table]
    site.shell(
        "from datetime import timedelta\nfrom django.utils import timezone\nfrom roms.models import Build, FlashJob\n"
        f"{model}.objects.filter(state='running').update(heartbeat_at=timezone.now() - timedelta(minutes=5))"
    )


def all_descendants(pid: int) -> list[int]:
    found = []
    for child in children(pid):
        found += [child, *all_descendants(child)]
    return found


def flashroms(pid: int) -> list[int]:
    """The flashrom processes below a process."""
    return [one for one in all_descendants(pid) if name_of(one) == "flashrom"]


def name_of(pid: int) -> str:
    """Of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
