"""Flashing a slow chip from end to end by the real flashrom: what may happen while it takes its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from roms.toolchain.flash.flashing import Flashing, Limits, Phase
from roms.toolchain.flash.station_lock import StationBusyError, holders
from tests.roms.chips import KIB, WORKER, Bench, contents, dummy
from tests.roms.processes import ends, heard, is_freed, worker

pytestmark = pytest.mark.e2e

OLD, NEW = contents(128 * KIB, 1), contents(128 * KIB, 2)
SLOW = {"emulate": "M25P10.RES", "freq": "2mhz"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.chip_with(OLD)
    return bench


def test_a_worker_is_lost_while_a_whole_chip_is_written_and_the_next_one_finds_it_done(bench: Bench) -> None:
    programmer = dummy(bench.image, **SLOW)
    (bench.folder / "wanted").write_bytes(NEW)

    with worker(WORKER, bench.folder, programmer.argument(), "flashrom", bench.folder / "wanted") as process:
        assert heard(process, "Erasing and writing flash chip... ")
        process.kill()
        process.wait()
    (pid,) = holders(bench.lock)
    with pytest.raises(StationBusyError, match=rf"held by flashrom \({pid}\)"):
        bench.flashing(NEW, programmer).run()
    assert ends(pid, within=120)
    assert is_freed(bench.lock)

    result = bench.flashing(NEW, programmer).run()

    assert bench.image.read_bytes() == NEW
    assert not result.wrote
    assert (bench.folder / "shelf.bin").read_bytes() == NEW
    assert bench.listener.phases == [Phase.PROBE, Phase.SAVE]


def test_a_slow_write_is_overdue_once_goes_on_and_is_followed_by_a_restore(bench: Bench) -> None:
    programmer = dummy(bench.image, **SLOW)

    result = bench.flashing(NEW, programmer, limits=Limits(write=2.0)).run()

    assert bench.listener.overdue_calls == 1
    assert result.wrote
    assert bench.image.read_bytes() == NEW

    bench.flashing(bench.listener.shelf.read_bytes(), programmer).run()

    assert bench.image.read_bytes() == OLD


def test_two_stations_flash_at_the_same_time(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    other.chip_with(contents(64 * KIB, 1))
    neighbour: Flashing = other.flashing(contents(64 * KIB, 2))
    begin = bench.listener.phase_started

    def run_the_other(phase: Phase) -> None:
        begin(phase)
        if phase is Phase.SAVE:
            neighbour.run()

    bench.listener.phase_started = run_the_other  # type: ignore[method-assign]
    bench.flashing(NEW, dummy(bench.image, **SLOW)).run()

    assert other.image.read_bytes() == contents(64 * KIB, 2)
    assert bench.image.read_bytes() == NEW
