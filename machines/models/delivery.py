"""Messages to be delivered because of notification rules, and the record of the tries.

A delivery is stored in the transaction of the event that it reports. So the site reports every stored event, and
nothing else. Its life: waiting ──arrived──> delivered, or ──too many tries──> given up.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.db.models import F, Q
from django.utils import timezone

from machines.models.audit import Actor, AuditEntry
from machines.models.notification import NotificationRule
from machines.models.turns import portions
from machines.notifications import events
from machines.notifications.events import Event
from machines.representation import audit_json, iso, rescue_json

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    from machines.models.rescue import Rescue

logger = logging.getLogger(__name__)

#: Seconds to wait after each failed try. After the last one the delivery is given up. About two days in all.
PAUSES = (5, 15, 60, 5 * 60, 15 * 60, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
#: How long one worker holds a delivery. It is longer than any try takes.
LEASE = timedelta(minutes=2)
#: The pause for all other messages to a receiver after one of them failed.
BREATHER = timedelta(seconds=30)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def queue_for_entry(self, entry: AuditEntry, rescue: Rescue | None) -> None:
        """Queue the messages about a new audit entry, if it is an event.

        Logs its own errors and does not raise them: a failing notification must not stop a boot answer or a request.
        """
        event = events.event_of(entry)
        if event is None:
            return
        key = events.key_of(event, entry)
        try:
            with transaction.atomic():
                self.queue_event(event, key, entry.at, entry.machine_pk, entry.machine, rescue, entry)
        except Exception:
            logger.exception("Cannot queue notifications about %s.", entry)

    def queue_event(
        self,
        event: Event,
        key: str,
        at: datetime,
        machine_pk: int | None,
        machine: str,
        rescue: Rescue | None,
        entry: AuditEntry | None = None,
        rules: Sequence[NotificationRule] | None = None,
    ) -> None:
        """Queue one message for each matching rule. A rule gets each key only once."""
        if rules is None:
            rules = NotificationRule.objects.matching(event, machine_pk, entry.action if entry else "")
        if rules:
            self.bulk_create(
                [Delivery.build(rule, event, key, at, machine, rescue, entry) for rule in rules], ignore_conflicts=True
            )

    def waiting(self) -> DeliveryQuerySet:
        return self.filter(state=Delivery.State.WAITING)

    def free(self, now: datetime) -> DeliveryQuerySet:
        """Return the waiting messages that no worker holds at `now`."""
        return self.waiting().filter(Q(leased_until__isnull=True) | Q(leased_until__lte=now))

    def due(self, now: datetime) -> DeliveryQuerySet:
        """Return the messages to try at `now`, oldest first."""
        return self.free(now).filter(next_try_at__lte=now).order_by("pk")

    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> DeliveryQuerySet:
        """Return the messages about events that the user may see on other pages too."""
        actor = Actor.of_user(user)
        seen = Q(event=events.TEST)
        if any(map(actor.may, events.needed_rights(Event.ENABLED))):
            seen |= ~Q(event__in=[events.TEST, Event.DAMAGED, *events.JOB_EVENTS])
        if any(map(actor.may, events.needed_rights(Event.DAMAGED))):
            seen |= Q(event=Event.DAMAGED)
        for action, rights in events.JOB_RIGHTS.items():
            if any(map(actor.may, rights)):
                seen |= Q(event__in=events.JOB_EVENTS, payload__data__audit__action=action)
        return self.filter(seen)

    def given_up_since(self, since: datetime) -> DeliveryQuerySet:
        return self.filter(state=Delivery.State.GIVEN_UP, rule__isnull=False, next_try_at__gte=since)

    def prune(self, before: datetime) -> int:
        """Delete the messages created before a time, except waiting ones. Return their number."""
        old = self.exclude(state=Delivery.State.WAITING).filter(created_at__lt=before)
        return sum(self.filter(pk__in=portion).delete()[0] for portion in portions(old))


class Delivery(models.Model):
    """One message of one rule, and the record of the tries."""

    class State(models.TextChoices):
        WAITING = "waiting"
        DELIVERED = "delivered"
        GIVEN_UP = "given_up", "given up"

    #: The id that is sent in the message. The receiver recognises a repeated message by it.
    message_id = models.CharField(max_length=40, unique=True, editable=False)
    # No database constraint: the transaction of a boot answer must not fail because a rule is deleted at that moment.
    rule = models.ForeignKey(
        NotificationRule, on_delete=models.SET_NULL, null=True, related_name="deliveries", db_constraint=False
    )
    rule_name = models.CharField("rule", max_length=100)
    event = models.CharField(max_length=20)
    key = models.CharField(max_length=100)
    machine = models.CharField(max_length=63, blank=True)
    payload: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    tries = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    leased_until = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    last_status = models.PositiveIntegerField("latest answer", null=True, blank=True)
    last_error = models.CharField("latest error", max_length=1000, blank=True)
    #: One item for each try.
    log: models.JSONField[list[dict[str, Any]], list[dict[str, Any]]] = models.JSONField(default=list)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        ordering = ("-pk",)
        verbose_name = "notification"
        constraints = [models.UniqueConstraint(fields=["rule", "key"], name="delivery_once")]
        indexes = [
            models.Index(fields=["next_try_at"], condition=Q(state="waiting"), name="delivery_waiting"),
            models.Index(fields=["created_at"], name="delivery_created"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.rule_name}"

    @classmethod
    def build(
        cls,
        rule: NotificationRule,
        event: str,
        key: str,
        at: datetime,
        machine: str | None,
        rescue: Rescue | None,
        entry: AuditEntry | None,
    ) -> Delivery:
        """Return a new message that is not stored yet. Its payload describes the current state."""
        shown_rescue = rescue_json(rescue, at) if rescue else None
        shown_audit = audit_json(entry) if entry else None
        message_id = f"msg_{uuid.uuid4().hex}"
        payload = {
            "id": message_id,
            "type": str(event),
            "timestamp": iso(at),
            "text": events.sentence(event, machine or "", shown_rescue, shown_audit),
            "data": {"machine": machine or None, "rescue": shown_rescue, "audit": shown_audit},
        }
        return cls(
            message_id=message_id,
            rule=rule,
            rule_name=rule.name,
            event=event,
            key=key,
            machine=machine or "",
            payload=payload,
        )

    @classmethod
    def test_message(cls, rule: NotificationRule) -> Delivery:
        """Return a new test message that is not stored yet."""
        return cls.build(rule, events.TEST, f"{events.TEST}:{uuid.uuid4().hex}", timezone.now(), None, None, None)

    @property
    def action(self) -> str:
        """The action of the audit entry that the message is about; empty without an entry."""
        entry: Mapping[str, Any] = self.payload["data"]["audit"] or {}
        return str(entry.get("action", ""))

    def payload_for(self, user: AbstractBaseUser | AnonymousUser | None) -> dict[str, Any]:
        """Return the payload, without the audit entry unless `user` may view the audit log. None means the console."""
        if user is None or user.has_perm(events.AUDIT_RIGHT):  # type: ignore[union-attr]
            return self.payload
        return {**self.payload, "data": {**self.payload["data"], "audit": None}}

    # Trying

    def claim(self, now: datetime) -> bool:
        """Reserve this delivery for one try. Return False if another worker holds it or has tried it."""
        rows = Delivery.objects.free(now).filter(pk=self.pk, tries=self.tries)
        if not rows.update(leased_until=now + LEASE, tries=F("tries") + 1):
            return False
        self.tries += 1
        return True

    def arrived(self, now: datetime, status: int | None = None) -> None:
        """Record that the receiver accepted it. Other waiting messages to this receiver become due now."""
        self._log_try(now, status, "")
        rows = Delivery.objects.filter(pk=self.pk)
        rows.update(
            state=self.State.DELIVERED,
            delivered_at=now,
            leased_until=None,
            last_status=status,
            last_error="",
            log=self.log,
        )
        others = Delivery.objects.waiting().filter(rule=self.rule_id, next_try_at__gt=now)
        # Messages that the receiver refused (4xx) keep their pauses.
        others.filter(Q(last_status__isnull=True) | Q(last_status__gte=500)).update(next_try_at=now)

    def failed(self, now: datetime, error: str, status: int | None = None) -> None:
        """Record why it was not delivered. Schedule the next try, or give it up."""
        self._log_try(now, status, error)
        again = self.tries <= len(PAUSES)
        Delivery.objects.waiting().filter(pk=self.pk).update(
            state=self.State.WAITING if again else self.State.GIVEN_UP,
            next_try_at=now + timedelta(seconds=PAUSES[self.tries - 1]) if again else now,
            leased_until=None,
            last_status=status,
            last_error=error[:1000],
            log=self.log,
        )
        Delivery.objects.due(now).filter(rule=self.rule_id).exclude(pk=self.pk).update(next_try_at=now + BREATHER)

    def give_up(self, now: datetime, error: str) -> None:
        """Record why it will not be sent."""
        self._log_try(now, None, error)
        Delivery.objects.waiting().filter(pk=self.pk).update(
            state=self.State.GIVEN_UP, next_try_at=now, leased_until=None, last_error=error[:1000], log=self.log
        )

    def _log_try(self, now: datetime, status: int | None, error: str) -> None:
        self.log = [*self.log, {"at": now.isoformat(), "status": status, "error": error[:1000]}][-20:]

    def send_again(self, actor: Actor) -> bool:
        """Queue a delivered or given up message again, with the same id. Return False if its rule was deleted."""
        if self.rule_id is None:
            return False
        with transaction.atomic():
            Delivery.objects.filter(pk=self.pk).update(
                state=self.State.WAITING, tries=0, next_try_at=timezone.now(), leased_until=None, delivered_at=None
            )
            AuditEntry.objects.record("notification_sent_again", actor=actor, subject=str(self)[:150])
        return True
