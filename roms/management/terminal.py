"""What the commands that order jobs share: they check, submit, wait, and say how it ended."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from typing import Any, TextIO

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, OutputWrapper

from machines.management.terminal import NOT_DONE, NOT_SUCCEEDED, add_json_option, messages_of, printable
from roms.api.serializers import BuildSerializer, FlashJobSerializer
from roms.models import Build, Card, FlashJob, Job, JobState

#: As shells have it for a program that ended by Ctrl-C.
_INTERRUPTED = 130
#: Seconds between two looks.
_POLL = 0.5
#: A job that was not begun after so many seconds lacks a worker, or has to wait for its turn.
_PATIENCE = 10.0


class JobCommand(BaseCommand):
    """Orders one job."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--by", metavar="USER", help="the user in whose name it is done")
        parser.add_argument("--wait", action="store_true", help="until it is finished; say how it goes meanwhile")
        parser.add_argument(
            "--timeout-wait", type=float, metavar="SECONDS", help="of --wait; the job goes on (default: for ever)"
        )
        parser.add_argument("--follow-log", action="store_true", help="wait, and print the log as it comes")
        add_json_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = self.submit(options)
        except ValidationError as error:
            raise CommandError("\n".join(messages_of(error)), returncode=NOT_DONE) from error
        except CommandError as error:
            error.returncode = NOT_DONE
            raise
        waits = options["wait"] or options["follow_log"] or options.get("output") is not None
        if waits:
            Waiting(job, self.stderr, follow_log=options["follow_log"]).until_finished(options["timeout_wait"])
        text = (
            self.told(job) if waits else f"{_name(job)} is queued. “manage.py rom show {job.kind} {job.pk}” shows it."
        )
        self.stdout.write(json.dumps(json_of(job), indent=2) if options["json"] else printable(text))
        if waits:
            check_succeeded(job)
            self.succeeded(job, options)

    def submit(self, options: dict[str, Any]) -> Job:
        """Check and submit what is ordered. Raises ValidationError, CommandError."""
        raise NotImplementedError

    def told(self, job: Any) -> str:
        """How the finished job went, for a person."""
        raise NotImplementedError

    def succeeded(self, job: Any, options: dict[str, Any]) -> None:
        """What is to be done once the job has succeeded."""


class Waiting:
    """Somebody waits for a job, and is told on standard error how it goes."""

    def __init__(self, job: Job, err: OutputWrapper, *, follow_log: bool = False) -> None:
        self._job, self._err, self._follow_log = job, err, follow_log
        # A line is written over only where there is a screen.
        self._rewrites = err.isatty() and not follow_log
        self._said = ""
        self._hinted = False
        self._log_offset = 0

    def until_finished(self, timeout: float | None = None) -> None:
        """Return once the job is finished. Raises CommandError where that takes longer than `timeout` seconds."""
        begun = time.monotonic()
        try:
            while True:
                self._job.refresh_from_db()
                self._tell(time.monotonic() - begun)
                if self._job.is_finished:
                    return
                if timeout is not None and time.monotonic() - begun > timeout:
                    raise CommandError(f"Not finished after {timeout:g} s. {self._goes_on()}", returncode=NOT_SUCCEEDED)
                time.sleep(_POLL)
        except KeyboardInterrupt:
            self._say(self._goes_on())
            raise SystemExit(_INTERRUPTED) from None
        finally:
            self._end_line()

    def _goes_on(self) -> str:
        what = f"{self._job.kind} {self._job.pk}"
        return (
            f"{_name(self._job)} goes on. “manage.py rom show {what}” shows it, “manage.py rom cancel {what}” stops it."
        )

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
        # Without a screen each step has a line, and not each percent.
        if self._rewrites and job.state == JobState.RUNNING and job.progress:
            words.append(f"{job.progress:.0%}")
        if job.overdue:
            words.append("(takes longer than it should; leave it alone)")
        return printable(" ".join(words))

    def _say(self, text: str) -> None:
        """Something that stays to be read."""
        self._end_line()
        self._err.write(text, str)

    def _line(self, text: str) -> None:
        if self._rewrites:
            # To the line's beginning, and clear what is on it.
            self._err.write(f"\r\x1b[K{text}", str, ending="")
        else:
            self._err.write(text, str)

    def _end_line(self) -> None:
        if self._rewrites and self._said:
            self._err.write("", str, ending="\n")
            self._said = ""


def write_log(job: Job, out: OutputWrapper | TextIO, offset: int) -> int:
    """Write the log from `offset` on; returns where it ends now."""
    while True:
        text, behind = job.log_from(offset)
        if behind <= offset:
            return offset
        offset = behind
        out.write(text, str, ending="") if isinstance(out, OutputWrapper) else out.write(text)


def check_succeeded(job: Job) -> None:
    """Raise CommandError where the finished job did not succeed."""
    state = job.status_at()
    if state != JobState.SUCCEEDED:
        raise CommandError(printable(f"{_name(job)} {state}. {job.problem}".rstrip()), returncode=NOT_SUCCEEDED)


def json_of(job: Job) -> dict[str, Any]:
    """The job as the API tells it."""
    return dict((BuildSerializer if isinstance(job, Build) else FlashJobSerializer)(job).data)


def card_named(text: str) -> Card:
    """The card with this key, or the only one that the words fit."""
    card = Card.objects.filter(slug=text.lower()).first()
    if card:
        return card
    found = list(Card.objects.named(text)[:6])
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(f"There is no card “{text}”. “manage.py rom cards” shows them.")
    names = "\n".join(f"    {card.slug}  {card.name}" for card in found[:5])
    raise CommandError(f"“{text}” may be several cards:\n{names}{'' if len(found) < 6 else chr(10) + '    …'}")


def _name(job: Job) -> str:
    return f"{'Build' if job.kind == 'build' else 'Flash job'} {job.pk}"


def _why_queued(job: Job) -> str:
    """What a job that was not begun waits for."""
    if isinstance(job, FlashJob):
        if not job.station.has_worker():
            start = f"manage.py worker --station {job.station.name}"
            return f"No worker serves the station “{job.station.name}”. Start one there: “{start}”."
    elif not any(model.objects.with_status(JobState.RUNNING).exists() for model in (Build, FlashJob)):
        return "No worker has begun it yet. “manage.py worker” runs one, as “make run” does."
    return "It waits for its turn: the worker is busy."
