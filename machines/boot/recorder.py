"""The boot face's one thread that decides and writes: many requests in one commit.

After a power failure hundreds of machines ask at once, and each answer is to be on disk before it leaves. Threads that
each read and commit would get in each other's way: they take turns at Python's lock, queue for the database's write
lock (SQLite has no fair queue), and wait for the disk one after the other. So they hand their work to this thread; it
prepares what has come in meanwhile, and commits it together.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django.db import close_old_connections, connections, transaction

from machines.boot.deadline import Deadline, DeadlineExceededError, give_back_connection
from machines.models.turns import boot_turn

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: So many pieces of work are committed together at most: others want the write lock as well.
MAX_BATCH = 50
#: The order of work on the rows that all strangers share: after every machine's.
UNKNOWN_CLIENTS = math.inf


@dataclass(frozen=True)
class Prepared(Generic[Result]):
    """What came of the reading: a result, and what is to be written before it counts.

    `order` is the primary key of the machine whose row `write` holds, or UNKNOWN_CLIENTS: what is committed together
    takes its locks in this order, as other processes do.
    """

    result: Result
    write: Callable[[], object] | None = None
    order: float = UNKNOWN_CLIENTS


@dataclass
class _Job:
    prepare: Callable[[], Prepared[Any]]
    deadline: Deadline
    done: threading.Event = field(default_factory=threading.Event)
    prepared: Prepared[Any] | None = None
    #: What became of it; until it is committed, that it was not done in time.
    error: Exception | None = field(default_factory=DeadlineExceededError)


class Recorder:
    """Does work handed over by many threads; a thread of its own is started on first use, in each process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid: int | None = None
        self._starting = threading.Lock()

    def run(self, prepare: Callable[[], Prepared[Result]], deadline: Deadline) -> tuple[Result, Exception | None]:
        """Return the result that `prepare` leads to, and None once what it asks to write is committed.

        Where the writing failed or was too late, its error stands instead of None. Raises what `prepare` raises, or
        DeadlineExceededError when there is no result in time. What is late when its turn comes is not done at all.
        """
        job = _Job(prepare, deadline)
        if deadline.remaining() is None:
            _prepare(job)
            _commit_together([job])
        else:
            self._start()
            self._jobs.put(job)
            job.done.wait(deadline.remaining())
        if job.prepared is None:
            raise job.error or DeadlineExceededError
        return job.prepared.result, job.error if job.done.is_set() else DeadlineExceededError()

    def commit(self, work: Callable[[], object], deadline: Deadline, *, order: float) -> None:
        """Return once what `work` writes is committed. Raises what it raises, or DeadlineExceededError."""
        _, error = self.run(lambda: Prepared(None, work, order), deadline)
        if error:
            raise error

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
                for job in jobs:
                    if job.deadline.remaining():
                        _prepare(job)
                _commit_together(jobs)
                give_back_connection()
            except Exception:
                logger.exception("the boot face goes on after an error")
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


def _prepare(job: _Job) -> None:
    """Read, outside of any transaction. Who has nothing to write need not wait for the others' commit."""
    try:
        job.prepared = job.prepare()
    except Exception as error:
        job.error = error
        job.done.set()
    else:
        if job.prepared.write is None:
            job.error = None
            job.done.set()


def _commit_together(jobs: list[_Job]) -> None:
    """Each job in a savepoint, all in one transaction: an error of one is its own, one of the commit everybody's."""
    writing = [(job, job.prepared.order, job.prepared.write) for job in jobs if job.prepared and job.prepared.write]
    writing.sort(key=lambda work: work[1])
    failed: dict[int, Exception] = {}
    if not writing:
        return
    try:
        with boot_turn(), transaction.atomic():
            for n, (job, _, write) in enumerate(writing):
                try:
                    with transaction.atomic(savepoint=len(writing) > 1):
                        write()
                        job.deadline.check()
                except Exception as error:
                    failed[n] = error
                    if len(writing) == 1:
                        raise
    except Exception as error:
        failed = {n: failed.get(n, error) for n in range(len(writing))}
    for n, (job, _, _) in enumerate(writing):
        job.error = failed.get(n)
        job.done.set()


recorder = Recorder()
