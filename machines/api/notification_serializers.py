"""What the JSON of notification rules and messages looks like. What makes sense the model says."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from rest_framework import serializers

from machines import representation
from machines.models import Actor, Delivery, Machine, NotificationRule
from machines.models.notification import MAX_OVERDUE
from machines.notifications.channels import FORM_FIELDS
from machines.notifications.channels.email import MAX_RECIPIENTS
from machines.notifications.channels.webhook import MAX_URL
from machines.notifications.events import Event
from rescuesite.api.errors import renamed
from rescuesite.api.serializers import ReadSerializer, WriteSerializer

#: More machines than this nobody lists.
_MANY = 1000


class NotificationRuleSerializer(ReadSerializer[NotificationRule]):
    id = serializers.IntegerField()
    name = serializers.CharField()
    active = serializers.BooleanField()
    kind = serializers.ChoiceField(NotificationRule.Kind.choices)
    owner = serializers.CharField(
        allow_null=True, help_text="Who set where it goes: it tells what they may see. Null: the console made it."
    )
    url = serializers.CharField(help_text="Whole for those who may change rules; its path may be a secret.")
    recipients = serializers.ListField(child=serializers.CharField())
    events = serializers.ListField(child=serializers.ChoiceField(Event.choices))
    overdue_minutes = serializers.IntegerField()
    machines = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text="Null: all.")

    def represent(self, instance: NotificationRule) -> dict[str, Any]:
        request = self.context.get("request")
        may_change = request is None or request.user.has_perm("machines.change_notificationrule")
        return representation.rule_json(instance, whole_url=may_change)


class NewNotificationRuleSerializer(NotificationRuleSerializer):
    """With what is shown this once."""

    secret = serializers.CharField(help_text="With which messages are signed; shown this once.")

    def represent(self, instance: NotificationRule) -> dict[str, Any]:
        return super().represent(instance) | {"secret": instance.secret}


class NotificationRuleWriteSerializer(WriteSerializer):
    """A notification rule as it shall be."""

    name = serializers.CharField(max_length=100)
    active = serializers.BooleanField(required=False)
    kind = serializers.ChoiceField(NotificationRule.Kind.choices, required=False)
    url = serializers.CharField(required=False, allow_blank=True, max_length=MAX_URL)
    recipients = serializers.ListField(
        child=serializers.CharField(max_length=254), required=False, max_length=MAX_RECIPIENTS
    )
    events = serializers.ListField(child=serializers.ChoiceField(Event.choices), min_length=1, max_length=100)
    overdue_minutes = serializers.IntegerField(required=False, min_value=1, max_value=MAX_OVERDUE)
    machines = serializers.ListField(
        child=serializers.CharField(max_length=63),
        required=False,
        allow_null=True,
        max_length=_MANY,
        help_text="Null: all.",
    )

    def validate_machines(self, names: list[str] | None) -> list[Machine] | None:
        if names is None:
            return None
        wanted = {name.lower(): name for name in names}
        found = {machine.name.lower(): machine for machine in Machine.objects.named_exactly(list(wanted))}
        if unknown := [name for lowered, name in wanted.items() if lowered not in found]:
            raise serializers.ValidationError([f"There is no machine “{name}”." for name in unknown])
        return list(found.values())

    def add(self, actor: Actor) -> NotificationRule:
        """Raises ValidationError."""
        values, machines = self._values()
        rule = NotificationRule(**values)
        try:
            rule.issue(machines or [], actor)
        except ValidationError as error:
            raise renamed(error, _RULE_NAMES) from error
        return rule

    def revise(self, rule: NotificationRule, actor: Actor, *, whole: bool) -> None:
        """Change what is named; of the `whole` rule, what is not named becomes as in a new one."""
        values, machines = self._values()
        if whole:
            fresh = NotificationRule()
            names = ("is_active", "kind", *FORM_FIELDS, "overdue_minutes", "all_machines")
            values = {name: getattr(fresh, name) for name in names} | values
            machines = machines or []
        try:
            rule.revise(values, machines, actor)
        except ValidationError as error:
            raise renamed(error, _RULE_NAMES) from error

    def _values(self) -> tuple[dict[str, Any], list[Machine] | None]:
        values = dict(self.validated_data)
        machines: list[Machine] | None = None
        if "machines" in values:
            machines = values.pop("machines")
            values["all_machines"] = machines is None
            machines = machines or []
        if "active" in values:
            values["is_active"] = values.pop("active")
        if "recipients" in values:
            values["recipients"] = "\n".join(values["recipients"])
        return values, machines


_RULE_NAMES = {"is_active": "active", "all_machines": "machines"}


class TrySerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    status = serializers.IntegerField(allow_null=True, help_text="The receiver's answer, where there was one.")
    error = serializers.CharField()


class DeliverySerializer(ReadSerializer[Delivery]):
    id = serializers.IntegerField()
    message_id = serializers.CharField(help_text="The same in each try: by it a receiver knows a repeated message.")
    rule = serializers.CharField()
    event = serializers.CharField()
    machine = serializers.CharField(allow_null=True)
    state = serializers.ChoiceField(Delivery.State.choices)
    created_at = serializers.DateTimeField()
    delivered_at = serializers.DateTimeField(allow_null=True)
    next_try_at = serializers.DateTimeField(allow_null=True)
    tries = TrySerializer(many=True)
    payload = serializers.DictField()

    def represent(self, instance: Delivery) -> dict[str, Any]:
        return representation.delivery_json(instance, self.context["request"].user)
