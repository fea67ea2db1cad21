"""The base of builds and flash jobs: the states of a job that a worker runs.

    queued ──claimed──> running ──> succeeded | failed (the tool failed) | errored (the site failed) | cancelled
                           └── its worker stopped ──> lost

Each change is one conditional update. If two changes race, only one of them succeeds. The worker of a running job
stores a heartbeat. A job without a recent heartbeat counts as lost, even before the database says so.
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

#: How often a worker stores the heartbeat of its job.
HEARTBEAT = timedelta(seconds=5)
#: A running job without a heartbeat for this long is lost.
LOST_AFTER = timedelta(seconds=45)


class JobState(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SITE_ERROR = "errored", "Errored"
    CANCELLED = "cancelled"
    LOST = "lost"


#: The states of a job that has ended.
FINISHED = (JobState.SUCCEEDED, JobState.FAILED, JobState.SITE_ERROR, JobState.CANCELLED, JobState.LOST)


def worker_identity() -> str:
    """A unique name for this run of this process."""
    return f"{socket.gethostname()[:60]}/{os.getpid()}/{secrets.token_hex(6)}"


class JobQuerySet(models.QuerySet[Any]):
    def with_status(self, *states: str, now: datetime | None = None) -> Self:
        """The jobs that have one of these effective states at `now`, as `Job.status_at` computes them."""
        given_up = Q(state=JobState.RUNNING, heartbeat_at__lt=(now or timezone.now()) - LOST_AFTER)
        effective = Case(When(given_up, then=Value(JobState.LOST)), default=F("state"), output_field=models.CharField())
        return self.alias(effective=effective).filter(effective__in=states)

    def unfinished(self, now: datetime | None = None) -> Self:
        return self.with_status(JobState.QUEUED, JobState.RUNNING, now=now)

    def next_queued(self) -> Any:
        """The oldest queued job; None if none is queued."""
        return self.filter(state=JobState.QUEUED).order_by("created_at", "pk").first()

    def settle_lost(self, now: datetime | None = None) -> int:
        """Store the state of lost jobs; return their number. Readers compute this state anyway."""
        now = now or timezone.now()
        gone = self.filter(state=JobState.RUNNING, heartbeat_at__lt=now - LOST_AFTER)
        return sum(job.settle_lost(now) for job in gone)

    def prune(self, before: datetime) -> int:
        """Delete jobs that finished before a time, with their logs, unless something refers to them."""
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
    """A job for a worker, with its results."""

    state = models.CharField(max_length=9, choices=JobState, default=JobState.QUEUED, editable=False)
    #: The current phase of a running job.
    phase = models.CharField(max_length=20, blank=True, editable=False)
    #: The part that is done, from 0 to 1.
    progress = models.FloatField(default=0.0, editable=False)
    #: The error message: what went wrong, and what to do.
    error = models.TextField(blank=True, editable=False)
    #: Whether the job takes longer than expected but must not be stopped.
    overdue = models.BooleanField(default=False, editable=False)

    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    requested_by_name = models.CharField("requested by", max_length=150, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)

    #: The worker that runs the job, and its last heartbeat.
    worker = models.CharField(max_length=100, blank=True, editable=False)
    heartbeat_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancel_requested_at = models.DateTimeField(null=True, blank=True, editable=False)
    cancel_requested_by = models.CharField(max_length=150, blank=True, editable=False)

    objects: JobQuerySet

    class Meta:
        abstract = True

    #: The name in audit entries and names of log files: build or flash.
    kind = "job"
    #: The fields of the order.
    INPUT_FIELDS: tuple[str, ...] = ()

    # Reading

    def status_at(self, now: datetime | None = None) -> JobState:
        """The effective state at `now`: the stored one, or lost if the heartbeat has stopped."""
        stopped = self.heartbeat_at and self.heartbeat_at < (now or timezone.now()) - LOST_AFTER
        if self.state == JobState.RUNNING and stopped:
            return JobState.LOST
        return JobState(self.state)

    @property
    def problem(self) -> str:
        """The error message, also for a job that is lost but not yet stored as lost."""
        return self.error or (self.lost_message() if self.status_at() == JobState.LOST else "")

    @property
    def is_finished(self) -> bool:
        return self.status_at() in FINISHED

    @property
    def duration(self) -> timedelta | None:
        """How long the job ran, or has run so far."""
        if self.started_at is None:
            return None
        return (self.finished_at or self.heartbeat_at or timezone.now()) - self.started_at

    @property
    def log_path(self) -> Path:
        return Path(settings.RESCUESITE_DATA_DIR) / "job-logs" / f"{self.kind}-{self.pk}.log"

    def log_from(self, offset: int = 0, limit: int = 256 << 10) -> tuple[str, int]:
        """At most `limit` bytes of the log from a byte offset on, as text, and the offset of what follows.

        A negative offset counts from the end of the log.
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

    # Ordering

    def again(self) -> Self:
        """A new job with the same order, not submitted."""
        return type(self)(**{name: getattr(self, name) for name in self.INPUT_FIELDS})

    def submit(self, actor: Actor) -> Self:
        """Check this new job, and store it as queued, with an audit entry. Raises ValidationError."""
        self.requested_by_id = actor.user_pk
        self.requested_by_name = actor.name
        self.full_clean()
        with transaction.atomic():
            self.save(force_insert=True)
            self.record("requested", actor, details=self.snapshot())
        return self

    def snapshot(self) -> dict[str, Any]:
        """The order, for audit entries."""
        return {}

    def record(self, what: str, actor: Actor | None = None, **fields: Any) -> None:
        """Store an audit entry."""
        entry = {"subject": f"{self.kind} {self.pk}", "machine": self.audit_machine(), **fields}
        AuditEntry.objects.record(f"{self.kind}_{what}", actor=actor, **entry)

    def audit_machine(self) -> Machine | None:
        """The machine that shows this job in its timeline."""
        return None

    def cancel(self, actor: Actor) -> bool:
        """Cancel a queued job, or ask the worker to stop a running one; False if the job has finished."""
        now = timezone.now()
        with transaction.atomic():
            waiting = self.change(
                Q(state=JobState.QUEUED),
                state=JobState.CANCELLED,
                finished_at=now,
                cancel_requested_at=now,
                cancel_requested_by=actor.name,
                error="Cancelled before it started.",
            )
            asked = waiting or self.change(
                Q(state=JobState.RUNNING), cancel_requested_at=now, cancel_requested_by=actor.name
            )
            if asked:
                self.record("cancel_requested", actor)
        self.refresh_from_db()
        return asked

    # For workers

    def claim(self, worker: str) -> bool:
        """Start to run this job; False if another worker claimed it, or somebody cancelled it."""
        now = timezone.now()
        claimed = self.change(
            Q(state=JobState.QUEUED), state=JobState.RUNNING, worker=worker, started_at=now, heartbeat_at=now
        )
        if claimed:
            self.refresh_from_db()
        return claimed

    def beat(self, **progress: Any) -> bool:
        """Store a heartbeat and the progress; False if the job no longer belongs to this worker."""
        return self.change(self.mine(), heartbeat_at=timezone.now(), **progress)

    def should_stop(self) -> bool:
        """Whether somebody asked to cancel the job, or it no longer belongs to this worker."""
        row = self._rows().filter(self.mine()).values_list("cancel_requested_at").first()
        return row is None or row[0] is not None

    def finish(self, state: JobState, error: str = "", **results: Any) -> bool:
        """Store the end of the job, even if it is stored as lost: this worker knows the real result."""
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
        """A hook for further changes in the transaction that stores the end."""

    def settle_lost(self, now: datetime) -> bool:
        """Store that this job is lost."""
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
        """The error message of a lost job."""
        return "The worker stopped while it ran the job. Read the log, then retry."

    @staticmethod
    def not_cancelled() -> Q:
        """The condition that nobody asked to cancel the job."""
        return Q(cancel_requested_at__isnull=True)

    def mine(self) -> Q:
        """The condition that this worker still runs the job."""
        return Q(state=JobState.RUNNING, worker=self.worker)

    def _rows(self) -> models.QuerySet[Any]:
        return type(self)._default_manager.filter(pk=self.pk)

    def change(self, condition: Q, **values: Any) -> bool:
        """Update the job if the condition holds; False if it does not hold."""
        return self._rows().filter(condition).update(**values) > 0


def _whole(raw: bytes) -> bytes:
    """The bytes without an incomplete character or line end at the end."""
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
    """A program's output as text, without control characters."""
    text = raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or c.isprintable())
