"""The ways to tell somebody. Another one is a module here, and its two lines below."""

from __future__ import annotations

from django.db import models

from machines.notifications.channels.base import Channel
from machines.notifications.channels.email import Email
from machines.notifications.channels.webhook import Webhook


class Kind(models.TextChoices):
    WEBHOOK = "webhook"
    EMAIL = "email", "e-mail"


CHANNELS: dict[str, Channel] = {Kind.WEBHOOK: Webhook(), Kind.EMAIL: Email()}

#: The rule's fields that say where it goes, of all channels, and what a form asks for them with.
FORM_FIELDS = {name: widget for channel in CHANNELS.values() for name, widget in channel.form_fields.items()}


def kinds() -> list[tuple[str, str]]:
    """The choices, asked for when they are needed: migrations name this function, so a new channel needs none."""
    return Kind.choices
