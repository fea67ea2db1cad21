"""A flash that goes wrong: saving, comparing, cancelling, locks, a worker that is killed."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import NoReturn

import pytest

from roms.toolchain.flash import flashing
from roms.toolchain.flash.flashing import (
    ChipState,
    FlashFailedError,
    Limits,
    Phase,
    Refusal,
    RefusedError,
    StoppedError,
)
from roms.toolchain.flash.programmers import PracticeChip
from roms.toolchain.flash.station_lock import StationBusyError, holders, station_lock
from roms.toolchain.runner import Stopped
from tests.roms.chip_flashing import ALL, NEW, NEW_128, OLD, OLD_128, bench, sha256
from tests.roms.chips import KIB, WORKER, Bench, dummy
from tests.roms.processes import ends, heard, is_freed, is_locked, worker

__all__ = ["bench"]


#: Reading this takes minutes.
STUCK = {"emulate": "M25P10.RES", "freq": "10khz"}


# Nothing is written that is not saved


def untouched(bench: Bench, old: bytes = OLD) -> bool:
    return bench.image.read_bytes() == old and Phase.WRITE not in bench.listener.phases


def test_a_backup_that_is_not_stored_stops_the_flash(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chip_with(OLD)

    def fail(*_: object) -> NoReturn:
        raise OSError("the shelf broke")

    monkeypatch.setattr(bench.listener, "store_backup", fail)

    with pytest.raises(OSError, match="the shelf broke"):
        bench.flashing(NEW).run()

    assert untouched(bench)
    assert not is_locked(bench.lock)


def test_a_listener_that_does_not_store_stops_the_flash(bench: Bench) -> None:
    bench.chip_with(OLD)

    with pytest.raises(NotImplementedError):
        bench.flashing(NEW, listener=flashing.Listener()).run()

    assert bench.image.read_bytes() == OLD


def test_two_reads_that_differ_stop_the_flash(bench: Bench) -> None:
    bench.chip_with(OLD)
    program = bench.program(
        'flashrom "$@" || exit\ncase "$*" in *again.bin) printf XY | dd of="$6" bs=1 seek=9 conv=notrunc;; esac'
    )

    with pytest.raises(RefusedError, match="Two reads of the chip differ in 2 of 65536 bytes") as refused:
        bench.flashing(NEW, program=program).run()

    assert refused.value.refusal is Refusal.READS_DIFFER
    assert untouched(bench)
    assert not bench.listener.stored


def test_a_disk_that_fills_while_saving_stops_the_flash(bench: Bench) -> None:
    bench.chip_with(OLD)
    program = bench.program('[ "$5" != -r ] || exec flashrom "$1" "$2" "$3" "$4" -r /dev/full\nexec flashrom "$@"')

    with pytest.raises(RefusedError, match=r"could not be saved\. .* Free some space on the disk") as refused:
        bench.flashing(NEW, program=program).run()

    assert refused.value.refusal is Refusal.UNSAVED
    assert untouched(bench)


def test_a_disk_without_room_stops_the_flash(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chip_with(OLD)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, (1 << 30) - (1 << 20), 1 << 20))

    with pytest.raises(RefusedError, match="has only 1 MB free") as refused:
        bench.flashing(NEW).run()

    assert refused.value.refusal is Refusal.UNSAVED
    assert b"Reading" not in bench.listener.text


def test_a_read_that_is_too_short_stops_the_flash(bench: Bench) -> None:
    bench.chip_with(OLD)
    program = bench.program('flashrom "$@" || exit\n[ "$5" != -r ] || truncate -s 1000 "$6"')

    with pytest.raises(RefusedError, match="read 1000 bytes from a chip of 65536") as refused:
        bench.flashing(NEW, program=program).run()

    assert refused.value.refusal is Refusal.UNSAVED
    assert untouched(bench)


def test_a_file_left_by_an_earlier_try_is_no_backup(bench: Bench) -> None:
    bench.chip_with(OLD)
    (bench.folder / "work" / "old.bin").write_bytes(NEW)
    (bench.folder / "work" / "old-again.bin").write_bytes(NEW)
    program = bench.program('[ "$5" != -r ] || exit 0\nexec flashrom "$@"')

    with pytest.raises(FileNotFoundError):
        bench.flashing(NEW, program=program).run()

    assert untouched(bench)


def test_the_last_word_before_the_write_can_still_stop_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chip_with(OLD)

    def begin(phase: Phase) -> None:
        if phase is Phase.WRITE:
            raise RuntimeError("the job was taken away")

    monkeypatch.setattr(bench.listener, "phase_started", begin)

    with pytest.raises(RuntimeError, match="taken away"):
        bench.flashing(NEW).run()

    assert bench.image.read_bytes() == OLD


# After the write


def test_a_failed_write_that_changed_nothing_says_so(bench: Bench) -> None:
    bench.chip_with(b"\xff" * 128 * KIB)

    with pytest.raises(FlashFailedError, match="still holds the old contents") as failed:
        bench.flashing(NEW_128, dummy(bench.image, "M25P10.RES", spi_blacklist="02")).run()

    assert (failed.value.state, failed.value.phase) == (ChipState.UNCHANGED, Phase.WRITE)
    assert "Retry the flash, or restore" in str(failed.value)


def test_a_failed_write_that_changed_something_says_not_to_power_off(bench: Bench) -> None:
    bench.chip_with(OLD_128)

    with pytest.raises(FlashFailedError, match=r"Do not power off .* Retry the flash, or restore") as failed:
        bench.flashing(NEW_128, dummy(bench.image, "M25P10.RES", spi_blacklist="02")).run()

    assert (failed.value.state, failed.value.phase) == (ChipState.UNKNOWN, Phase.WRITE)
    assert bench.listener.phases == ALL
    assert bench.listener.shelf.read_bytes() == OLD_128


def test_a_failed_verification_of_flashroms_says_not_to_power_off(bench: Bench) -> None:
    bench.chip_with(OLD_128)

    with pytest.raises(FlashFailedError, match=r"read back other contents than it wrote\. Do not power off") as failed:
        bench.flashing(NEW_128, dummy(bench.image, "M25P10.RES", spi_ignorelist="02")).run()

    assert failed.value.state is ChipState.UNKNOWN


def test_success_that_flashrom_only_claims_is_a_failure(bench: Bench) -> None:
    """The dummy says VERIFIED and 0 where it cannot keep its contents: its file's folder does not exist."""
    with pytest.raises(FlashFailedError, match="reported success, but the chip has other contents") as failed:
        bench.flashing(NEW, dummy(bench.folder / "none" / "chip.bin")).run()

    assert b"VERIFIED" in bench.listener.text
    assert (failed.value.state, failed.value.phase) == (ChipState.UNCHANGED, Phase.VERIFY)


