"""Runs one job: claims it, stores heartbeats, progress and the log, and stores its end."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from django.db import Error, close_old_connections, connection

from machines.models.stored_file import chown_to_site_owner
from roms.models.job import HEARTBEAT, Job, JobState, worker_identity

logger = logging.getLogger(__name__)

J = TypeVar("J", bound=Job)

#: The largest size of a log in bytes: endless output of a compiler must not fill the disk.
MAX_LOG = 64 << 20
#: The shortest time between two updates of the progress, in seconds.
_STORED_EVERY = 1.0

#: Set when the worker shuts down: the running job should then stop.
shutting_down = threading.Event()


class ClaimedJob(Generic[J]):
    """Runs one job. Subclasses do the work."""

    model: type[J]

    def __init__(self, job: J) -> None:
        self.job = job
        self._progress: dict[str, Any] = {}
        self._stored_at = 0.0
        self._log_size = 0

    @classmethod
    def claim_and_run(cls, pk: int) -> None:
        """Claim the job and run it. Do nothing if another worker claimed it, or if it was cancelled or deleted."""
        job = cls.model._default_manager.filter(pk=pk).first()
        if job is None or not job.claim(worker_identity()):
            logger.info("%s %s is no longer queued", cls.model.kind, pk)
            return
        run = cls(job)
        with Heartbeat(job):
            run.to_the_end()

    def to_the_end(self) -> None:
        """Do the work, and store the end in any case."""
        log = self.job.log_path
        log.parent.mkdir(mode=0o700, exist_ok=True)
        log.touch(mode=0o600)
        chown_to_site_owner(log)
        try:
            self.work()
        except Exception as error:
            logger.exception("%s %s ended with an error of the site", self.job.kind, self.job.pk)
            self.say(f"Error of the site: {error}")
            self.end(JobState.SITE_ERROR, f"The site failed: {type(error).__name__}: {error}")

    def work(self) -> None:
        """Do the work, and call `end`."""
        raise NotImplementedError

    def end(self, state: JobState, error: str = "", **results: Any) -> None:
        """Store the end of the job. Retry after database errors: nobody else knows the result."""
        results |= {name: value for name, value in self._progress.items() if name != "progress"}
        for pause in (0.5, 1, 2, 4, 8, 16, 30, 30):
            try:
                self.job.finish(state, error, **results)
            except Error:
                logger.exception("cannot store the end of %s %s yet", self.job.kind, self.job.pk)
                connection.close()
                time.sleep(pause)
            else:
                return
        self.say(f"Could not store the end in the database: {state} {error} {results}")

    # Progress

    def phase(self, name: str) -> None:
        self._progress["phase"] = name
        self.say(f"== {name}")
        self._store(at_once=True)

    def progress(self, done: float) -> None:
        self._progress["progress"] = max(0.0, min(1.0, done))
        self._store()

    def overdue(self) -> None:
        self._progress["overdue"] = True
        self._store(at_once=True)

    def results(self, **values: Any) -> None:
        """Remember values to store with the next update."""
        self._progress |= values

    def _store(self, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._stored_at < _STORED_EVERY:
            return
        self._stored_at = time.monotonic()
        self.job.beat(**self._progress)

    def should_stop(self) -> bool:
        """Whether to stop the job. A database error does not stop it."""
        if shutting_down.is_set():
            return True
        try:
            return self.job.should_stop()
        except Error:
            logger.exception("cannot find out whether to stop %s %s", self.job.kind, self.job.pk)
            connection.close()
            return False

    @property
    def stop_reason(self) -> str:
        if shutting_down.is_set():
            return "Cancelled: the worker was stopped. Retry it."
        return "Cancelled."

    def say(self, line: str) -> None:
        self.log(f"{line}\n".encode())

    def log(self, output: bytes) -> None:
        """Append to the log. If the disk is full, the log is lost, but the job continues."""
        if self._log_size > MAX_LOG:
            return
        self._log_size += len(output)
        if self._log_size > MAX_LOG:
            output += b"\n(The log ends here: it is too long.)\n"
        try:
            with self.job.log_path.open("ab") as file:
                file.write(output)
        except OSError as error:
            logger.error("cannot write the log of %s %s: %s", self.job.kind, self.job.pk, error)


class Heartbeat:
    """Stores heartbeats of a job from a separate thread."""

    def __init__(self, job: Job) -> None:
        self._job, self._stop = job, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat of {job.kind} {job.pk}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _beat(self) -> None:
        try:
            while not self._stop.wait(HEARTBEAT.total_seconds()):
                close_old_connections()
                with suppress(Error):
                    self._job.beat()
        finally:
            connection.close()
