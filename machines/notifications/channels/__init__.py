"""The channels of notifications. To add one, add a module here, a Kind and an item of CHANNELS."""

from __future__ import annotations

from django.db import models

from machines.notifications.channels.base import Channel
from machines.notifications.channels.email import Email
from machines.notifications.channels.webhook import Webhook


class Kind(models.TextChoices):
    WEBHOOK = "webhook"
    EMAIL = "email", "email"


CHANNELS: dict[str, Channel] = {Kind.WEBHOOK: Webhook(), Kind.EMAIL: Email()}

#: The fields of a rule for the recipients of all channels, with their form widgets.
FORM_FIELDS = {name: widget for channel in CHANNELS.values() for name, widget in channel.form_fields.items()}


def kinds() -> list[tuple[str, str]]:
    """Return the choices. Migrations refer to this function, so a new channel needs no migration."""
    return Kind.choices
