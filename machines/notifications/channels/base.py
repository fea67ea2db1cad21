"""What a channel is: one way to tell somebody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms

if TYPE_CHECKING:
    from machines.models.notification import NotificationRule


class DeliveryError(Exception):
    """A message did not arrive. `status` is the receiver's answer, None where there was none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Channel(ABC):
    #: The rule's fields that say where it goes, and what a form asks for them with.
    form_fields: ClassVar[Mapping[str, type[forms.Widget] | forms.Widget]]
    #: Whether it signs what it sends, so that people need the rule's secret.
    is_signed: ClassVar[bool] = False

    @abstractmethod
    def validate(self, rule: NotificationRule) -> None:
        """Raise ValidationError, by field, where the rule does not say where to send."""

    @abstractmethod
    def destination(self, rule: NotificationRule) -> str:
        """Where it goes, without what may be a secret of the receiver."""

    @abstractmethod
    def send(self, rule: NotificationRule, payload: Mapping[str, Any], message_id: str) -> int | None:
        """Return the receiver's answer, where the channel has one. Raises DeliveryError where it did not arrive."""
