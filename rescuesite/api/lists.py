"""Filters and ordering of lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django_filters import CharFilter, IsoDateTimeFilter  # type: ignore[import-untyped]
from django_filters.rest_framework import DjangoFilterBackend  # type: ignore[import-untyped]
from rest_framework.exceptions import ValidationError
from rest_framework.filters import OrderingFilter
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request

from rescuesite.search import MAX_CHARACTERS, search_objection


class Ordering(OrderingFilter):
    """Orders by the request, otherwise by the view's `ordering`, otherwise as the view's queryset.

    The primary key is the last criterion, so that no row is on two pages.
    """

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> list[str]:
        chosen = super().get_ordering(request, queryset, view)
        return [*chosen, "-pk"] if chosen else []


class MomentFilter(IsoDateTimeFilter):  # type: ignore[misc]
    """A time in ISO 8601. The query uses UTC, because PostgreSQL does not accept offsets beyond 15:59."""

    def filter(self, qs: Any, value: datetime | None) -> Any:
        if value is None:
            return qs
        try:
            return super().filter(qs, value.astimezone(UTC))
        except OverflowError:
            raise ValidationError({"detail": ["A time in the request is out of range."]}) from None


class SearchFilter(CharFilter):  # type: ignore[misc]
    """A search for words. The queryset's `named` defines the fields."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, max_length=MAX_CHARACTERS, **kwargs)

    def filter(self, qs: Any, value: str) -> Any:
        if not value:
            return qs
        if problem := search_objection(value):
            raise ValidationError({"q": [problem]})
        return qs.named(value)


class FilteredLists(GenericAPIView[Any]):
    """For views of resources. The filters apply only to the list, so that they cannot hide a single resource."""

    filter_backends = [DjangoFilterBackend, Ordering]

    def filter_queryset(self, queryset: Any) -> Any:
        return super().filter_queryset(queryset) if getattr(self, "action", "") == "list" else queryset
