"""Writes down what the boot face does: one thread for each process, many requests in one commit.

After a power failure hundreds of machines ask at once, and each answer is to be on disk before it leaves. Threads that
each commit would queue for the database's one write lock (SQLite has no fair queue) and wait for the disk one after the
other; so they hand their writing to this thread, which commits what has come in meanwhile together.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from django.db import close_old_connections, connections, transaction

from machines.boot.deadline import Deadline, DeadlineExceededError

logger = logging.getLogger(__name__)

#: So many pieces of work are committed together at most: others want the write lock as well.
MAX_BATCH = 50
#: The order of work on the rows that all strangers share: after every machine's.
STRANGERS = math.inf


@dataclass
class _Job:
    work: Callable[[], object]
    deadline: Deadline
    order: float
    done: threading.Event = field(default_factory=threading.Event)
    #: What became of it; until it is committed, that it was not done in time.
    error: Exception | None = field(default_factory=DeadlineExceededError)


class Recorder:
    """Commits work handed over by many threads; a thread of its own is started on first use, in each process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid: int | None = None
        self._starting = threading.Lock()

    def commit(self, work: Callable[[], object], deadline: Deadline, *, order: float) -> None:
        """Return once what `work` writes is committed. Raises what it raises, or DeadlineExceededError.

        Work whose deadline passes before it is its turn is not done at all; `work` may run in any thread. `order` is
        the primary key of the machine whose row it holds, or STRANGERS: work that is committed together takes its
        locks in this order, as other processes do.
        """
        if deadline.remaining() is None:
            with transaction.atomic():
                work()
            return
        self._start()
        job = _Job(work, deadline, order)
        self._jobs.put(job)
        if not job.done.wait(deadline.remaining()):
            raise DeadlineExceededError
        if job.error:
            raise job.error

    def stop(self) -> None:
        """End the thread, once what was handed over before is done, and give its database connection back."""
        with self._starting:
            if self._thread and self._pid == os.getpid():
                self._jobs.put(None)
                self._thread.join()
            self._thread = None

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or self._pid != os.getpid():
                # A fork leaves the threads behind.
                self._jobs = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, args=[self._jobs], name="recorder", daemon=True)
                self._thread.start()
                self._pid = os.getpid()

    def _run(self, waiting: queue.SimpleQueue[_Job | None]) -> None:
        while jobs := _next_batch(waiting):
            try:
                close_old_connections()
                _commit_together(sorted((job for job in jobs if job.deadline.remaining()), key=lambda job: job.order))
                close_old_connections()
            except Exception:
                logger.exception("the boot face's writer goes on after an error")
            for job in jobs:
                job.done.set()
        connections.close_all()


def _next_batch(waiting: queue.SimpleQueue[_Job | None]) -> list[_Job]:
    """Wait for a job, and take those along that have come in meanwhile; nothing once the recorder is stopped."""
    jobs: list[_Job] = []
    while job := waiting.get():
        jobs.append(job)
        if len(jobs) == MAX_BATCH or waiting.empty():
            return jobs
    if jobs:
        waiting.put(None)
    return jobs


def _commit_together(jobs: list[_Job]) -> None:
    """Each job in a savepoint, all in one transaction: an error of one is its own, one of the commit everybody's."""
    failed: dict[int, Exception] = {}
    try:
        with transaction.atomic():
            for n, job in enumerate(jobs):
                try:
                    with transaction.atomic():
                        job.work()
                        job.deadline.check()
                except Exception as error:
                    failed[n] = error
    except Exception as error:
        failed = {n: failed.get(n, error) for n in range(len(jobs))}
    for n, job in enumerate(jobs):
        job.error = failed.get(n)


recorder = Recorder()
