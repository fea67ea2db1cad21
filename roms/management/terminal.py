"""What the commands for jobs share: they submit a job, wait for it, and print its result."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any, TextIO, TypeVar

from django.core.management.base import CommandError, OutputWrapper

from machines.management.terminal import NotSucceededError, TerminalCommand, add_json_option, printable
from roms.api.serializers import BuildSerializer, FlashJobSerializer
from roms.models import Build, Card, FlashJob, Job, JobState

J = TypeVar("J", bound=Job)

#: The exit status after Ctrl-C, as in shells.
_INTERRUPTED = 130
#: Seconds between two queries.
POLL = 0.5
#: If a job is still queued after this many seconds, the command prints the reason.
_PATIENCE = 10.0


class JobCommand(TerminalCommand):
    """A command that submits one job."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--by", metavar="USER", help="the user who orders the job, for the audit log")
        parser.add_argument(
            "--wait", action="store_true", help="wait until the job has finished, and show its progress"
        )
        parser.add_argument(
            "--timeout-wait",
            type=float,
            metavar="SECONDS",
            help="stop waiting after this time; the job continues (default: no limit)",
        )
        parser.add_argument("--follow-log", action="store_true", help="wait, and print the log as it grows")
        add_json_option(parser)
        parser.set_defaults(run=self.run_job)

    def run_job(self, **options: Any) -> None:
        job = self.submit(options)
        if not (options["wait"] or options["follow_log"] or options.get("output") is not None):
            queued = f"{_name(job)} is queued. “manage.py rom show {job.kind} {job.pk}” shows it."
            self.show(json_of(job), queued, options)
            return
        Waiting(job, self.stderr, follow_log=options["follow_log"]).until_finished(options["timeout_wait"])
        self.show(json_of(job), self.summary(job), options)
        check_succeeded(job)
        self.succeeded(job, options)

    def submit(self, options: dict[str, Any]) -> Job:
        """Check and submit the job. Raises ValidationError, CommandError."""
        raise NotImplementedError

    def summary(self, job: Any) -> str:
        """The result of the finished job, as text."""
        raise NotImplementedError

    def succeeded(self, job: Any, options: dict[str, Any]) -> None:
        """A hook that runs after the job has succeeded."""


class Waiting:
    """Waits for a job, and prints its progress on standard error."""

    def __init__(self, job: Job, err: OutputWrapper, *, follow_log: bool = False) -> None:
        self._job, self._err, self._follow_log = job, err, follow_log
        # Overwrite the line only on a terminal.
        self._rewrites = err.isatty() and not follow_log
        self._said = ""
        self._hinted = False
        self._log_offset = 0

    def until_finished(self, timeout: float | None = None) -> None:
        """Wait until the job has finished. Raises NotSucceededError after `timeout` seconds."""
        begun = time.monotonic()
        try:
            while True:
                self._job.refresh_from_db()
                self._tell(time.monotonic() - begun)
                if self._job.is_finished:
                    return
                if timeout is not None and time.monotonic() - begun > timeout:
                    raise NotSucceededError(f"The job has not finished after {timeout:g} s. {self._continues()}")
                time.sleep(POLL)
        except KeyboardInterrupt:
            self._say(self._continues())
            raise SystemExit(_INTERRUPTED) from None
        finally:
            self._end_line()

    def _continues(self) -> str:
        what = f"{self._job.kind} {self._job.pk}"
        show, cancel = f"manage.py rom show {what}", f"manage.py rom cancel {what}"
        return f"{_name(self._job)} continues. “{show}” shows it, “{cancel}” stops it."

    def _tell(self, seconds: float) -> None:
        if self._follow_log:
            self._log_offset = write_log(self._job, self._err, self._log_offset)
        elif (line := self._progress()) != self._said:
            self._said = line
            self._line(line)
        if self._job.state == JobState.QUEUED and seconds > _PATIENCE and not self._hinted:
            self._hinted = True
            self._say(_why_queued(self._job))

    def _progress(self) -> str:
        job = self._job
        words = [f"{_name(job)}:", job.phase if job.state == JobState.RUNNING and job.phase else job.status_at()]
        # Without a terminal, print one line per phase, not per percent.
        if self._rewrites and job.state == JobState.RUNNING and job.progress:
            words.append(f"{job.progress:.0%}")
        if job.overdue:
            words.append("(takes longer than expected; do not interrupt it)")
        return printable(" ".join(words))

    def _say(self, text: str) -> None:
        """Print a line that later output does not overwrite."""
        self._end_line()
        self._err.write(text, str)

    def _line(self, text: str) -> None:
        if self._rewrites:
            # Return to the start of the line, and clear it.
            self._err.write(f"\r\x1b[K{text}", str, ending="")
        else:
            self._err.write(text, str)

    def _end_line(self) -> None:
        if self._rewrites and self._said:
            self._err.write("", str, ending="\n")
            self._said = ""


def write_log(job: Job, out: OutputWrapper | TextIO, offset: int) -> int:
    """Write the log from `offset` on, and return the new offset."""
    while True:
        text, behind = job.log_from(offset)
        if behind <= offset:
            return offset
        offset = behind
        out.write(text, str, ending="") if isinstance(out, OutputWrapper) else out.write(text)


def check_succeeded(job: Job) -> None:
    """Raise NotSucceededError if the finished job did not succeed."""
    state = job.status_at()
    if state != JobState.SUCCEEDED:
        raise NotSucceededError(printable(f"{_name(job)} {state}. {job.problem}".rstrip()))


def json_of(job: Job) -> dict[str, Any]:
    """The job as the API returns it."""
    return dict((BuildSerializer if isinstance(job, Build) else FlashJobSerializer)(job).data)


def card_named(text: str) -> Card:
    """The card with this key, or the only card that matches these words. Raises CommandError."""
    card = Card.objects.filter(slug=text.lower()).first()
    if card:
        return card
    found = list(Card.objects.named(text)[:6])
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(f"There is no card “{text}”. “manage.py rom cards” shows them.")
    names = "\n".join(f"    {card.slug}  {card.name}" for card in found[:5])
    raise CommandError(f"“{text}” matches several cards:\n{names}{'' if len(found) < 6 else chr(10) + '    …'}")


def job_numbered(model: type[J], number: int) -> J:
    """The job with this number. Raises CommandError."""
    job = model._default_manager.filter(pk=number).first()
    if job is None:
        listing = "builds" if model.kind == "build" else "flashes"
        raise CommandError(f"There is no {model.kind} {number}. “manage.py rom {listing}” shows all.")
    return job


def _name(job: Job) -> str:
    return f"{'Build' if job.kind == 'build' else 'Flash job'} {job.pk}"


def _why_queued(job: Job) -> str:
    """Why the job is still queued."""
    if isinstance(job, FlashJob):
        if not job.station.has_worker():
            start = f"manage.py worker --station {job.station.name}"
            return f"The station “{job.station.name}” has no worker. Start one there: “{start}”."
    elif not any(model.objects.with_status(JobState.RUNNING).exists() for model in (Build, FlashJob)):
        return "No worker runs the job yet. Start one: “manage.py worker” or “make run”."
    return "The job is queued, because the worker is busy."
