"""The search of lists for MAC addresses."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest

from machines.addresses import with_usual_macs
from machines.admin.lookups import OfferedLookups


class MACSearch(OfferedLookups):
    """A list that can be searched for a MAC address in any usual form."""

    def searched(self, request: HttpRequest, queryset: QuerySet[Any], text: str) -> tuple[QuerySet[Any], bool]:
        return super().searched(request, queryset, with_usual_macs(text))
