"""Email, sent by the mail server in RESCUESITE_EMAIL_URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email

from machines.notifications.channels.base import Channel

if TYPE_CHECKING:
    from machines.models.notification import NotificationRule

MAX_RECIPIENTS = 20
#: The fields of a rescue that an email contains.
_RESCUE = ("state", "image", "lifetime", "expires_at", "reason", "enabled_by", "address", "end_cause")


class Email(Channel):
    form_fields = {"recipients": forms.Textarea(attrs={"rows": 2, "class": "vLargeTextField"})}

    def validate(self, rule: NotificationRule) -> None:
        wrong = []
        if not settings.RESCUESITE_EMAIL_GIVEN:
            wrong = ["This site cannot send email. Ask its administrator to set RESCUESITE_EMAIL_URL."]
        elif not rule.addresses:
            wrong = ["Enter at least one address."]
        elif len(rule.addresses) > MAX_RECIPIENTS:
            wrong = [f"Enter at most {MAX_RECIPIENTS} addresses."]
        else:
            for address in rule.addresses:
                try:
                    validate_email(address)
                except ValidationError:
                    wrong.append(f"“{address[:100]}” is not a valid email address.")
        if wrong:
            raise ValidationError({"recipients": wrong})

    def destination(self, rule: NotificationRule) -> str:
        return ", ".join(rule.addresses)

    def send(self, rule: NotificationRule, payload: Mapping[str, Any], message_id: str) -> None:
        rescue = payload["data"]["rescue"] or {}
        lines = [payload["text"], "", f"When: {payload['timestamp']}"]
        lines += [f"{name.replace('_', ' ').capitalize()}: {rescue[name]}" for name in _RESCUE if rescue.get(name)]
        lines += [f"Host key: {key}" for key in rescue.get("host_keys", [])]
        lines += ["", f"Sent by the notification rule “{rule.name}” of {settings.RESCUESITE_BASE_URL}"]
        EmailMessage(
            subject=f"[rescue] {payload['text']}"[:200],
            body="\n".join(lines) + "\n",
            to=rule.addresses,
            headers={"Message-ID": f"<{message_id}@rescuesite>", "Auto-Submitted": "auto-generated"},
        ).send()
