"""How lists are filtered and ordered."""

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
    """By the view's `ordering` unless asked otherwise; rows that are alike stay in one order: none is on two pages.

    Where neither says anything, as the view's queryset has it.
    """

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> list[str]:
        chosen = super().get_ordering(request, queryset, view)
        return [*chosen, "-pk"] if chosen else []


class MomentFilter(IsoDateTimeFilter):  # type: ignore[misc]
    """A time, ISO 8601. Whatever its offset, databases are asked in UTC: PostgreSQL takes none beyond 15:59."""

    def filter(self, qs: Any, value: datetime | None) -> Any:
        if value is None:
            return qs
        try:
            return super().filter(qs, value.astimezone(UTC))
        except OverflowError:
            raise ValidationError({"detail": ["A time that is asked for is too far away."]}) from None


class SearchFilter(CharFilter):  # type: ignore[misc]
    """Words that people type; the queryset's `named` knows where to look for them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, max_length=MAX_CHARACTERS, **kwargs)

    def filter(self, qs: Any, value: str) -> Any:
        if not value:
            return qs
        if problem := search_objection(value):
            raise ValidationError({"q": [problem]})
        return qs.named(value)


class FilteredLists(GenericAPIView[Any]):
    """For views of resources: a list's parameters are not asked of a single one, which would be gone for no reason."""

    filter_backends = [DjangoFilterBackend, Ordering]

    def filter_queryset(self, queryset: Any) -> Any:
        return super().filter_queryset(queryset) if getattr(self, "action", "") == "list" else queryset
