"""Machines, images, rescues, sightings and audit entries as JSON, with the field names of the API."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import timezone

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    from machines.models import AuditEntry, Delivery, Machine, NotificationRule, Rescue, RescueImage, Sighting
    from machines.timeline import Event


def machine_json(machine: Machine, now: datetime | None = None) -> dict[str, Any]:
    rescue = machine.active_rescue(now)
    contact = getattr(machine, "contact", None)
    return {
        **machine.snapshot(),
        "state": rescue.status_at(now).state if rescue else "local",
        "unverified": machine.is_unverified,
        "last_seen": iso(contact.at) if contact else None,
    }


def rescue_json(rescue: Rescue, now: datetime | None = None) -> dict[str, Any]:
    """Return a rescue with its state at `now`, without its token."""
    status = rescue.status_at(now)
    return {
        "machine": rescue.machine.name,
        "state": status.state,
        "lifetime": rescue.lifetime,
        "expires_at": iso(rescue.expires_at),
        "image": rescue.image_name,
        "reason": rescue.reason,
        "enabled_by": rescue.enabled_by_name,
        "enabled_at": iso(rescue.enabled_at),
        "served_at": iso(rescue.served_at),
        "up_at": iso(status.up_at),
        "ended_at": iso(status.ended_at),
        "end_cause": status.end_cause or None,
        "address": rescue.address,
        "host_keys": rescue.host_keys,
        "tries": rescue.tries,
    }


def enabled_rescue_json(rescue: Rescue, now: datetime | None = None) -> dict[str, Any]:
    """Return a rescue that was just enabled, with its warnings and its password, which is shown only once."""
    shown = rescue_json(rescue, now) | {"warnings": list(rescue.warnings())}
    return shown | ({"password": rescue.password} if rescue.password else {})


def image_json(image: RescueImage) -> dict[str, Any]:
    return image.snapshot()


def sighting_json(sighting: Sighting) -> dict[str, Any]:
    return {
        "mac": sighting.mac,
        "first_seen_at": iso(sighting.first_seen_at),
        "last_seen_at": iso(sighting.last_seen_at),
        "count": sighting.count,
        "source": sighting.source,
        "ip": sighting.ip,
        "said": sighting.said,
        "ignored": sighting.ignored,
    }


def audit_json(entry: AuditEntry) -> dict[str, Any]:
    details = dict(entry.details)
    if entry.subject:
        details["subject"] = entry.subject
    if entry.repeated_at:
        details["repeated_at"] = iso(entry.repeated_at)
    return {
        "id": entry.pk,
        "at": iso(entry.at),
        "actor": entry.actor,
        "source": entry.source,
        "machine": entry.machine or None,
        "mac": entry.mac or None,
        "action": entry.action,
        "outcome": entry.outcome or None,
        "reason": entry.reason,
        "count": entry.count,
        "details": details,
    }


def event_json(event: Event) -> dict[str, Any]:
    """Return an event of a machine's timeline."""
    return {
        "at": iso(event.at),
        "kind": event.kind,
        "title": event.title,
        "text": event.text,
        "actor": event.actor,
        "source": event.source or None,
        "count": event.count,
        "repeated_at": iso(event.repeated_at),
        "facts": [{"label": label, "value": value} for label, value in event.facts],
    }


def rule_json(rule: NotificationRule, *, whole_url: bool = True) -> dict[str, Any]:
    """Return a notification rule without its secret. `machines` is null for a rule about all machines.

    Without `whole_url`, the URL has no path: the path may be a secret.
    """
    return {
        "id": rule.pk,
        "name": rule.name,
        "active": rule.is_active,
        "kind": rule.kind,
        "owner": rule.owner_name or None,
        "url": rule.url if whole_url or not rule.url else rule.destination,
        "recipients": rule.addresses,
        "events": rule.events,
        "overdue_minutes": rule.overdue_minutes,
        "machines": None if rule.all_machines else [machine.name for machine in rule.machines.all()],
    }


def delivery_json(message: Delivery, viewer: AbstractBaseUser | AnonymousUser) -> dict[str, Any]:
    return {
        "id": message.pk,
        "message_id": message.message_id,
        "rule": message.rule_name,
        "event": message.event,
        "machine": message.machine or None,
        "state": message.state,
        "created_at": iso(message.created_at),
        "delivered_at": iso(message.delivered_at),
        "next_try_at": iso(message.next_try_at) if message.state == message.State.WAITING else None,
        "tries": message.log,
        "payload": message.payload_for(viewer),
    }


def iso(moment: datetime | None) -> str | None:
    """Return a time in UTC with microseconds, so that times can be compared as text."""
    return moment.astimezone(timezone.get_fixed_timezone(0)).isoformat().replace("+00:00", "Z") if moment else None
