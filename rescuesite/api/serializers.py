"""What serializers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers


class WriteSerializer(serializers.Serializer[Any]):
    """What a request orders. A misspelt field is an error, instead of an order other than was meant."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in self.fields]):
            raise serializers.ValidationError({name: ["There is no such field."] for name in unknown})
        return super().to_internal_value(data)
