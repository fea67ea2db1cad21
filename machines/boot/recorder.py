"""The boot endpoints' one thread that reads, decides and writes: many requests at once, in one commit.

After a power failure hundreds of machines ask at once, and each answer is to be on disk before it leaves. Threads that
each read and commit would get in each other's way: they take turns at Python's lock, queue for the database's write
lock (SQLite has no fair queue), and wait for the disk one after the other. So they hand their work to this thread. It
takes what has come in meanwhile: reads for all of it, decides each, and commits all of it together.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, OperationalError, close_old_connections, connections, transaction

from machines.boot.deadline import Deadline, DeadlineExceededError, give_back_connection
from machines.boot.reasons import Outcome
from machines.models import Machine
from machines.models.turns import boot_turn

if TYPE_CHECKING:
    from machines.boot.handler import Answer
    from machines.boot.request import BootRequest

logger = logging.getLogger(__name__)

#: So many pieces of work are committed together at most: others want the write lock as well.
MAX_BATCH = 256
#: How often a decision is made anew because the rescue changed between reading and writing.
_ATTEMPTS = 5
#: What the database has against all of a transaction, and would have against each part of it.
_EVERYBODYS = (OperationalError, InterfaceError)


class Job:
    """Something to be written; whoever waits for it is told when it is."""

    #: The key of the machine whose row it needs, if any.
    machine: int | None = None
    #: What it was decided by changed before it could be written.
    has_changed = False

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.done = threading.Event()
        self._error: Exception | None = None

    @property
    def is_late(self) -> bool:
        return self.deadline.remaining() == 0.0

    @property
    def error(self) -> Exception | None:
        """Why it is not written; None where it is, or where there is nothing to write."""
        return self._error if self.done.is_set() else DeadlineExceededError()

    def finish(self, error: Exception | None = None) -> None:
        self._error = error
        self.done.set()


class Work(Job):
    """A piece of work of its own: an error of it is nobody else's."""

    def __init__(self, write: Callable[[], object], deadline: Deadline, machine: int | None) -> None:
        super().__init__(deadline)
        self.write, self.machine = write, machine
        self.own_error: Exception | None = None


class Asked(Job):
    """A boot request, and its answer once somebody has decided."""

    def __init__(self, request: BootRequest, deadline: Deadline) -> None:
        super().__init__(deadline)
        self.request = request
        self.answer: Answer | None = None
        #: The version of the rescue that the answer was decided by.
        self.version: int | None = None
        #: How many requests of unknown clients are to be counted with it; None: nobody has asked yet.
        self.count: int | None = None


class Recorder:
    """Does work handed over by many threads; a thread of its own is started on first use, in each process.

    `decide` answers many requests; those with nothing to write it finishes. `record` writes what came of them, in a
    transaction that holds the rows of their machines, as far as these are still there.
    """

    def __init__(
        self,
        decide: Callable[[Sequence[Asked]], object] = lambda asked: None,
        record: Callable[[Sequence[Asked], set[int]], object] = lambda asked, there: None,
    ) -> None:
        self._decide, self._record = decide, record
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid: int | None = None
        self._starting = threading.Lock()

    def run(self, job: Job) -> None:
        """Return once the job is finished, or its deadline has passed. What is late when its turn comes is not done."""
        if job.deadline.remaining() is None:
            self.do([job])
        else:
            self._start()
            self._jobs.put(job)
            job.done.wait(job.deadline.remaining())

    def commit(self, write: Callable[[], object], deadline: Deadline, *, machine: int | None = None) -> None:
        """Return once what `write` writes is committed. Raises what it raises, or DeadlineExceededError."""
        job = Work(write, deadline, machine)
        self.run(job)
        if error := job.error:
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

    def _run(self, waiting: queue.SimpleQueue[Job | None]) -> None:
        while jobs := _next_batch(waiting):
            try:
                close_old_connections()
                self.do(jobs)
                give_back_connection()
            except Exception as error:
                logger.exception("the recorder goes on after an error")
                _finish(jobs, error)
        connections.close_all()

    def do(self, jobs: Sequence[Job]) -> None:
        """Decide and commit, without those that become late meanwhile; what has changed meanwhile is decided anew."""
        for attempt in range(_ATTEMPTS):
            jobs = [job for job in jobs if not (job.done.is_set() or job.is_late)]
            if not jobs:
                return
            try:
                if attempt == 0:
                    # Whoever has nothing to write need not wait for the others' commit.
                    self._decide([job for job in jobs if isinstance(job, Asked)])
                    jobs = [job for job in jobs if not job.done.is_set()]
                if jobs:
                    self._commit(jobs, anew=attempt > 0)
            except DeadlineExceededError:
                continue
            except Exception as error:
                if len(jobs) == 1 or isinstance(error, _EVERYBODYS):
                    _finish(jobs, error)
                    return
                # Somebody's own: it is not to be the others'.
                for job in jobs:
                    self.do([job])
                return
        _finish(jobs, DatabaseError("the rescue changed each time it was read"))

    def _commit(self, jobs: Sequence[Job], *, anew: bool) -> None:
        """Write all in one transaction, and finish what is written. Raises the errors that are not one piece's own.

        `anew`: decide once more, now that nobody else can change what these machines are told.
        """
        asked = [job for job in jobs if isinstance(job, Asked)]
        works = [job for job in jobs if isinstance(job, Work)]
        for job in jobs:
            job.has_changed = False
        with boot_turn(), transaction.atomic():
            # All rows at first, in one order: so other processes take them too.
            there = Machine.objects.lock_all({job.machine for job in jobs if job.machine is not None})
            if anew:
                self._decide(asked)
            for work in works:
                work.own_error = None
                try:
                    with transaction.atomic(savepoint=len(jobs) > 1):
                        work.write()
                        work.deadline.check()
                except Exception as error:
                    work.own_error = error
                    if len(jobs) == 1:
                        raise
            self._record([one for one in asked if not one.done.is_set()], there)
            for one in asked:
                # The disk was booted by whoever got no answer in time.
                if one.answer and one.answer.outcome is Outcome.RESCUE:
                    one.deadline.check()
        for job in jobs:
            if not (job.has_changed or job.done.is_set()):
                job.finish(job.own_error if isinstance(job, Work) else None)


def _finish(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.is_set():
            job.finish(error)


def _next_batch(waiting: queue.SimpleQueue[Job | None]) -> list[Job]:
    """Wait for a job, and take those along that have come in meanwhile; nothing once the recorder is stopped."""
    jobs: list[Job] = []
    while job := waiting.get():
        jobs.append(job)
        if len(jobs) == MAX_BATCH or waiting.empty():
            return jobs
    if jobs:
        waiting.put(None)
    return jobs
