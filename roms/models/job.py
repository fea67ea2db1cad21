"""What builds and flash jobs share: the life of a job that a worker runs.

    queued ──claimed──> running ──> succeeded | failed (the tool said no) | errored (we did) | cancelled
                           └── its worker is gone ──> lost

Each change is one conditional update on what the job was, so of two that race one finds itself late. A worker proves
that it lives by a heartbeat; a job whose heartbeat has stopped counts as lost from then on, on reading.
"""

from __future__ import annotations

import os
import secrets
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from django.conf import settings
from django.db import models, transaction
from django.db.models import Case, F, Q, Value, When
from django.utils import timezone

from machines.models import Actor, AuditEntry, Machine

#: A worker's sign of life.
HEARTBEAT = timedelta(seconds=5)
#: Without one for so long its job is lost.
LOST_AFTER = timedelta(seconds=45)


class JobState(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SITE_ERROR = "errored", "Errored"
    CANCELLED = "cancelled"
    LOST = "lost"


#: Those in which nothing happens any more.
FINISHED = (JobState.SUCCEEDED, JobState.FAILED, JobState.SITE_ERROR, JobState.CANCELLED, JobState.LOST)


def worker_identity() -> str:
    """A name for this run of this worker process, which no other has."""
    return f"{socket.gethostname()[:60]}/{os.getpid()}/{secrets.token_hex(6)}"


class JobQuerySet(models.QuerySet[Any]):
    def with_status(self, *states: str, now: datetime | None = None) -> Self:
        """Those whose `Job.status_at` at `now` is one of `states`."""
        given_up = Q(state=JobState.RUNNING, heartbeat_at__lt=(now or timezone.now()) - LOST_AFTER)
        effective = Case(When(given_up, then=Value(JobState.LOST)), default=F("state"), output_field=models.CharField())
        return self.alias(effective=effective).filter(effective__in=states)

    def unfinished(self, now: datetime | None = None) -> Self:
        return self.with_status(JobState.QUEUED, JobState.RUNNING, now=now)

    def next_queued(self) -> Any:
        """The job that has waited for longest; None where none waits."""
        return self.filter(state=JobState.QUEUED).order_by("created_at", "pk").first()

    def settle_lost(self, now: datetime | None = None) -> int:
        """Store as lost the jobs whose workers have gone; returns how many. Nothing depends on it being called."""
        now = now or timezone.now()
        gone = self.filter(state=JobState.RUNNING, heartbeat_at__lt=now - LOST_AFTER)
        return sum(job.settle_lost(now) for job in gone)

    def prune(self, before: datetime) -> int:
        """Remove finished jobs from before a time, with their logs; those that something refers to stay."""
        removed = 0
        for job in self.filter(state__in=FINISHED, finished_at__lt=before):
            log = job.log_path
            try:
                with transaction.atomic():
                    job.delete()
            except models.ProtectedError:
                continue
            log.unlink(missing_ok=True)
            removed += 1
        return removed


class Job(models.Model):
    """One piece of work for a worker, and the record of how it went."""

    state = models.CharField(max_length=9, choices=JobState, default=JobState.QUEUED, editable=False)
    #: What a running job is at, in its own words; empty before and after.
    phase = models.CharField(max_length=20, blank=True, editable=False)
    #: How much is done, of 1.
    progress = models.FloatField(default=0.0, editable=False)
    #: What went wrong and what to do, for a person.
    error = models.TextField(blank=True, editable=False)
    #: It takes longer than it should, and must not be stopped.
    overdue = models.BooleanField(default=False, editable=False)

    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    requested_by_name = models.CharField("requested by", max_length=150, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)

    #: Which worker runs it, and when it last said so.
    worker = models.CharField(max_length=100, blank=True, editable=False)
    heartbeat_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancel_requested_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancel_requested_by = models.CharField(max_length=150, blank=True, editable=False)

    objects: JobQuerySet

    class Meta:
        abstract = True

    #: In audit entries and log names: build, flash.
    kind = "job"
    #: The fields in which somebody says what is to be done.
    INPUT_FIELDS: tuple[str, ...] = ()

    # Reading

    def status_at(self, now: datetime | None = None) -> JobState:
        """The state at `now`: the stored one, unless its worker has gone."""
        stopped = self.heartbeat_at and self.heartbeat_at < (now or timezone.now()) - LOST_AFTER
        if self.state == JobState.RUNNING and stopped:
            return JobState.LOST
        return JobState(self.state)

    @property
    def problem(self) -> str:
        """What went wrong and what to do, for a person."""
        return self.error or (self.lost_message() if self.status_at() == JobState.LOST else "")

    @property
    def is_finished(self) -> bool:
        return self.status_at() in FINISHED

    @property
    def duration(self) -> timedelta | None:
        """How long it has run, or took."""
        if self.started_at is None:
            return None
        return (self.finished_at or self.heartbeat_at or timezone.now()) - self.started_at

    @property
    def log_path(self) -> Path:
        return Path(settings.RESCUESITE_DATA_DIR) / "job-logs" / f"{self.kind}-{self.pk}.log"

    def log_from(self, offset: int = 0, limit: int = 256 << 10) -> tuple[str, int]:
        """The log's text from a byte offset on, at most `limit` bytes, and the offset behind it.

        Without an offset the end of a long log is what is wanted: a negative one counts from there.
        """
        try:
            with self.log_path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = min(size, offset) if offset >= 0 else max(0, size + offset)
                file.seek(start)
                raw = _whole(file.read(limit)) if start < size else b""
        except FileNotFoundError:
            return "", 0
        return readable(raw), start + len(raw)

    # Asking for it

    def again(self) -> Self:
        """A new job of the same order, not submitted."""
        return type(self)(**{name: getattr(self, name) for name in self.INPUT_FIELDS})

    def submit(self, actor: Actor) -> Self:
        """Check and store this new job, which is then queued, with its audit entry. Raises ValidationError."""
        self.requested_by_id = actor.user_pk
        self.requested_by_name = actor.name
        self.full_clean()
        with transaction.atomic():
            self.save(force_insert=True)
            self.record("requested", actor, details=self.snapshot())
        return self

    def snapshot(self) -> dict[str, Any]:
        """The job's order as audit entries show it."""
        return {}

    def record(self, what: str, actor: Actor | None = None, **fields: Any) -> None:
        """Leave an audit entry."""
        entry = {"subject": f"{self.kind} {self.pk}", "machine": self.audit_machine(), **fields}
        AuditEntry.objects.record(f"{self.kind}_{what}", actor=actor, **entry)

    def audit_machine(self) -> Machine | None:
        """Whose timeline the job belongs to."""
        return None

    def cancel(self, actor: Actor) -> bool:
        """Cancel a queued job at once, or ask the worker of a running one to; False where it is finished."""
        now = timezone.now()
        with transaction.atomic():
            waiting = self.change(
                Q(state=JobState.QUEUED),
                state=JobState.CANCELLED,
                finished_at=now,
                cancel_requested_at=now,
                cancel_requested_by=actor.name,
                error="Cancelled before it began.",
            )
            asked = waiting or self.change(
                Q(state=JobState.RUNNING), cancel_requested_at=now, cancel_requested_by=actor.name
            )
            if asked:
                self.record("cancel_requested", actor)
        self.refresh_from_db()
        return asked

    # What workers do

    def claim(self, worker: str) -> bool:
        """Begin to run this job; False where another worker has, or it was cancelled."""
        now = timezone.now()
        claimed = self.change(
            Q(state=JobState.QUEUED), state=JobState.RUNNING, worker=worker, started_at=now, heartbeat_at=now
        )
        if claimed:
            self.refresh_from_db()
        return claimed

    def beat(self, **progress: Any) -> bool:
        """Say that this job's worker lives, and how far it is; False where the job is not this worker's any more."""
        return self.change(self.mine(), heartbeat_at=timezone.now(), **progress)

    def should_stop(self) -> bool:
        """Whether somebody asked to cancel, or the job is not this worker's any more."""
        row = self._rows().filter(self.mine()).values_list("cancel_requested_at").first()
        return row is None or row[0] is not None

    def finish(self, state: JobState, error: str = "", **results: Any) -> bool:
        """Store how it ended. A worker that was taken for gone and comes back knows better than whoever gave it up."""
        now = timezone.now()
        with transaction.atomic():
            finished = self.change(
                Q(worker=self.worker, state__in=[JobState.RUNNING, JobState.LOST]),
                state=state,
                error=error,
                finished_at=now,
                heartbeat_at=now,
                overdue=False,
                **({"progress": 1.0} if state == JobState.SUCCEEDED else {}),
                **results,
            )
            if finished:
                self.refresh_from_db()
                self.record("finished", outcome=state, reason=error[:500])
                self.after_finish()
        return finished

    def after_finish(self) -> None:
        """What else changes, in the same transaction, once the job has its end."""

    def settle_lost(self, now: datetime) -> bool:
        """Store that this job's worker has gone."""
        with transaction.atomic():
            lost = self.change(
                Q(state=JobState.RUNNING, worker=self.worker, heartbeat_at__lt=now - LOST_AFTER),
                state=JobState.LOST,
                finished_at=now,
                error=self.lost_message(),
            )
            if lost:
                self.refresh_from_db()
                self.record("finished", outcome=JobState.LOST, reason=self.error[:500])
        return lost

    def lost_message(self) -> str:
        """What to do where the worker has gone, for a person."""
        return "Its worker has gone while it ran. Look at the log, then retry."

    @staticmethod
    def not_cancelled() -> Q:
        """Nobody has asked to cancel it."""
        return Q(cancel_requested_at__isnull=True)

    def mine(self) -> Q:
        return Q(state=JobState.RUNNING, worker=self.worker)

    def _rows(self) -> models.QuerySet[Any]:
        return type(self)._default_manager.filter(pk=self.pk)

    def change(self, condition: Q, **values: Any) -> bool:
        """One conditional update; False where the condition holds no more."""
        return self._rows().filter(condition).update(**values) > 0


def _whole(raw: bytes) -> bytes:
    """Without the beginning of a character, or of a line's end, whose rest is still to come."""
    for length in range(1, min(4, len(raw)) + 1):
        lead = raw[-length]
        if lead & 0xC0 == 0x80:
            continue
        expected = 2 if lead >> 5 == 0b110 else 3 if lead >> 4 == 0b1110 else 4 if lead >> 3 == 0b11110 else 1
        if length < expected and length < len(raw):
            raw = raw[:-length]
        break
    return raw[:-1] if raw.endswith(b"\r") and len(raw) > 1 else raw


def readable(raw: bytes) -> str:
    """A program's output as text: what overwrites a line or drives a terminal is left out."""
    text = raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or c.isprintable())
