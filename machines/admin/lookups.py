"""What the admin's addresses and pages give away: what a list offers, and what their reader may view.

Django's own admin takes every look-up of every field of the list's model: also those that read a secret letter by
letter, or that run a pattern for minutes. Its forms and questions name objects of other pages, whoever reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import get_fields_from_path
from django.core.exceptions import BadRequest
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from rescuesite.search import search_objection

#: Databases and Python compute with these years without an overflow, whatever the time zone.
_YEARS = range(1900, 9000)
#: A primary key has no more.
_DIGITS = 18
_HIERARCHY = ("year", "month", "day")


class OfferedLookups(admin.ModelAdmin[Any]):
    """Base of all of the site's pages."""

    #: Fields that links of other pages name, compared for equality.
    linked_lookups: tuple[str, ...] = ()

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Raises IncorrectLookupParameters, which leads back to the list, for what makes no sense."""
        assert request is not None
        first = lookup.partition("__")[0]
        if lookup in self.offered_lookups(request):
            if not self._makes_sense(lookup, str(value), request):
                raise IncorrectLookupParameters(f"{lookup} cannot be that.")
            return True
        if first != "pk" and first not in {field.name for field in self.opts.get_fields()}:
            raise IncorrectLookupParameters(f"{first} is not a field of this list.")
        return False

    def offered_lookups(self, request: HttpRequest) -> set[str]:
        """The names that the list's filters, its date hierarchy and links to it use."""
        offered = set(self.linked_lookups)
        for entry in self.get_list_filter(request):
            name = entry[0] if isinstance(entry, tuple) else entry
            if isinstance(name, str):
                offered.update(_of_field(self.model, name))
            else:
                offered.add(entry.parameter_name)  # type: ignore[union-attr]
        if self.date_hierarchy:
            offered.update(f"{self.date_hierarchy}__{part}" for part in _HIERARCHY)
        return offered

    def _makes_sense(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Whether a database can be asked for the value; Django only finds out while it asks."""
        path, _, last = lookup.rpartition("__")
        if path and path == self.date_hierarchy and last in _HIERARCHY:
            year = request.GET.get(f"{path}__year", "")
            # A month of no year would be looked for in every row.
            return _is_number(year) and int(year) in _YEARS and _is_number(value)
        if last in {"gte", "lt"}:
            return _is_plausible_time(value)
        return "\0" not in value

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        if problem := search_objection(search_term):
            messages.error(request, problem)
            return queryset.none(), False
        return self.searched(request, queryset, search_term)

    def searched(
        self, request: HttpRequest, queryset: models.QuerySet[Any], text: str
    ) -> tuple[models.QuerySet[Any], bool]:
        """What a search leaves of `queryset`; whether it may hold a row twice."""
        return super().get_search_results(request, queryset, text)

    def get_field_queryset(self, db: str | None, db_field: Any, request: HttpRequest) -> models.QuerySet[Any] | None:
        """Of objects that the reader may not view, a form knows only those that are chosen already."""
        related = self.admin_site._registry.get(db_field.remote_field.model)
        if related is None or related.has_view_permission(request):
            return super().get_field_queryset(db, db_field, request)
        mine = self.model._default_manager.filter(pk=_page_of(request) or 0)
        chosen: models.QuerySet[Any] = db_field.remote_field.model._default_manager.all()
        return chosen.filter(pk__in=mine.values(db_field.name))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """What goes with the objects is counted, not named: it may be of pages that the reader may not view."""
        _, counts, missing, protected = super().get_deleted_objects(objs, request)
        return [str(obj) for obj in objs], counts, missing, protected

    def response_action(self, request: HttpRequest, queryset: models.QuerySet[Any], *args: Any, **kwargs: Any) -> Any:
        if not all(_is_number(pk, _DIGITS) for pk in request.POST.getlist(ACTION_CHECKBOX_NAME)):
            raise BadRequest("What was chosen is not a row of this list.")
        return super().response_action(request, queryset, *args, **kwargs)


def _of_field(model: type[models.Model], path: str) -> Iterator[str]:
    """The names that Django's filter for a field uses."""
    field = get_fields_from_path(model, path)[-1]
    yield f"{path}__isnull"
    if field.remote_field:
        yield f"{path}__{field.remote_field.model._meta.pk.name}__exact"
    elif isinstance(field, models.DateField):
        yield from (f"{path}__gte", f"{path}__lt")
    elif isinstance(field, models.BooleanField) or field.choices:
        yield f"{path}__exact"
    else:
        yield path


def _page_of(request: HttpRequest) -> int | None:
    """The primary key of the object whose page was asked for."""
    asked = str(request.resolver_match.kwargs.get("object_id", "")) if request.resolver_match else ""
    return int(asked) if _is_number(asked, _DIGITS) else None


def _is_number(text: str, digits: int = 4) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits


def _is_plausible_time(text: str) -> bool:
    try:
        moment = parse_datetime(text)
    except ValueError:
        return False
    # As Django's filters and our links write it: with its time zone.
    return moment is not None and timezone.is_aware(moment) and moment.year in _YEARS
