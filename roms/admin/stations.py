"""Stations: hosts with cards, and whether a worker runs there."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from machines.admin.auditing import AuditedAdmin
from roms.models import JobState, Station


@admin.register(Station)
class StationAdmin(AuditedAdmin):
    list_display = ("name", "worker", "last_seen", "waiting", "notes")
    search_fields = ("name", "notes")
    ordering = ("name",)
    fields = ("name", "notes", "worker", "last_seen", "how_to")

    class Media:
        css = {"all": ["roms/roms.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        waiting = Count("flash_jobs", filter=Q(flash_jobs__state=JobState.QUEUED))
        stations: QuerySet[Any] = super().get_queryset(request).annotate(waiting_jobs=waiting)
        return stations

    def get_readonly_fields(self, request: HttpRequest, obj: Station | None = None) -> Any:
        # Workers are started with this name, so it must not change.
        return ("name", "worker", "last_seen", "how_to") if obj else ("worker", "last_seen", "how_to")

    def get_fields(self, request: HttpRequest, obj: Station | None = None) -> Any:
        return self.fields if obj else ("name", "notes")

    @admin.display(description="has a worker", boolean=True)
    def worker(self, station: Station) -> bool:
        return station.has_worker()

    @admin.display(description="worker last seen", ordering="seen_at")
    def last_seen(self, station: Station) -> SafeString | str:
        if station.seen_at is None:
            return "never"
        when = f"{timezone.localtime(station.seen_at):%Y-%m-%d %H:%M:%S}"
        return format_html('<span title="{}">{} ago</span>', when, timesince(station.seen_at).split(",")[0])

    @admin.display(description="waiting jobs", ordering="waiting_jobs")
    def waiting(self, station: Any) -> int:
        return int(station.waiting_jobs)

    @admin.display(description="how to start a worker")
    def how_to(self, station: Station) -> SafeString:
        return format_html(
            "Run <code>manage.py worker --station {}</code> on that host as root, with the site's settings.",
            station.name,
        )

    def snapshot(self, obj: Station) -> dict[str, Any]:
        return obj.snapshot()
