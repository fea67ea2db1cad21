"""Notification rules: which events the site reports, and to whom."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from machines.models.audit import Actor, AuditEntry, differences
from machines.models.machine import Machine
from machines.notifications import channels, events
from machines.notifications.channels import CHANNELS, webhook
from machines.notifications.channels.base import Channel
from machines.notifications.events import Event

if TYPE_CHECKING:
    from machines.models.delivery import Delivery

_BACKEND = "django.contrib.auth.backends.ModelBackend"
#: In minutes.
MAX_OVERDUE = 7 * 24 * 60


class NotificationRuleQuerySet(models.QuerySet["NotificationRule"]):
    def matching(self, event: str, machine_pk: int | None, action: str = "") -> list[NotificationRule]:
        """Return the active rules for `event` and this machine, in one query. None: an event without a machine."""
        for_machine = Q(all_machines=True)
        if machine_pk is not None:
            for_machine |= Q(machines=machine_pk)
        rules = self.filter(for_machine).with_permitted_owner(event, action).distinct()
        return [rule for rule in rules if event in rule.events]

    def with_permitted_owner(self, event: str, action: str = "") -> NotificationRuleQuerySet:
        """Return the active rules whose owner may see `event` now. Rules made at the console have no owner."""
        permitted = Q(owner_name="")
        for right in events.needed_rights(event, action):
            permitted |= Q(owner__in=get_user_model()._default_manager.with_perm(right, backend=_BACKEND).values("pk"))
        return self.filter(permitted, is_active=True)


class NotificationRule(models.Model):
    """Which events of which machines are reported, and to whom."""

    Kind = channels.Kind

    name = models.CharField(
        max_length=100, unique=True, error_messages={"unique": "A rule with this name already exists."}
    )
    is_active = models.BooleanField("active", default=True)
    kind = models.CharField("channel", max_length=20, choices=channels.kinds, default=Kind.WEBHOOK)
    url = models.CharField(
        "webhook address",
        max_length=webhook.MAX_URL,
        blank=True,
        help_text="The site sends events to this URL as signed JSON. Slack and Mattermost understand it too.",
    )
    recipients = models.TextField(blank=True, help_text="Email addresses, separated by spaces or line breaks.")
    events: models.JSONField[list[str], list[str]] = models.JSONField(default=list)
    overdue_minutes = models.PositiveIntegerField(
        "minutes until a rescue is overdue",
        default=30,
        help_text="For the event “rescue system is not up in time”. The time starts when staff enable the rescue, or "
        "when the machine boots again in the same rescue.",
    )
    all_machines = models.BooleanField("all machines", default=True, help_text="If not, choose the machines below.")
    machines = models.ManyToManyField(Machine, blank=True, related_name="+")
    #: The user who last set the recipients. The rule reports what the owner may see. Without an owner it sends nothing.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False, related_name="+"
    )
    #: Empty for a rule made at the console. Such a rule reports every event.
    owner_name = models.CharField("owner", max_length=150, blank=True, editable=False)
    #: The site signs with it and therefore stores it in clear text. People see it once.
    secret = models.CharField(max_length=100, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    #: Events that time alone caused before this moment are not reported.
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
            errors["events"] = f"Unknown: {', '.join(map(str, unknown))}. Choose from: {', '.join(Event.values)}."
        else:
            self.events = [event for event in Event.values if event in self.events]
        if not 1 <= (self.overdue_minutes or 0) <= MAX_OVERDUE:
            errors["overdue_minutes"] = f"Enter a number between 1 and {MAX_OVERDUE}."
        if errors:
            raise ValidationError(errors)

    def issue(self, machines: Iterable[Machine], actor: Actor) -> str:
        """Store this new rule with its audit entry. Return its signing secret. Raises ValidationError."""
        machines = list(machines)
        self.secret = webhook.new_secret()
        self._set_owner(actor)
        self.validate_with(machines)
        with transaction.atomic():
            self.save(force_insert=True)
            self.machines.set(machines)
            self.record("added", actor, self.snapshot())
        return self.secret

    def _receivers(self) -> tuple[str, str, list[str]]:
        return self.kind, self.url, self.addresses

    @property
    def has_inactive_owner(self) -> bool:
        """Whether the rule has an owner, and the owner's account is inactive or deleted."""
        return bool(self.owner_name) and (self.owner is None or not self.owner.is_active)

    def _set_owner(self, actor: Actor) -> None:
        self.owner_id = actor.user_pk
        self.owner_name = actor.name if actor.user_pk else ""

    def reason_not_to_send(self, event: str, action: str = "") -> str:
        """Say why the rule does not report `event`; empty if it does. `action` is the action of the audit entry."""
        if not self.is_active and event != events.TEST:
            return "The rule is not active."
        if self.has_inactive_owner:
            return (
                f"The rule belongs to {self.owner_name}, who has no active account. To become its owner, save the rule "
                "as active."
            )
        rights = events.needed_rights(event, action)
        if self.owner and rights and not any(self.owner.has_perm(right) for right in rights):
            return (
                f"The rule belongs to {self.owner_name}, who may not see this event. To become its owner, change its "
                "recipients."
            )
        return ""

    def validate_with(self, machines: Iterable[Machine]) -> None:
        """Raise ValidationError if this rule is not valid with these machines."""
        self.full_clean()
        if not self.all_machines and not list(machines):
            raise ValidationError({"machines": "Choose at least one machine, or all machines."})

    @property
    def channel(self) -> Channel:
        return CHANNELS[self.kind]

    @property
    def addresses(self) -> list[str]:
        return [word for word in re.split(r"[\s,;]+", self.recipients) if word]

    @property
    def destination(self) -> str:
        """Return the recipients as text, without the path of a webhook: it may be a secret."""
        return self.channel.destination(self)

    def snapshot(self) -> dict[str, Any]:
        """Return the rule as audit entries show it, without the path of a webhook: it may be a secret."""
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
        """Set the fields in `values`, and the machines unless None, in one transaction.

        Return False if nothing changed. Raises ValidationError.
        """
        with transaction.atomic():
            NotificationRule.objects.select_for_update().get(pk=self.pk)
            self.refresh_from_db()
            before, url, owner = self.snapshot(), self.url, self.owner_id
            receivers = self._receivers()
            for name, value in values.items():
                setattr(self, name, value)
            # A user who changes the recipients becomes the owner. Otherwise the new recipients would get events that
            # the old owner may see and this user may not. The same holds for a user who activates a rule without an
            # active owner.
            if receivers != self._receivers() or (self.is_active and self.has_inactive_owner):
                self._set_owner(actor)
            self.validate_with(self.machines.all() if machines is None else machines)
            self.changed_at = timezone.now()
            self.save()
            if machines is not None:
                self.machines.set(machines)
            changes = differences(before, self.snapshot())
            if not changes and url == self.url and owner == self.owner_id:
                return False
            # A webhook URL that differs only in its path is not shown: the path may be a secret.
            self.record("changed", actor, changes or {"before": {}, "after": {}})
        return True

    def delete_audited(self, actor: Actor) -> None:
        """Delete the rule with an audit entry. Messages that are still waiting are given up."""
        with transaction.atomic():
            self.record("deleted", actor, self.snapshot())
            waiting = self.deliveries.filter(state=self.deliveries.model.State.WAITING)
            waiting.update(state=self.deliveries.model.State.GIVEN_UP, last_error="The rule was deleted.")
            self.delete()

    def renew_secret(self, actor: Actor) -> str:
        """Replace the signing secret and return the new one.

        Raises PermissionDenied for another user's rule: the secret lets its holder sign messages for that user.
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
        """Queue a test message."""
        message = self.deliveries.model.test_message(self)
        with transaction.atomic():
            message.save(force_insert=True)
            self.record("tested", actor, {})
        return message

    def record(self, what: str, actor: Actor, details: Mapping[str, Any]) -> None:
        AuditEntry.objects.record(f"notificationrule_{what}", actor=actor, subject=self.name, details=details)
