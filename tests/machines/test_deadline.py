"""Work is done by a certain time, or whoever needs it goes on without."""

import threading
import time
from collections.abc import Iterator

import pytest

from machines.boot.deadline import Deadline, DeadlineExceededError, run_by


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Work that hangs until the test ends."""
    event = threading.Event()
    yield event
    event.set()


def test_work_done_in_time_returns_its_result() -> None:
    assert run_by(Deadline(30), lambda: 42) == 42


def test_work_that_hangs_is_left_behind(release: threading.Event) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        run_by(Deadline(0.05), lambda: release.wait(30))
    assert time.monotonic() - started < 5


def test_other_work_goes_on_while_some_hangs(release: threading.Event) -> None:
    for _ in range(3):
        with pytest.raises(DeadlineExceededError):
            run_by(Deadline(0.01), lambda: release.wait(30))
    assert run_by(Deadline(30), lambda: "done") == "done"


def test_an_error_of_the_work_passes_through() -> None:
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_by(Deadline(30), fail)


def test_a_timeout_of_the_work_itself_passes_through_too() -> None:
    def fail() -> None:
        raise TimeoutError("the disk's")

    with pytest.raises(TimeoutError, match="the disk's"):
        run_by(Deadline(30), fail)


def test_work_with_a_deadline_runs_in_another_thread() -> None:
    assert run_by(Deadline(30), threading.get_ident) != threading.get_ident()


def test_work_without_a_deadline_runs_in_this_thread() -> None:
    assert run_by(Deadline(None), threading.get_ident) == threading.get_ident()


def test_a_deadline_that_never_comes_has_no_remaining_time() -> None:
    deadline = Deadline(None)
    deadline.check()
    assert deadline.remaining() is None


def test_a_deadline_to_come_lets_work_commit() -> None:
    Deadline(30).check()


def test_a_deadline_that_has_passed_forbids_to_commit() -> None:
    with pytest.raises(DeadlineExceededError):
        Deadline(0).check()
