"""One job in a worker: claimed once, a heartbeat while it lives, its log, its end."""

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

#: A log is cut here: a compiler that warns for ever must not fill the disk. In bytes.
MAX_LOG = 64 << 20
#: Progress is stored so often at most, in seconds.
_STORED_EVERY = 1.0

#: The worker asks its jobs to stop where it is told to end itself.
shutting_down = threading.Event()


class ClaimedJob(Generic[J]):
    """The work on one job. Subclasses say what it is."""

    model: type[J]

    def __init__(self, job: J) -> None:
        self.job = job
        self._progress: dict[str, Any] = {}
        self._stored_at = 0.0
        self._log_size = 0

    @classmethod
    def claim_and_run(cls, pk: int) -> None:
        """Claim the job and run it to its end. Nothing happens where it was claimed or cancelled, or is gone."""
        job = cls.model._default_manager.filter(pk=pk).first()
        if job is None or not job.claim(worker_identity()):
            logger.info("%s %s is not waiting any more", cls.model.kind, pk)
            return
        run = cls(job)
        with Heartbeat(job):
            run.to_the_end()

    def to_the_end(self) -> None:
        """Work, and store how it ended, whatever happens."""
        log = self.job.log_path
        log.parent.mkdir(mode=0o700, exist_ok=True)
        log.touch(mode=0o600)
        chown_to_site_owner(log)
        try:
            self.work()
        except Exception as error:
            logger.exception("%s %s ended in an error of ours", self.job.kind, self.job.pk)
            self.say(f"An error of the site: {error}")
            self.end(JobState.SITE_ERROR, f"The site made an error: {type(error).__name__}: {error}")

    def work(self) -> None:
        """Do it, and call `end`."""
        raise NotImplementedError

    def end(self, state: JobState, error: str = "", **results: Any) -> None:
        """Store how the job ended; insisting, as nobody else knows."""
        results |= {name: value for name, value in self._progress.items() if name != "progress"}
        for pause in (0.5, 1, 2, 4, 8, 16, 30, 30):
            try:
                self.job.finish(state, error, **results)
            except Error:
                logger.exception("how %s %s ended cannot be stored yet", self.job.kind, self.job.pk)
                connection.close()
                time.sleep(pause)
            else:
                return
        self.say(f"The end could not be stored in the database: {state} {error} {results}")

    # What it tells meanwhile

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

    def _store(self, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._stored_at < _STORED_EVERY:
            return
        self._stored_at = time.monotonic()
        self.job.beat(**self._progress)

    def should_stop(self) -> bool:
        """Whether to stop. A database that does not answer is no reason to."""
        if shutting_down.is_set():
            return True
        try:
            return self.job.should_stop()
        except Error:
            logger.exception("whether to stop %s %s is not known", self.job.kind, self.job.pk)
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
        """Append to the log; a full disk costs the log, not the job."""
        if self._log_size > MAX_LOG:
            return
        self._log_size += len(output)
        if self._log_size > MAX_LOG:
            output += b"\n(The log is cut off here.)\n"
        try:
            with self.job.log_path.open("ab") as file:
                file.write(output)
        except OSError as error:
            logger.error("the log of %s %s cannot be written: %s", self.job.kind, self.job.pk, error)


class Heartbeat:
    """Says that the job's worker lives, from a thread of its own, whatever the worker waits for."""

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