def test_contents_that_arrived_do_not_make_a_failed_run_a_success(bench: Bench) -> None:
    bench.chip_with(OLD)
    program = bench.program('flashrom "$@"\n[ "$5" != -w ] || exit 3')

    with pytest.raises(FlashFailedError, match="However, the chip has the new contents") as failed:
        bench.flashing(NEW, program=program).run()

    assert failed.value.state is ChipState.AS_WANTED


def test_a_chip_that_cannot_be_read_back_is_in_an_unknown_state(bench: Bench) -> None:
    bench.chip_with(OLD)
    program = bench.program('case "$*" in *new.bin) exec sleep 1000;; *wanted.bin) exit;; esac\nexec flashrom "$@"')

    with pytest.raises(FlashFailedError, match=r"cannot be read\. Do not power off") as failed:
        bench.flashing(NEW, program=program, limits=Limits(verify=0.3)).run()

    assert failed.value.state is ChipState.UNKNOWN


def test_a_flashrom_that_is_killed_while_writing_is_a_failed_write(bench: Bench) -> None:
    bench.chip_with(OLD)
    program = bench.program('[ "$5" != -w ] || kill -9 $$\nexec flashrom "$@"')

    with pytest.raises(FlashFailedError, match="Signal 9 killed flashrom") as failed:
        bench.flashing(NEW, program=program).run()

    assert failed.value.state is ChipState.UNCHANGED


