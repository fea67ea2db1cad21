"""Who is told of what: rules, and what is to be delivered because of them.

A delivery is made in the transaction of what it tells of, so nothing is told that did not happen, and nothing that
happened is lost. Its life: waiting ──arrived──> delivered, or ──too many tries──> given up.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.db.models import F, Q
from django.utils import timezone

from machines.models.audit import Actor, AuditEntry, differences
from machines.models.machine import Machine
from machines.models.turns import portions
from machines.notifications import channels, events
from machines.notifications.channels import CHANNELS, webhook
from machines.notifications.channels.base import Channel
from machines.notifications.events import Event
from machines.representation import audit_json, iso, rescue_json

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    from machines.models.rescue import Rescue

logger = logging.getLogger(__name__)

_BACKEND = "django.contrib.auth.backends.ModelBackend"
#: Minutes.
MAX_OVERDUE = 7 * 24 * 60
#: Seconds after each failed try until the next one; after the last nobody tries any more. About two days.
PAUSES = (5, 15, 60, 5 * 60, 15 * 60, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
#: Whoever tries holds a delivery for so long: longer than any try takes.
LEASE = timedelta(minutes=2)
#: Between two tries at a receiver that fails, whatever waits for it.
BREATHER = timedelta(seconds=30)


class NotificationRuleQuerySet(models.QuerySet["NotificationRule"]):
    def about(self, event: str, machine_pk: int | None, action: str = "") -> list[NotificationRule]:
        """The active rules that tell of `event` for this machine, or for none. One query."""
        anyone = Q(all_machines=True)
        for_it = anyone if machine_pk is None else anyone | Q(machines=machine_pk)
        rules = self.filter(for_it).of_entitled(event, action).distinct()
        return [rule for rule in rules if event in rule.events]

    def of_entitled(self, event: str, action: str = "") -> NotificationRuleQuerySet:
        """The active rules whose owners may see `event` now; those that the site's console made have no owner."""
        entitled = Q(owner_name="")
        for right in events.needed_rights(event, action):
            entitled |= Q(owner__in=get_user_model()._default_manager.with_perm(right, backend=_BACKEND).values("pk"))
        return self.filter(entitled, is_active=True)


