"""The overview on the admin's front page. It needs a constant number of queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Sum
from django.db.models.functions import TruncHour
from django.utils import timezone

from machines.boot.reasons import Outcome
from machines.models import AuditEntry, Delivery, Machine, Rescue, Sighting, StoredFile

_HOURS = 24
#: The sizes in the chart, in SVG units.
_BAR, _GAP, _HEIGHT = 22, 4, 90


@dataclass(frozen=True)
class Bar:
    """One part of the column of an hour: the number of boots with this outcome."""

    outcome: str
    count: int
    x: int
    y: float
    height: float
    hour: datetime


@dataclass(frozen=True)
class Dashboard:
    since: datetime
    machines: int
    states: Mapping[str, int]
    refused: int
    sightings: int
    unverified: int
    undelivered: int
    failed: int
    damaged: int
    bars: list[Bar]
    hours: list[tuple[int, datetime]]
    boots: int
    latest: list[AuditEntry]
    width: int = _HOURS * (_BAR + _GAP)
    bar: int = _BAR
    height: int = _HEIGHT


def dashboard(now: datetime | None = None) -> Dashboard:
    now = now or timezone.now()
    boots = _boots_by_hour(now)
    states = Rescue.objects.active(now).count_by_state(now)
    return Dashboard(
        since=_hours(now)[0],
        machines=Machine.objects.count(),
        states={state: states.get(state, 0) for state in ("armed", "booting", "up")},
        refused=sum(number for (_, outcome), number in boots.items() if outcome == Outcome.REFUSED),
        sightings=Sighting.objects.waiting().count(),
        unverified=Machine.objects.unverified().count(),
        undelivered=Delivery.objects.given_up_since(_hours(now)[0]).count(),
        failed=Rescue.objects.active(now).filter(failed_at__isnull=False).count(),
        damaged=StoredFile.objects.damaged().count(),
        bars=_bars(boots, now),
        hours=[(n * (_BAR + _GAP) + _BAR // 2, hour) for n, hour in enumerate(_hours(now)) if n % 4 == 2],
        boots=sum(boots.values()),
        latest=list(AuditEntry.objects.all()[:12]),
    )


def _hours(now: datetime) -> list[datetime]:
    current = now.replace(minute=0, second=0, microsecond=0)
    return [current - timedelta(hours=n) for n in reversed(range(_HOURS))]


def _boots_by_hour(now: datetime) -> dict[tuple[datetime, str], int]:
    rows = (
        AuditEntry.objects.filter(action="boot", at__gte=_hours(now)[0])
        .order_by()
        .annotate(hour=TruncHour("at", tzinfo=now.tzinfo))
        .values_list("hour", "outcome")
        .annotate(number=Sum("count"))
    )
    return {(hour, outcome): number for hour, outcome, number in rows}


def _bars(boots: Mapping[tuple[datetime, str], int], now: datetime) -> list[Bar]:
    hours = _hours(now)
    tallest = max((sum(boots.get((hour, outcome), 0) for outcome in Outcome) for hour in hours), default=0) or 1
    bars = []
    for n, hour in enumerate(hours):
        top = float(_HEIGHT)
        for outcome in Outcome:
            if count := boots.get((hour, outcome), 0):
                height = count / tallest * _HEIGHT
                top -= height
                bars.append(Bar(outcome, count, n * (_BAR + _GAP), round(top, 1), round(height, 1), hour))
    return bars
