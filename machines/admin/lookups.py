"""Limit what the admin's URLs and pages reveal: only look-ups that a list offers, and objects that the user may view.

Django's admin accepts every look-up of every field of the model. An attacker could guess a secret letter by letter, or
run a regular expression for minutes. Its forms and delete pages name related objects that the user may not view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import get_fields_from_path
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import models
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from rescuesite.search import search_objection

#: Databases and Python can compute with these years without an overflow in every time zone.
_YEARS = range(1900, 9000)
#: The largest number of digits of a primary key.
_DIGITS = 18
_HIERARCHY = ("year", "month", "day")


class ReadOnly:
    """For a ModelAdmin: nobody can add, change or delete rows."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class OfferedLookups(admin.ModelAdmin[Any]):
    """The base class of the site's admin pages."""

    #: The fields that links on other pages use, compared for equality.
    linked_lookups: tuple[str, ...] = ()

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Raises IncorrectLookupParameters for a value that is not valid. Django then redirects to the list."""
        assert request is not None
        first = lookup.partition("__")[0]
        if lookup in self.offered_lookups(request):
            if not self._makes_sense(lookup, str(value), request):
                raise IncorrectLookupParameters(f"The value of {lookup} is not valid.")
            return True
        if first != "pk" and first not in {field.name for field in self.opts.get_fields()}:
            raise IncorrectLookupParameters(f"{first} is not a field of this list.")
        return False

    def page(
        self, request: HttpRequest, template: str, title: str, *, shows_secret: bool = False, **context: Any
    ) -> TemplateResponse:
        """Return a page of the admin that Django does not have. Browsers do not store one that `shows_secret`.

        A secret is shown in the response only. A message would stay in the session until somebody reads it.
        """
        context |= {**self.admin_site.each_context(request), "title": title, "opts": self.opts}
        headers = {"Cache-Control": "no-store"} if shows_secret else None
        return TemplateResponse(request, template, context, headers=headers)

    def csv_of_list(
        self, request: HttpRequest, name: str, lines: Callable[[models.QuerySet[Any]], Iterable[str]]
    ) -> HttpResponseBase:
        """Return the rows that match the list's filters and search as a CSV file."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            rows = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            return HttpResponseRedirect(
                f"{reverse(f'admin:{self.opts.app_label}_{self.opts.model_name}_changelist')}?e=1"
            )
        response = StreamingHttpResponse(lines(rows), content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        return response

    def offered_lookups(self, request: HttpRequest) -> set[str]:
        """Return the look-ups that the filters, the date hierarchy and links to the list use."""
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
        """Whether a database accepts the value. Django would find out only during the query."""
        path, _, last = lookup.rpartition("__")
        if path and path == self.date_hierarchy and last in _HIERARCHY:
            year = request.GET.get(f"{path}__year", "")
            # A month without a year would be searched in every row.
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
        """Return the matching rows, and whether a row may occur twice."""
        return super().get_search_results(request, queryset, text)

    def get_field_queryset(self, db: str | None, db_field: Any, request: HttpRequest) -> models.QuerySet[Any] | None:
        """Offer only the selected objects in a form field if the user may not view objects of that model."""
        related = self.admin_site._registry.get(db_field.remote_field.model)
        if related is None or related.has_view_permission(request):
            return super().get_field_queryset(db, db_field, request)
        mine = self.model._default_manager.filter(pk=_page_of(request) or 0)
        chosen: models.QuerySet[Any] = db_field.remote_field.model._default_manager.all()
        return chosen.filter(pk__in=mine.values(db_field.name))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """List only the objects themselves, and count the related ones: the user may not be allowed to view those."""
        _, counts, missing, protected = super().get_deleted_objects(objs, request)
        return [str(obj) for obj in objs], counts, missing, protected

    def response_action(self, request: HttpRequest, queryset: models.QuerySet[Any], *args: Any, **kwargs: Any) -> Any:
        if not all(_is_number(pk, _DIGITS) for pk in request.POST.getlist(ACTION_CHECKBOX_NAME)):
            raise BadRequest("A selected row does not belong to this list.")
        return super().response_action(request, queryset, *args, **kwargs)


def _of_field(model: type[models.Model], path: str) -> Iterator[str]:
    """Yield the look-ups that Django's filter for a field uses."""
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
    """Return the primary key in the URL of the requested page."""
    asked = str(request.resolver_match.kwargs.get("object_id", "")) if request.resolver_match else ""
    return int(asked) if _is_number(asked, _DIGITS) else None


def _is_number(text: str, digits: int = 4) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits


def _is_plausible_time(text: str) -> bool:
    try:
        moment = parse_datetime(text)
    except ValueError:
        return False
    # Django's filters and our links write times with a time zone.
    return moment is not None and timezone.is_aware(moment) and moment.year in _YEARS
