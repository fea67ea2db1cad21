"""The boot face's writer: many requests in one commit, each with its own outcome."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from machines.boot.deadline import Deadline, DeadlineExceededError
from machines.boot.recorder import Recorder
from machines.models import AuditEntry

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A writer of its own, whose thread gives its connection back at the end."""
    recorder = Recorder()
    yield recorder
    recorder.stop()


def write(name: str) -> None:
    AuditEntry.objects.record("test", subject=name)


def written() -> list[str]:
    return sorted(AuditEntry.objects.values_list("subject", flat=True))


def test_work_is_committed_when_commit_returns(recorder: Recorder) -> None:
    recorder.commit(lambda: write("one"), Deadline(10))
    assert written() == ["one"]


def test_the_work_of_many_threads_is_all_committed(recorder: Recorder) -> None:
    with ThreadPoolExecutor(20) as threads:
        names = [f"{n:03}" for n in range(200)]
        list(threads.map(lambda name: recorder.commit(lambda: write(name), Deadline(30)), names))
    assert written() == names


def test_an_error_of_one_is_its_own(recorder: Recorder) -> None:
    gate = threading.Event()

    def fail() -> None:
        write("never")
        raise RuntimeError("its own")

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(recorder.commit, lambda: gate.wait(10) and None, Deadline(10))
        waiting = [threads.submit(recorder.commit, work, Deadline(10)) for work in (fail, lambda: write("good"))]
        gate.set()
        first.result()
        with pytest.raises(RuntimeError, match="its own"):
            waiting[0].result()
        waiting[1].result()
    assert written() == ["good"]


def test_an_error_of_a_lone_piece_of_work_takes_back_what_it_wrote(recorder: Recorder) -> None:
    def fail() -> None:
        write("never")
        raise RuntimeError("alone")

    with pytest.raises(RuntimeError, match="alone"):
        recorder.commit(fail, Deadline(10))
    assert written() == []


def test_who_waits_on_a_writer_that_hangs_is_let_go_in_time_and_its_work_is_not_done_later(recorder: Recorder) -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(recorder.commit, lambda: gate.wait(30) and None, Deadline(30))
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            recorder.commit(lambda: write("late"), Deadline(0.2))
        assert time.monotonic() - started < 5
        gate.set()
        hanging.result()
    recorder.commit(lambda: write("after"), Deadline(10))
    assert written() == ["after"]


def test_work_that_takes_longer_than_its_deadline_is_not_committed(recorder: Recorder) -> None:
    gate = threading.Event()

    def slow() -> None:
        write("slow")
        gate.wait(30)

    with pytest.raises(DeadlineExceededError):
        recorder.commit(slow, Deadline(0.2))
    gate.set()
    recorder.commit(lambda: write("after"), Deadline(10))
    assert written() == ["after"]


def test_without_a_deadline_the_work_is_done_at_once_in_the_callers_thread(recorder: Recorder) -> None:
    threads: list[threading.Thread] = []
    recorder.commit(lambda: threads.append(threading.current_thread()), Deadline(None))
    assert threads == [threading.current_thread()]
