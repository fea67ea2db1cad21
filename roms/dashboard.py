"""Jobs, stations and outdated ROMs on the admin's front page, with a constant number of queries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from roms.models import Build, FlashJob, InstalledROM, Job, JobState, Station
from roms.wording import CSS_CLASSES, job_url

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser, AnonymousUser

#: The front page shows failures of this period only.
_RECENT = timedelta(days=7)
_BAD = (JobState.FAILED, JobState.SITE_ERROR, JobState.LOST)
#: At most this many jobs of each kind and state.
_SHOWN = 5


@dataclass(frozen=True)
class Line:
    """A job that is unfinished or has failed."""

    job: Job
    state: JobState
    look: str
    url: str


@dataclass(frozen=True)
class ROMDashboard:
    lines: list[Line]
    without_worker: list[Station]
    outdated: int


def rom_dashboard(user: AbstractUser | AnonymousUser, now: datetime | None = None) -> ROMDashboard | None:
    """The part that `user` may view; None if the user may view nothing."""
    now = now or timezone.now()
    seen = {name: user.has_perm(f"roms.view_{name}") for name in ("build", "flashjob", "station", "installedrom")}
    if not any(seen.values()):
        return None
    jobs: list[Any] = []
    if seen["build"]:
        jobs += _jobs(Build.objects.select_related("card"), now)
    if seen["flashjob"]:
        jobs += _jobs(FlashJob.objects.select_related("card", "station"), now)
    jobs.sort(key=lambda job: (job.status_at(now) in _BAD, -job.created_at.timestamp()))
    stations = list(Station.objects.all()) if seen["station"] else []
    return ROMDashboard(
        lines=[_line(job, now) for job in jobs],
        without_worker=[station for station in stations if not station.has_worker(now)],
        outdated=InstalledROM.objects.outdated().count() if seen["installedrom"] else 0,
    )


def _jobs(jobs: Any, now: datetime) -> list[Any]:
    failed = jobs.with_status(*_BAD, now=now).filter(created_at__gt=now - _RECENT)
    return [*jobs.unfinished(now)[:_SHOWN], *failed[:_SHOWN]]


def _line(job: Any, now: datetime) -> Line:
    state = job.status_at(now)
    return Line(job, state, CSS_CLASSES[state], job_url(job))
