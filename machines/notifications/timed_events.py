"""What others are told of though nothing happened but time: no audit entry says so."""

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

#: What is longer ago is no news any more.
_NEWS = timedelta(days=1)


class _Happened(NamedTuple):
    event: Event
    key: str
    at: datetime
    rescue: Rescue


def queue_timed_events(now: datetime | None = None) -> None:
    """Queue what is to be told of rescues that have expired, came up silently, or are overdue at `now`.

    As often as one likes: each is told once. Nothing of a rescue is changed.
    """
    now = now or timezone.now()
    # All that time does, it does to rescues.
    rules = list(NotificationRule.objects.with_permitted_owner(Event.ENDED).prefetch_related("machines"))
    told = {event for rule in rules for event in rule.events}
    found = [
        *(_expired(now) if Event.ENDED in told else ()),
        *(_silently_up(now) if Event.UP in told else ()),
        *(_waiting(now, rules) if Event.OVERDUE in told else ()),
    ]
    there = set(Delivery.objects.filter(key__in={one.key for one in found}).values_list("rule_id", "key"))
    for one in found:
        new = [rule for rule in rules if (rule.pk, one.key) not in there and _tells(rule, one, now)]
        at = now if one.event is Event.OVERDUE else one.at
        machine = one.rescue.machine
        Delivery.objects.queue_event(one.event, one.key, at, machine.pk, machine.name, one.rescue, rules=new)


def _tells(rule: NotificationRule, one: _Happened, now: datetime) -> bool:
    """Whether the rule is about this, and was there when it happened."""
    late = timedelta(minutes=rule.overdue_minutes) if one.event is Event.OVERDUE else timedelta(0)
    return (
        one.event in rule.events
        and rule.changed_at <= one.at + late <= now < one.at + late + _NEWS
        and (rule.all_machines or any(machine.pk == one.rescue.machine_id for machine in rule.machines.all()))
    )


def _unended() -> RescueQuerySet:
    return Rescue.objects.unended().select_related("machine")


def _expired(now: datetime) -> Iterator[_Happened]:
    for rescue in _unended().filter(expires_at__lte=now, expires_at__gt=now - _NEWS):
        assert rescue.expires_at
        yield _Happened(Event.ENDED, ended_key(rescue.pk), rescue.expires_at, rescue)


def _silently_up(now: datetime) -> Iterator[_Happened]:
    for rescue in _unended().with_status(State.UP, now).filter(state=State.BOOTING):
        if up_at := rescue.status_at(now).up_at:
            yield _Happened(Event.UP, f"{Event.UP}:{rescue.pk}:{up_at.isoformat()}", up_at, rescue)


def _waiting(now: datetime, rules: Iterable[NotificationRule]) -> Iterator[_Happened]:
    longest = max(rule.overdue_minutes for rule in rules if Event.OVERDUE in rule.events)
    since = now - _NEWS - timedelta(minutes=longest)
    waiting = _unended().with_status(State.ARMED, now) | _unended().with_status(State.BOOTING, now)
    for rescue in waiting.filter(Q(enabled_at__gt=since) | Q(served_at__gt=since)):
        began = _waited_for_since(rescue)
        yield _Happened(Event.OVERDUE, f"{Event.OVERDUE}:{rescue.pk}:{began.isoformat()}", began, rescue)


def _waited_for_since(rescue: Rescue) -> datetime:
    """When the system that is not up yet was first asked for: by staff, or by a boot after it had been up."""
    if rescue.served_at is None:
        return rescue.enabled_at
    entries = AuditEntry.objects.filter(machine_pk=rescue.machine_id, rescue_pk=rescue.pk)
    was_up = entries.filter(action="up").order_by("-at").first()
    if was_up is None:
        return rescue.enabled_at
    booted = entries.filter(action="boot", outcome="rescue", at__gt=was_up.at).order_by("at").first()
    return booted.at if booted else rescue.served_at