def test_a_listener_that_fails_during_the_write_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chip_with(OLD)

    def fail(*_: object) -> NoReturn:
        raise RuntimeError("the database is down")

    def begin(phase: Phase) -> None:
        if phase is Phase.WRITE:
            for name in ("log", "should_stop", "overdue", "progress", "phase_started"):
                monkeypatch.setattr(bench.listener, name, fail)

    monkeypatch.setattr(bench.listener, "phase_started", begin)

    result = bench.flashing(NEW).run()

    assert result.verified_sha256 == sha256(NEW)
    assert bench.image.read_bytes() == NEW


# Cancelling and time-outs

HANGING_PROBE = 'case "$*" in *--flash-size) echo hanging; exec sleep 1000;; esac\nexec flashrom "$@"'


def test_cancelling_ends_a_probe(bench: Bench) -> None:
    bench.chip_with(OLD)
    bench.listener.stop_at = b"hanging"

    with pytest.raises(StoppedError, match="Cancelled in phase probe") as stopped:
        bench.flashing(NEW, program=bench.program(HANGING_PROBE)).run()

    assert (stopped.value.phase, stopped.value.stopped) == (Phase.PROBE, Stopped.CANCELLED)
    assert untouched(bench)
    assert not is_locked(bench.lock)


def test_a_probe_that_hangs_is_ended_in_time(bench: Bench) -> None:
    bench.chip_with(OLD)

    with pytest.raises(StoppedError, match="took too long in phase probe") as stopped:
        bench.flashing(NEW, program=bench.program(HANGING_PROBE), limits=Limits(probe=0.3)).run()

    assert stopped.value.stopped is Stopped.TIMED_OUT
    assert not is_locked(bench.lock)


def test_cancelling_ends_a_read(bench: Bench) -> None:
    bench.chip_with(OLD_128)
    bench.listener.stop_at = b"Reading flash... "

    with pytest.raises(StoppedError, match="Cancelled in phase save"):
        bench.flashing(NEW_128, dummy(bench.image, **STUCK)).run()

    assert untouched(bench, OLD_128)
    assert not bench.listener.stored
    assert not is_locked(bench.lock)


def test_a_read_that_hangs_is_ended_in_time(bench: Bench) -> None:
    bench.chip_with(OLD_128)

    with pytest.raises(StoppedError, match="took too long in phase save"):
        bench.flashing(NEW_128, dummy(bench.image, **STUCK), limits=Limits(save=0.5)).run()

    assert untouched(bench, OLD_128)


def test_cancelling_before_it_begins_runs_nothing(bench: Bench) -> None:
    bench.listener.stop_at = b""

    with pytest.raises(StoppedError, match="Cancelled in phase probe"):
        bench.flashing(NEW, program="/no/flashrom").run()


def test_cancelling_while_the_backup_is_stored_writes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chip_with(OLD)
    monkeypatch.setattr(bench.listener, "store_backup", lambda *_: setattr(bench.listener, "stop_at", b""))

    with pytest.raises(StoppedError):
        bench.flashing(NEW).run()

    assert untouched(bench)


def test_cancelling_does_not_stop_a_write_but_makes_it_overdue(bench: Bench) -> None:
    bench.chip_with(OLD_128)
    bench.listener.stop_at = b"Erasing and writing"

    result = bench.flashing(NEW_128, dummy(bench.image, "M25P10.RES", freq="8mhz")).run()

    assert result.verified_sha256 == sha256(NEW_128)
    assert bench.image.read_bytes() == NEW_128
    assert bench.listener.overdue_calls == 1


def test_a_write_that_takes_too_long_is_overdue_and_goes_on(bench: Bench) -> None:
    bench.chip_with(OLD)

    result = bench.flashing(NEW, limits=Limits(write=0.2)).run()

    assert result.verified_sha256 == sha256(NEW)
    assert bench.listener.overdue_calls == 1


# The station's lock


