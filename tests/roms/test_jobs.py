"""The life of a job: asked for, claimed once, alive, cancelled, finished, lost."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from machines.models import Actor, AuditEntry
from roms.models import Build, Card, FlashJob, FlashKind, JobState, Station
from roms.models.job import LOST_AFTER
from roms.toolchain.ipxe.script.spec import from_json
from roms.worker import running
from roms.worker.building import BuildRun
from roms.worker.flashing import FlashRun
from roms.worker.running import ClaimedJob, Heartbeat
from roms.worker.worker import Worker, housekeeping
from tests.machines.support import at, noon
from tests.roms.conftest import SCRIPT

ALICE = Actor("alice")


@pytest.fixture
def build(card: Card, data_dir: Path) -> Build:
    return Build.of(from_json(SCRIPT), card=card).submit(ALICE)


class Worked(ClaimedJob[Build]):
    """A run that does what the test says."""

    model = Build
    does: Callable[[ClaimedJob[Build]], None]

    def work(self) -> None:
        type(self).does(self)


def run(build: Build, does: Callable[[ClaimedJob[Build]], None]) -> Build:
    Worked.does = staticmethod(does)
    Worked.claim_and_run(build.pk)
    build.refresh_from_db()
    return build


# Asking for it


def test_a_job_is_queued_with_who_asked_and_an_audit_entry(build: Build) -> None:
    assert (build.state, build.requested_by_name) == (JobState.QUEUED, "alice")
    entry = AuditEntry.objects.get(action="build_requested")
    assert (entry.actor, entry.subject) == ("alice", f"build {build.pk}")
    assert entry.details["card"] == "8086:1229"


def test_a_bad_order_is_refused_and_nothing_is_queued(card: Card) -> None:
    with pytest.raises(ValidationError):
        Build.of(from_json(SCRIPT), card=card, options=["a b"]).submit(ALICE)
    assert not Build.objects.exists()
    assert not AuditEntry.objects.exists()


# Claiming


def test_a_job_is_claimed_once(build: Build) -> None:
    assert build.claim("one")
    assert not Build.objects.get(pk=build.pk).claim("two")
    assert build.worker == "one"


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_at_the_same_moment_one_claims_it(data_dir: Path) -> None:
    card = Card.objects.create(slug="8086:1229", pci_id="8086:1229", name="Intel")
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    start, claimed = threading.Barrier(8), []

    def claim(name: str) -> None:
        try:
            mine = Build.objects.get(pk=build.pk)
            start.wait()
            if mine.claim(name):
                claimed.append(name)
        finally:
            connection.close()

    threads = [threading.Thread(target=claim, args=[f"worker {n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 1
    assert Build.objects.get(pk=build.pk).worker == claimed[0]


def test_a_job_that_was_cancelled_is_not_claimed(build: Build) -> None:
    assert build.cancel(ALICE)
    assert not build.claim("one")
    assert build.state == JobState.CANCELLED


# Working


def test_what_it_was_at_and_how_it_ended_is_stored(build: Build) -> None:
    def work(of: ClaimedJob[Build]) -> None:
        of.phase("compile")
        of.progress(0.4)
        of.say("cc -c main.c")
        of.end(JobState.FAILED, "No.", size=70000)

    run(build, work)
    assert (build.state, build.phase, build.error, build.size) == (JobState.FAILED, "compile", "No.", 70000)
    assert build.finished_at
    assert build.log_from()[0] == "== compile\ncc -c main.c\n"
    entry = AuditEntry.objects.get(action="build_finished")
    assert (entry.outcome, entry.reason) == ("failed", "No.")


def test_an_error_of_ours_is_stored_as_such(build: Build) -> None:
    def work(of: ClaimedJob[Build]) -> None:
        raise RuntimeError("a bug")

    run(build, work)
    assert build.state == JobState.SITE_ERROR
    assert "a bug" in build.error


def test_a_job_is_not_run_twice(build: Build) -> None:
    runs = []

    def work(of: ClaimedJob[Build]) -> None:
        runs.append(1)
        of.end(JobState.CANCELLED)

    run(build, work)
    run(build, work)
    assert runs == [1]


def test_a_running_job_is_asked_to_stop_and_stops_where_it_looks(build: Build) -> None:
    seen = []

    def work(of: ClaimedJob[Build]) -> None:
        seen.append(of.should_stop())
        assert Build.objects.get(pk=build.pk).cancel(Actor("bob"))
        seen.append(of.should_stop())
        of.end(JobState.CANCELLED, of.stop_reason)

    run(build, work)
    assert seen == [False, True]
    assert (build.state, build.cancel_requested_by) == (JobState.CANCELLED, "bob")


def test_a_worker_that_is_told_to_end_asks_its_job_to_stop(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = threading.Event()
    monkeypatch.setattr(running, "shutting_down", ending)
    seen = []

    def work(of: ClaimedJob[Build]) -> None:
        seen.append(of.should_stop())
        ending.set()
        seen.append(of.should_stop())
        of.end(JobState.CANCELLED, of.stop_reason)

    run(build, work)
    assert seen == [False, True]
    assert "worker was stopped" in build.error


def test_a_finished_job_cannot_be_cancelled(build: Build) -> None:
    run(build, lambda of: of.end(JobState.FAILED, "No."))
    assert not build.cancel(ALICE)
    assert build.state == JobState.FAILED


@pytest.mark.django_db(transaction=True)
def test_a_heartbeat_says_that_the_worker_lives(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "HEARTBEAT", timedelta(seconds=0.01))
    card = Card.objects.create(slug="8086:1229", pci_id="8086:1229", name="Intel")
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    build.claim("one")
    beaten = threading.Event()
    beat = build.beat

    def beat_and_tell(**values: object) -> bool:
        done = beat(**values)
        beaten.set()
        return done

    monkeypatch.setattr(build, "beat", beat_and_tell)
    with Heartbeat(build):
        assert beaten.wait(10)
    before = build.heartbeat_at
    build.refresh_from_db()
    assert before
    assert build.heartbeat_at
    assert build.heartbeat_at > before


# Workers that go


def test_a_job_without_a_heartbeat_counts_as_lost_on_reading(build: Build) -> None:
    with at(noon()):
        build.claim("one")
    late = noon() + LOST_AFTER + timedelta(seconds=1)
    assert build.status_at(noon(seconds=10)) == JobState.RUNNING
    assert build.status_at(late) == JobState.LOST
    assert Build.objects.with_status(JobState.LOST, now=late).get() == build
    assert not Build.objects.with_status(JobState.RUNNING, now=late).exists()
    assert not Build.objects.with_status(JobState.LOST, now=noon(seconds=10)).exists()


def test_a_lost_job_is_stored_with_what_to_do(build: Build) -> None:
    with at(noon()):
        build.claim("one")
    with at(noon(minutes=5)):
        housekeeping()
    build.refresh_from_db()
    assert build.state == JobState.LOST
    assert "retry" in build.error
    assert AuditEntry.objects.get(action="build_finished").outcome == "lost"


def test_a_worker_that_was_frozen_stops_once_its_job_was_given_up(build: Build) -> None:
    with at(noon()):
        build.claim("one")
    with at(noon(minutes=5)):
        housekeeping()
        assert build.should_stop()
        assert not build.beat(progress=0.5)


def test_a_worker_that_comes_back_knows_better_how_it_ended(build: Build) -> None:
    with at(noon()):
        build.claim("one")
    with at(noon(minutes=5)):
        housekeeping()
        assert build.finish(JobState.FAILED, "The compiler failed.")
    build.refresh_from_db()
    assert (build.state, build.error) == (JobState.FAILED, "The compiler failed.")


def test_another_worker_cannot_end_it(build: Build) -> None:
    build.claim("one")
    other = Build.objects.get(pk=build.pk)
    other.worker = "two"
    assert not other.finish(JobState.FAILED)


def test_the_job_that_has_waited_for_longest_is_run_next(
    build: Build, card: Card, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash = FlashJob(action=FlashKind.SAVE, card=card, station=station).submit(ALICE)
    later = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    order = []

    def run(job: Build | FlashJob) -> None:
        order.append((job.kind, job.pk))
        job.claim("one")

    monkeypatch.setattr(BuildRun, "claim_and_run", lambda pk: run(Build.objects.get(pk=pk)))
    monkeypatch.setattr(FlashRun, "claim_and_run", lambda pk: run(FlashJob.objects.get(pk=pk)))
    worker = Worker(builds=True, station=station.name)
    while worker.run_next():
        pass
    assert order == [("build", build.pk), ("flash", flash.pk), ("build", later.pk)]


def test_a_worker_runs_the_jobs_of_its_own_station_alone(card: Card, station: Station) -> None:
    other = Station.objects.create(name="other")
    FlashJob(action=FlashKind.SAVE, card=card, station=other).submit(ALICE)
    assert not Worker(builds=True, station=station.name).run_next()
    assert not Worker(builds=True, station=None).run_next()


def test_a_job_whose_worker_went_before_it_claimed_is_found_by_the_next(build: Build) -> None:
    """Nothing but its row says that it waits."""
    assert Build.objects.next_queued() == build
    assert build.claim("one")
    assert Build.objects.next_queued() is None


def test_a_worker_shows_up_at_its_station(db: None) -> None:
    housekeeping("rack-7")
    station = Station.objects.get(name="rack-7")
    assert station.has_worker()
    assert not station.has_worker(timezone.now() + timedelta(minutes=5))


# Logs and pruning


def test_a_log_is_read_on_from_where_it_was_left(build: Build) -> None:
    build.log_path.write_bytes(b"one\ntwo\n")
    text, offset = build.log_from(0)
    assert (text, offset) == ("one\ntwo\n", 8)
    with build.log_path.open("ab") as file:
        file.write(b"three\n")
    assert build.log_from(offset) == ("three\n", 14)
    assert build.log_from(-6) == ("three\n", 14)
    assert build.log_from(99) == ("", 14)


def test_a_character_that_is_half_written_is_read_with_its_other_half(build: Build) -> None:
    build.log_path.write_bytes("a€b".encode()[:-2])
    text, offset = build.log_from(0)
    assert (text, offset) == ("a", 1)
    build.log_path.write_bytes("a€b".encode())
    assert build.log_from(offset) == ("€b", 5)


def test_a_log_drives_no_terminal(build: Build) -> None:
    build.log_path.write_bytes(b"10%\r20%\r\n\x1b[31mred\x07\xff\n")
    assert build.log_from()[0] == "10%\n20%\n[31mred\N{REPLACEMENT CHARACTER}\n"


def test_a_log_that_never_ends_is_cut(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MAX_LOG", 100)

    def work(of: ClaimedJob[Build]) -> None:
        for _ in range(50):
            of.say("warning")
        of.end(JobState.FAILED)

    run(build, work)
    assert build.log_path.stat().st_size < 200
    assert "The log ends here" in build.log_from()[0]


def test_old_jobs_are_pruned_with_their_logs(build: Build) -> None:
    build.log_path.write_bytes(b"log")
    assert Build.objects.prune(timezone.now() + timedelta(days=1)) == 0
    run(build, lambda of: of.end(JobState.FAILED))
    assert Build.objects.prune(build.finished_at) == 0  # type: ignore[arg-type]
    assert Build.objects.prune(timezone.now() + timedelta(days=1)) == 1
    assert not build.log_path.exists()


def test_an_unknown_job_is_nothing_to_run(db: None) -> None:
    Worked.claim_and_run(uuid.uuid4().int % 10**9)
