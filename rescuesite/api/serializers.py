"""Base classes of serializers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Self, TypeVar

from rest_framework import serializers
from rest_framework.request import Request

from machines.models.validation import Errors, collecting

T = TypeVar("T")


class ReadSerializer(serializers.Serializer[T]):
    """The fields of an answer. `represent` returns their values. Values without a field are not sent."""

    #: A method, or a function of `representation` as a staticmethod.
    represent: ClassVar[Callable[..., dict[str, Any]]]

    def to_representation(self, instance: T) -> dict[str, Any]:
        return super().to_representation(self.represent(instance))  # type: ignore[arg-type]


class WriteSerializer(serializers.Serializer[Any]):
    """The fields of a request. An unknown field is an error, so that a misspelt field is not ignored."""

    @classmethod
    def of(cls, request: Request, instance: Any = None, *, partial: bool = False) -> Self:
        """Validate the data of a request. Raises DRF's ValidationError."""
        order = cls(instance, data=request.data, partial=partial)
        order.is_valid(raise_exception=True)
        return order

    def check(self, values: dict[str, Any], exclude: Collection[str]) -> None:
        """Validate with the model. The fields in `exclude` already have errors. Raises Django's ValidationError."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)
        errors: dict[str, Any] = {name: ["There is no such field."] for name in data if name not in self.fields}
        values: dict[str, Any] = {}
        try:
            values = super().to_internal_value(data)
        except serializers.ValidationError as error:
            errors |= error.detail  # type: ignore[arg-type]
        if not errors:
            return values
        for field in self._writable_fields:
            with suppress(serializers.ValidationError, serializers.SkipField):
                if (name := str(field.field_name)) not in errors:
                    values[name] = field.run_validation(field.get_value(data))
        # Report all errors at once.
        found: Errors = {}
        with collecting(found):
            self.check(values, [*errors])
        raise serializers.ValidationError(found | errors)
