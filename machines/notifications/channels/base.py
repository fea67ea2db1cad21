"""The base class of channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms

if TYPE_CHECKING:
    from machines.models.notification import NotificationRule


class DeliveryError(Exception):
    """A message was not delivered. `status` is the receiver's HTTP status; None if there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Channel(ABC):
    #: The fields of a rule for the recipients of this channel, with their form widgets.
    form_fields: ClassVar[Mapping[str, type[forms.Widget] | forms.Widget]]
    #: Whether the channel signs its messages, so that receivers need the rule's secret.
    is_signed: ClassVar[bool] = False

    @abstractmethod
    def validate(self, rule: NotificationRule) -> None:
        """Raise ValidationError, by field, if the recipients of the rule are not valid."""

    @abstractmethod
    def destination(self, rule: NotificationRule) -> str:
        """Return the recipients as text, without parts that may be secret."""

    @abstractmethod
    def send(self, rule: NotificationRule, payload: Mapping[str, Any], message_id: str) -> int | None:
        """Send a message and return the receiver's HTTP status, if the channel has one. Raises DeliveryError."""
