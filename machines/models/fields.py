"""Model fields that store addresses in a normal form. Queries use the same form."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

from machines.addresses import (
    AddressError,
    normalise_hosts,
    normalise_interfaces,
    normalise_mac,
    normalise_network,
)


class _NormalisedCharField(models.CharField[str, str]):
    """Text that `normalise` converts into its normal form. `normalise` raises AddressError for other text."""

    @staticmethod
    def normalise(text: str) -> str:
        raise NotImplementedError

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return text
        try:
            return self.normalise(text)
        except AddressError as error:
            raise ValidationError(str(error), code="invalid") from error

    def get_prep_value(self, value: Any) -> Any:
        return self.to_python(value)

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        # The input may be longer than its normal form.
        return super().clean(self.to_python(value), model_instance)

    def formfield(self, **kwargs: Any) -> Any:
        # The form normalises too, because it looks for duplicates before the model sees the values.
        form_class = partial(NormalisedFormField, self.normalise)
        return super().formfield(**{"form_class": form_class, "max_length": (self.max_length or 0) + 20, **kwargs})


class NormalisedFormField(forms.CharField):
    """The form field of a `_NormalisedCharField`."""

    def __init__(self, normalise: Callable[[str], str], **kwargs: Any) -> None:
        self._normalise = normalise
        super().__init__(**kwargs)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        try:
            return self._normalise(text) if text else text
        except AddressError as error:
            raise ValidationError(str(error), code="invalid") from error


class MACAddressField(_NormalisedCharField):
    """A MAC address, stored as 00:02:b3:9d:94:8c."""

    normalise = staticmethod(normalise_mac)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_length": 17})


class NetworkField(_NormalisedCharField):
    """An IPv4 or IPv6 host or CIDR block, stored as Python's ipaddress writes it. A host has no /32 or /128."""

    normalise = staticmethod(normalise_network)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_length": 43})


class InterfacesField(_NormalisedCharField):
    """Addresses with prefix lengths, separated by spaces: 192.0.2.7/24 2001:db8::7/64."""

    normalise = staticmethod(normalise_interfaces)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_length": 200, "blank": True, **kwargs})


class HostsField(_NormalisedCharField):
    """Addresses of hosts, separated by spaces."""

    normalise = staticmethod(normalise_hosts)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_length": 200, "blank": True, **kwargs})
