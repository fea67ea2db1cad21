"""How lists are searched."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from machines.addresses import with_usual_macs


class MACSearch(admin.ModelAdmin[Any]):
    """A list that is searched for a MAC address in any form that people write."""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return super().get_search_results(request, queryset, with_usual_macs(search_term))