class NotificationRule(models.Model):
    """Whom to tell, of which events, of which machines."""

    Kind = channels.Kind

    name = models.CharField(
        max_length=100, unique=True, error_messages={"unique": "There is a rule of this name already."}
    )
    is_active = models.BooleanField("active", default=True)
    kind = models.CharField("way", max_length=20, choices=channels.kinds, default=Kind.WEBHOOK)
    url = models.CharField(
        "webhook address",
        max_length=webhook.MAX_URL,
        blank=True,
        help_text="What happens is posted there as JSON, signed. Slack and Mattermost understand it too.",
    )
    recipients = models.TextField(blank=True, help_text="E-mail addresses, separated by spaces or lines.")
    events: models.JSONField[list[str], list[str]] = models.JSONField(default=list)
    overdue_minutes = models.PositiveIntegerField(
        "minutes until a rescue is overdue",
        default=30,
        help_text="For “not up after so many minutes”, from enabling, or from a later boot of the same rescue.",
    )
    all_machines = models.BooleanField("all machines", default=True, help_text="Otherwise those that you choose.")
    machines = models.ManyToManyField(Machine, blank=True, related_name="+")
    #: Whoever changed it last. It tells what they may see, and nothing once they are gone.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False, related_name="+"
    )
    #: Empty for a rule that the site's console made: nobody's rights are its limit.
    owner_name = models.CharField("owner", max_length=150, blank=True, editable=False)
    #: The site signs with it, so it has to know it; people see it once.
    secret = models.CharField(max_length=100, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    #: What time alone did before is not told.
    changed_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = NotificationRuleQuerySet.as_manager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        errors: dict[str, Any] = {}
        if self.kind in CHANNELS:
            try:
                self.channel.validate(self)
            except ValidationError as error:
                errors |= error.error_dict
        if not isinstance(self.events, list) or not self.events:
            errors["events"] = "Choose at least one event."
        elif unknown := [event for event in self.events if event not in Event.values]:
            errors["events"] = f"Not known: {', '.join(map(str, unknown))}. There are: {', '.join(Event.values)}."
        else:
            self.events = [event for event in Event.values if event in self.events]
        if not 1 <= (self.overdue_minutes or 0) <= MAX_OVERDUE:
            errors["overdue_minutes"] = f"It is between 1 and {MAX_OVERDUE}."
        if errors:
            raise ValidationError(errors)

    def issue(self, machines: Iterable[Machine], actor: Actor) -> str:
        """Store this new rule, with its audit entry, and return its signing secret. Raises ValidationError."""
        machines = list(machines)
        self.secret = webhook.new_secret()
        self._belongs_to(actor)
        self.check_with(machines)
        with transaction.atomic():
            self.save(force_insert=True)
            self.machines.set(machines)
            self.record("added", actor, self.snapshot())
        return self.secret

    def _goes_to(self) -> tuple[str, str, list[str]]:
        return self.kind, self.url, self.addresses

    def _is_orphan(self) -> bool:
        return bool(self.owner_name) and (self.owner is None or not self.owner.is_active)

    def _belongs_to(self, actor: Actor) -> None:
        self.owner_id = actor.user_pk
        self.owner_name = actor.name if actor.user_pk else ""

    def objection_to_telling(self, event: str, action: str = "") -> str:
        """Why its owner is not told of `event`, empty where they are. `action` is the audit entry's."""
        if not self.is_active and event != events.TEST:
            return "The rule is not active."
        if not self.owner_name:
            return ""
        if self.owner is None or not self.owner.is_active:
            return (
                f"{self.owner_name}, whose rule it is, has no active account. Whoever saves the rule as active owns it."
            )
        rights = events.needed_rights(event, action)
        if rights and not any(self.owner.has_perm(right) for right in rights):
            return f"{self.owner_name}, whose rule it is, may not see this. Whoever sets its address owns it."
        return ""

    def check_with(self, machines: Iterable[Machine]) -> None:
        """Raise ValidationError where this rule, with these machines, makes no sense."""
        self.full_clean()
        if not self.all_machines and not list(machines):
            raise ValidationError({"machines": "Choose machines, or all."})

    @property
    def channel(self) -> Channel:
        return CHANNELS[self.kind]

    @property
    def addresses(self) -> list[str]:
        return [word for word in re.split(r"[\s,;]+", self.recipients) if word]

    @property
    def destination(self) -> str:
        """Where it goes, without what may be a secret of the receiver."""
        return self.channel.destination(self)

    def snapshot(self) -> dict[str, Any]:
        """The rule as audit entries show it: no path of the webhook, which may be a secret."""
        return {
            "name": self.name,
            "active": self.is_active,
            "kind": self.kind,
            "destination": self.destination,
            "owner": self.owner_name,
            "events": self.events,
            "overdue_minutes": self.overdue_minutes,
            "all_machines": self.all_machines,
            "machines": [machine.name for machine in self.machines.all()] if self.pk else [],
        }

    def revise(self, values: Mapping[str, Any], machines: Sequence[Machine] | None, actor: Actor) -> bool:
        """Change what `values` name, and the machines unless None; all or nothing. False where nothing differs.

        Raises ValidationError.
        """
        with transaction.atomic():
            NotificationRule.objects.select_for_update().get(pk=self.pk)
            self.refresh_from_db()
            before, url, owner = self.snapshot(), self.url, self.owner_id
            goes_to = self._goes_to()
            for name, value in values.items():
                setattr(self, name, value)
            # Who says where it goes is the limit: nobody else's rights may feed an address of theirs. A rule whose
            # owner is gone is taken over by whoever saves it as active.
            if goes_to != self._goes_to() or (self.is_active and self._is_orphan()):
                self._belongs_to(actor)
            self.check_with(self.machines.all() if machines is None else machines)
            self.changed_at = timezone.now()
            self.save()
            if machines is not None:
                self.machines.set(machines)
            changes = differences(before, self.snapshot())
            if not changes and url == self.url and owner == self.owner_id:
                return False
            # An address that differs in its path alone is not shown: that may be a secret.
            self.record("changed", actor, changes or {"before": {}, "after": {}})
        return True

    def delete_audited(self, actor: Actor) -> None:
        """Delete the rule, with its audit entry; what was not delivered yet never will be."""
        with transaction.atomic():
            self.record("deleted", actor, self.snapshot())
            self.deliveries.filter(state=Delivery.State.WAITING).update(
                state=Delivery.State.GIVEN_UP, last_error="The rule was deleted."
            )
            self.delete()

    def renew_secret(self, actor: Actor) -> str:
        """Let what is sent from now on be signed with another secret, which is returned.

        Raises PermissionDenied for the rule of somebody else: who knows its secret could write in its name.
        """
        if self.owner_id not in {None, actor.user_pk} and not actor.is_superuser:
            raise PermissionDenied(
                f"This rule belongs to {self.owner_name}. Only its owner or a superuser can do this."
            )
        with transaction.atomic():
            self.secret = webhook.new_secret()
            self.save(update_fields=["secret"])
            self.record("secret_renewed", actor, {})
        return self.secret

    def send_test(self, actor: Actor) -> Delivery:
        """Queue a message that says nothing, to see whether it arrives."""
        message = Delivery.of(self, events.TEST, f"{events.TEST}:{uuid.uuid4().hex}", timezone.now(), None, None, None)
        with transaction.atomic():
            message.save(force_insert=True)
            self.record("tested", actor, {})
        return message

    def record(self, what: str, actor: Actor, details: Mapping[str, Any]) -> None:
        AuditEntry.objects.record(f"notificationrule_{what}", actor=actor, subject=self.name, details=details)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def announce(self, entry: AuditEntry, rescue: Rescue | None) -> None:
        """Queue what is to be told of a new audit entry, if it is an event at all.

        Never raises what only this would be to blame for: neither a machine nor staff are kept from anything by it.
        """
        event = events.event_of(entry)
        if event is None:
            return
        key = events.key_of(event, entry)
        try:
            with transaction.atomic():
                self.announce_event(event, key, entry.at, entry.machine_pk, entry.machine, rescue, entry)
        except Exception:
            logger.exception("nobody can be told of %s", entry)

    def announce_event(
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
        """Queue `event` for each rule that tells of it, once for each key."""
        if rules is None:
            rules = NotificationRule.objects.about(event, machine_pk, entry.action if entry else "")
        if rules:
            self.bulk_create(
                [Delivery.of(rule, event, key, at, machine, rescue, entry) for rule in rules], ignore_conflicts=True
            )

    def waiting(self) -> DeliveryQuerySet:
        return self.filter(state=Delivery.State.WAITING)

    def free(self, now: datetime) -> DeliveryQuerySet:
        """Those that wait, and that nobody is trying to deliver at `now`."""
        return self.waiting().filter(Q(leased_until__isnull=True) | Q(leased_until__lte=now))

    def due(self, now: datetime) -> DeliveryQuerySet:
        """Those to be tried at `now`, oldest first."""
        return self.free(now).filter(next_try_at__lte=now).order_by("pk")

    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> DeliveryQuerySet:
        """Those that tell what the user may see elsewhere too."""
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
        """Remove what was made before a time and waits no more; returns how many."""
        old = self.exclude(state=Delivery.State.WAITING).filter(created_at__lt=before)
        return sum(self.filter(pk__in=portion).delete()[0] for portion in portions(old))


class Delivery(models.Model):
    """One message to one receiver, and the record of the tries."""

    class State(models.TextChoices):
        WAITING = "waiting"
        DELIVERED = "delivered"
        GIVEN_UP = "given_up", "given up"

    #: What stands in the message, and its id there: the receiver knows a repeated one by it.
    message_id = models.CharField(max_length=40, unique=True, editable=False)
    # Without a constraint: a rule that is deleted just now must not cost a machine the answer that is committed along.
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
    #: One line for each try.
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
    def of(
        cls,
        rule: NotificationRule,
        event: str,
        key: str,
        at: datetime,
        machine: str | None,
        rescue: Rescue | None,
        entry: AuditEntry | None,
    ) -> Delivery:
        """A new message, not stored; it holds how things stand now."""
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

    @property
    def action(self) -> str:
        """That of the audit entry that it tells of; empty where it tells of none."""
        entry: Mapping[str, Any] = self.payload["data"]["audit"] or {}
        return str(entry.get("action", ""))

    def payload_for(self, user: AbstractBaseUser | AnonymousUser | None) -> dict[str, Any]:
        """What stands in it for `user`: without the audit entry for who may not read the log. None: for the console."""
        if user is None or user.has_perm(events.AUDIT_RIGHT):  # type: ignore[union-attr]
            return self.payload
        return {**self.payload, "data": {**self.payload["data"], "audit": None}}

    # Trying

    def claim(self, now: datetime) -> bool:
        """Hold this delivery for one try; False where somebody else does, or did."""
        rows = Delivery.objects.free(now).filter(pk=self.pk, tries=self.tries)
        if not rows.update(leased_until=now + LEASE, tries=F("tries") + 1):
            return False
        self.tries += 1
        return True

    def arrived(self, now: datetime, status: int | None = None) -> None:
        """Write down that it was taken; what waits for the same receiver is due again."""
        self._note(now, status, "")
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
        # Those that it answered with a refusal of their own keep their pauses.
        others.filter(Q(last_status__isnull=True) | Q(last_status__gte=500)).update(next_try_at=now)

    def failed(self, now: datetime, error: str, status: int | None = None) -> None:
        """Write down why it did not arrive, and when to try again, or that nobody will."""
        self._note(now, status, error)
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
        """Write down why it is not sent, now or later."""
        self._note(now, None, error)
        Delivery.objects.waiting().filter(pk=self.pk).update(
            state=self.State.GIVEN_UP, next_try_at=now, leased_until=None, last_error=error[:1000], log=self.log
        )

    def _note(self, now: datetime, status: int | None, error: str) -> None:
        self.log = [*self.log, {"at": now.isoformat(), "status": status, "error": error[:1000]}][-20:]

    def send_again(self, actor: Actor) -> bool:
        """Queue it once more, under the same id, though it was delivered or given up; False where its rule is gone."""
        if self.rule_id is None:
            return False
        with transaction.atomic():
            Delivery.objects.filter(pk=self.pk).update(
                state=self.State.WAITING, tries=0, next_try_at=timezone.now(), leased_until=None, delivered_at=None
            )
            AuditEntry.objects.record("notification_sent_again", actor=actor, subject=str(self)[:150])
        return True
