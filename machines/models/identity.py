"""The identity of a machine: the values that its requests must contain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

from machines import smbios
from machines.addresses import parse_ip
from machines.boot.request import MAX_VALUE, UNDERSTOOD

#: Shorter than the stored values of a request, so that a truncated value cannot match.
MAX_EXPECTED = MAX_VALUE - 1
IDENTITY_NAMES = (*UNDERSTOOD, "user_agent")


def check_identity(value: Any) -> None:
    """Raise ValidationError unless `value` maps names that a network card can send to possible values."""
    if not isinstance(value, Mapping):
        raise ValidationError('Enter the identity like {"uuid": "…", "serial": "…"}.')
    for name, expected in value.items():
        if name not in IDENTITY_NAMES:
            raise ValidationError(f"“{name}” is not a valid name. Use one of: {', '.join(IDENTITY_NAMES)}.")
        if not isinstance(expected, str) or not expected.strip() or len(expected) > MAX_EXPECTED:
            raise ValidationError(f"The value of “{name}” must be a text of 1 to {MAX_EXPECTED} characters.")
        if not expected.isprintable():
            raise ValidationError(f"The value of “{name}” contains a character that a network card cannot send.")
        if name in smbios.ADDRESSES and parse_ip(expected) is None:
            raise ValidationError(f"The value of “{name}” must be an IP address.")
        try:
            smbios.normalise(name, expected)
        except ValueError as error:
            raise ValidationError(str(error)) from error


class IdentityField(models.JSONField[dict[str, str], dict[str, str]]):
    """A mapping of names to the values that the machine must send. Empty means that nothing is checked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"default": dict, "blank": True, "validators": [check_identity], **kwargs})

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """Return the identity in its stored form, without the padding of vendors."""
        cleaned = super().clean(value, model_instance)
        return {name: smbios.normalise(name, expected) for name, expected in cleaned.items()}

    def formfield(self, **kwargs: Any) -> Any:
        return super().formfield(**{"form_class": IdentityFormField, **kwargs})


class IdentityFormField(forms.JSONField):
    """The form field of an identity. An empty field means an empty mapping."""

    def clean(self, value: Any) -> Any:
        return super().clean(value) or {}