def test_a_station_flashes_one_card_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chip_with(OLD)
    refused: list[StationBusyError] = []

    def begin(phase: Phase) -> None:
        with pytest.raises(StationBusyError) as busy:
            bench.flashing(NEW, label="job 8", program="/no").run()
        refused.append(busy.value)

    monkeypatch.setattr(bench.listener, "phase_started", begin)

    bench.flashing(None, label="job 7").run()

    assert len(refused) == 2
    assert all(f"({os.getpid()})" in str(busy) for busy in refused)
    assert "(job 7; since 20" in str(refused[0])
    assert not is_locked(bench.lock)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"since": 5, "label": null}', '{"since": "x", "label": "y"}'])
def test_a_lock_that_tells_nothing_is_a_lock_all_the_same(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "lock"

    with station_lock(lock):
        lock.write_text(text)
        with pytest.raises(StationBusyError, match="Another flash job runs on this station"), station_lock(lock):
            pytest.fail("the lock is held")


def test_a_lock_tells_whose_it_is(tmp_path: Path) -> None:
    with station_lock(tmp_path / "lock", "job 7"):
        assert json.loads((tmp_path / "lock").read_text())["label"] == "job 7"
        assert list(holders(tmp_path / "lock")) == [os.getpid()]
    assert holders(tmp_path / "lock") == {}


# A worker that is killed with -9


def killed(bench: Bench, programmer: PracticeChip, program: str, wanted: bytes, at: str) -> dict[int, str]:
    """Let a worker begin, kill it when it prints this, and tell who held the lock then."""
    (bench.folder / "wanted").write_bytes(wanted)
    with worker(WORKER, bench.folder, programmer.argument(), program, bench.folder / "wanted") as process:
        assert heard(process, at)
        held_by = holders(bench.lock)
        process.kill()
        process.wait()
    del held_by[process.pid]
    return held_by


def test_a_probe_dies_with_its_worker(bench: Bench) -> None:
    bench.chip_with(OLD)

    left = killed(bench, dummy(bench.image), bench.program(HANGING_PROBE), NEW, at="hanging")

    assert "sleep" in left.values()
    assert all(ends(pid) for pid in left)
    assert is_freed(bench.lock)


def test_a_read_dies_with_its_worker_and_nothing_is_stored(bench: Bench) -> None:
    bench.chip_with(OLD_128)

    left = killed(bench, dummy(bench.image, **STUCK), "flashrom", NEW_128, at="Reading flash... ")

    assert "flashrom" in left.values()
    assert all(ends(pid) for pid in left)
    assert is_freed(bench.lock)
    assert not (bench.folder / "shelf.bin").exists()
    assert bench.image.read_bytes() == OLD_128


def test_a_write_outlives_its_worker_and_keeps_the_station(bench: Bench) -> None:
    bench.chip_with(OLD_128)
    programmer = dummy(bench.image, "M25P10.RES", freq="8mhz")

    left = killed(bench, programmer, "flashrom", NEW_128, at="Erasing and writing flash chip... ")

    assert list(left.values()) == ["flashrom"]
    with pytest.raises(StationBusyError, match=r"job 7; .*held by flashrom \(") as busy:
        bench.flashing(OLD_128, programmer).run()
    assert all(f"({pid})" in str(busy.value) for pid in left)

    assert all(ends(pid) for pid in left)
    assert is_freed(bench.lock)
    assert bench.image.read_bytes() == NEW_128
    assert b"VERIFIED." in (bench.folder / "work" / "write.log").read_bytes()
    assert (bench.folder / "shelf.bin").read_bytes() == OLD_128


def test_a_verification_dies_with_its_worker(bench: Bench) -> None:
    bench.chip_with(OLD)
    hanging = 'case "$*" in *new.bin) echo hanging; exec sleep 1000;; esac'
    program = bench.program(f'{hanging}\nexec flashrom "$@"')

    left = killed(bench, dummy(bench.image), program, NEW, at="hanging")

    assert all(ends(pid) for pid in left)
    assert is_freed(bench.lock)
    assert bench.image.read_bytes() == NEW
