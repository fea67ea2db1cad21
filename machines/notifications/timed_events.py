"""Events that time alone causes. They have no audit entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Q
from django.utils import timezone

from machines.models import AuditEntry, Rescue
from machines.models.delivery import Delivery
from machines.models.notification import NotificationRule
from machines.models.rescue import RescueQuerySet
from machines.models.rescue_terms import State
from machines.notifications.events import Event, ended_key

#: Older events are not reported.
_MAX_AGE = timedelta(days=1)


class _TimedEvent(NamedTuple):
    event: Event
    key: str
    at: datetime
    rescue: Rescue


def queue_timed_events(now: datetime | None = None) -> None:
    """Queue messages about rescues that have expired, came up without a report, or are overdue at `now`.

    Each event is reported once, however often this is called. It does not change rescues.
    """
    now = now or timezone.now()
    # All timed events are about rescues, so they need the same permission.
    rules = list(NotificationRule.objects.with_permitted_owner(Event.ENDED).prefetch_related("machines"))
    wanted = {event for rule in rules for event in rule.events}
    found = [
        *(_expired(now) if Event.ENDED in wanted else ()),
        *(_silently_up(now) if Event.UP in wanted else ()),
        *(_overdue(now, rules) if Event.OVERDUE in wanted else ()),
    ]
    there = set(Delivery.objects.filter(key__in={one.key for one in found}).values_list("rule_id", "key"))
    for one in found:
        new = [rule for rule in rules if (rule.pk, one.key) not in there and _matches(rule, one, now)]
        at = now if one.event is Event.OVERDUE else one.at
        machine = one.rescue.machine
        Delivery.objects.queue_event(one.event, one.key, at, machine.pk, machine.name, one.rescue, rules=new)


def _matches(rule: NotificationRule, one: _TimedEvent, now: datetime) -> bool:
    """Whether the rule reports this event. The rule must be older than the event."""
    late = timedelta(minutes=rule.overdue_minutes) if one.event is Event.OVERDUE else timedelta(0)
    return (
        one.event in rule.events
        and rule.changed_at <= one.at + late <= now < one.at + late + _MAX_AGE
        and (rule.all_machines or any(machine.pk == one.rescue.machine_id for machine in rule.machines.all()))
    )


def _unended() -> RescueQuerySet:
    return Rescue.objects.unended().select_related("machine")


def _expired(now: datetime) -> Iterator[_TimedEvent]:
    for rescue in _unended().filter(expires_at__lte=now, expires_at__gt=now - _MAX_AGE):
        assert rescue.expires_at
        yield _TimedEvent(Event.ENDED, ended_key(rescue.pk), rescue.expires_at, rescue)


def _silently_up(now: datetime) -> Iterator[_TimedEvent]:
    for rescue in _unended().with_status(State.UP, now).filter(state=State.BOOTING):
        if up_at := rescue.status_at(now).up_at:
            yield _TimedEvent(Event.UP, f"{Event.UP}:{rescue.pk}:{up_at.isoformat()}", up_at, rescue)


def _overdue(now: datetime, rules: Iterable[NotificationRule]) -> Iterator[_TimedEvent]:
    longest = max(rule.overdue_minutes for rule in rules if Event.OVERDUE in rule.events)
    since = now - _MAX_AGE - timedelta(minutes=longest)
    waiting = _unended().with_status(State.ARMED, now) | _unended().with_status(State.BOOTING, now)
    for rescue in waiting.filter(Q(enabled_at__gt=since) | Q(served_at__gt=since)):
        began = _waited_for_since(rescue)
        yield _TimedEvent(Event.OVERDUE, f"{Event.OVERDUE}:{rescue.pk}:{began.isoformat()}", began, rescue)


def _waited_for_since(rescue: Rescue) -> datetime:
    """Return when the waiting began: when staff enabled the rescue, or at the first boot after the system was up."""
    if rescue.served_at is None:
        return rescue.enabled_at
    entries = AuditEntry.objects.filter(machine_pk=rescue.machine_id, rescue_pk=rescue.pk)
    was_up = entries.filter(action="up").order_by("-at").first()
    if was_up is None:
        return rescue.enabled_at
    booted = entries.filter(action="boot", outcome="rescue", at__gt=was_up.at).order_by("at").first()
    return booted.at if booted else rescue.served_at
