"""How lists are filtered and ordered."""

from __future__ import annotations

from typing import Any

from django_filters.rest_framework import DjangoFilterBackend  # type: ignore[import-untyped]
from rest_framework.filters import OrderingFilter
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request


class Ordering(OrderingFilter):
    """By the view's `ordering` unless asked otherwise; rows that are alike stay in one order: none is on two pages.

    Where neither says anything, as the view's queryset has it.
    """

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> list[str]:
        chosen = super().get_ordering(request, queryset, view)
        return [*chosen, "-pk"] if chosen else []


class FilteredLists(GenericAPIView[Any]):
    """For views of resources: a list's parameters are not asked of a single one, which would be gone for no reason."""

    filter_backends = [DjangoFilterBackend, Ordering]

    def filter_queryset(self, queryset: Any) -> Any:
        return super().filter_queryset(queryset) if getattr(self, "action", "") == "list" else queryset
