"""Work that must be done by a certain time, whatever the database does.

A database that is down refuses at once; one that hangs (a frozen server, a disk that does not answer) would hold the
thread that asked. So the work runs in a thread of its own, and whoever needs its result waits no longer than agreed.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from django.db import close_old_connections, connection

Result = TypeVar("Result")

#: Threads that may hang at once before further work has to wait (and then misses its deadline).
THREADS = 16


class DeadlineExceededError(Exception):
    """The work was not done in time; it has been told not to commit what it has not committed."""


class Deadline:
    """A moment on the monotonic clock; `seconds` None never comes."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def check(self) -> None:
        """Raise DeadlineExceededError once the moment has passed: call it last before a commit."""
        if self.remaining() == 0.0:
            raise DeadlineExceededError


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def run_by(deadline: Deadline, work: Callable[[], Result]) -> Result:
    """Return `work()`, or raise DeadlineExceededError when it takes too long. Its own exceptions pass through."""
    if deadline.remaining() is None:
        return work()
    future = _executor().submit(_with_connections, work)
    try:
        return future.result(deadline.remaining())
    except FutureTimeoutError:
        if future.done():
            # The work's own; or it was done at the last moment.
            return future.result()
        future.cancel()
        raise DeadlineExceededError from None


def _executor() -> ThreadPoolExecutor:
    """Made on first use: threads do not survive gunicorn's fork."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="boot")
        return _pool


def give_back_connection() -> None:
    """What Django does at the end of a request, and more: a connection that saw an error is closed.

    The error's traceback may hold cursors in a reference cycle. Were the connection used on, Python's garbage collector
    could free such a cursor in any thread, and wait there for SQLite's lock on the connection, which another thread
    holds while it waits for the database.
    """
    # Before Django's own, which forgets the error.
    if connection.errors_occurred:
        connection.close()
    close_old_connections()


def _with_connections(work: Callable[[], Result]) -> Result:
    """Do for this thread's database connection what Django does around a request."""
    close_old_connections()
    try:
        return work()
    finally:
        give_back_connection()
