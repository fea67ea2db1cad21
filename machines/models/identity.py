"""What a machine must say of itself to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

from machines import smbios
from machines.addresses import parse_ip
from machines.boot.request import MAX_VALUE, UNDERSTOOD

#: Shorter than what is kept of a request, so that a value that was cut cannot match.
MAX_EXPECTED = MAX_VALUE - 1
IDENTITY_NAMES = (*UNDERSTOOD, "user_agent")


def check_identity(value: Any) -> None:
    """Raise ValidationError unless `value` maps names that a NIC can send to texts that it can send."""
    if not isinstance(value, Mapping):
        raise ValidationError('Write it like {"uuid": "…", "serial": "…"}.')
    for name, expected in value.items():
        if name not in IDENTITY_NAMES:
            raise ValidationError(f"“{name}” is nothing that a NIC sends; known are: {', '.join(IDENTITY_NAMES)}.")
        if not isinstance(expected, str) or not expected.strip() or len(expected) > MAX_EXPECTED:
            raise ValidationError(f"What is expected of “{name}” must be a text of 1 to {MAX_EXPECTED} characters.")
        if not expected.isprintable():
            raise ValidationError(f"What is expected of “{name}” holds a character that no NIC sends.")
        if name in smbios.ADDRESSES and parse_ip(expected) is None:
            raise ValidationError(f"What is expected of “{name}” must be an IP address.")
        try:
            smbios.normalise(name, expected)
        except ValueError as error:
            raise ValidationError(str(error)) from error


class IdentityField(models.JSONField[dict[str, str], dict[str, str]]):
    """A mapping of names that a NIC can send to what this machine sends; empty where nothing is expected."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"default": dict, "blank": True, "validators": [check_identity], **kwargs})

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """The identity in the form in which it is stored: as vendors meant it, without their padding."""
        cleaned = super().clean(value, model_instance)
        return {name: smbios.normalise(name, expected) for name, expected in cleaned.items()}

    def formfield(self, **kwargs: Any) -> Any:
        return super().formfield(**{"form_class": IdentityFormField, **kwargs})


class IdentityFormField(forms.JSONField):
    """An identity as people edit it: an emptied field expects nothing."""

    def clean(self, value: Any) -> Any:
        return super().clean(value) or {}
