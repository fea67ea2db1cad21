"""The audit log: staff can read, search and export it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from machines.admin.lookups import ReadOnly
from machines.admin.search import MACSearch
from machines.boot.reasons import Reason, reason_text, reason_words
from machines.import_export import csv_text
from machines.models import AuditEntry
from machines.representation import audit_json
from machines.wording import action_text, source_text

_COLUMNS = ("id", "at", "actor", "source", "machine", "mac", "action", "outcome", "reason", "count", "details")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly, MACSearch):
    #: The page of a machine links to its entries.
    linked_lookups = ("machine_pk",)
    list_display = ("at", "machine_link", "what", "outcome", "why", "actor", "from_where", "mac", "count")
    search_fields = ("machine", "mac", "actor", "source", "reason", "subject")
    search_help_text = "Machine, MAC address in any form, person, address or reason."
    date_hierarchy = "at"
    list_per_page = 100
    show_full_result_count = False
    fields = (
        "at", "actor", "from_where", "machine_link", "mac", "what", "action", "subject", "outcome", "reason", "meaning",
        "count", "repeated_at", "readable_details",
    )  # fmt: skip
    change_list_template = "machines/audit_change_list.html"

    def get_list_filter(self, request: HttpRequest) -> Any:
        return ("at", ("action", ActionFilter), "outcome", DecisionReasonFilter)

    @admin.display(description="machine", ordering="machine")
    def machine_link(self, entry: AuditEntry) -> SafeString | str:
        if not entry.machine_pk:
            return "-"
        return format_html(
            '<a href="{}">{}</a>', reverse("admin:machines_machine_change", args=[entry.machine_pk]), entry.machine
        )

    @admin.display(description="what", ordering="action")
    def what(self, entry: AuditEntry) -> str:
        return action_text(entry.action)

    @admin.display(description="source", ordering="source")
    def from_where(self, entry: AuditEntry) -> str:
        return source_text(entry)

    @admin.display(description="why", ordering="reason")
    def why(self, entry: AuditEntry) -> SafeString:
        return format_html(
            '<span title="{}">{}</span>', reason_text(entry.reason), reason_words(entry.reason) or entry.subject
        )

    @admin.display(description="meaning")
    def meaning(self, entry: AuditEntry) -> str:
        return reason_text(entry.reason) or entry.subject

    @admin.display(description="details")
    def readable_details(self, entry: AuditEntry) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(entry.details, indent=2, ensure_ascii=False))

    def get_urls(self) -> list[URLPattern]:
        export = path("export/", self.admin_site.admin_view(self.export), name="machines_auditentry_export")
        return [export, *super().get_urls()]

    def export(self, request: HttpRequest) -> HttpResponseBase:
        return self.csv_of_list(request, "audit", lambda entries: _csv(entries.iterator(chunk_size=500)))


class ActionFilter(admin.AllValuesFieldListFilter):
    """Filters by action and shows the actions in words."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice in super().choices(changelist):
            yield {**choice, "display": action_text(str(choice["display"]))}


class DecisionReasonFilter(admin.SimpleListFilter):
    """Filters by the reason of a boot answer. Reasons that staff wrote can be searched."""

    title = "reason"
    parameter_name = "why"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason.value, reason_words(reason)) for reason in Reason]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(reason=self.value()) if self.value() else queryset


def _csv(entries: Iterable[AuditEntry]) -> Iterator[str]:
    rows = ([_text(audit_json(entry)[column]) for column in _COLUMNS] for entry in entries)
    return csv_text.lines(chain([_COLUMNS], rows))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
