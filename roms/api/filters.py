"""By what lists can be filtered."""

# django-filter has no types.
# mypy: disable-error-code="import-untyped, misc, no-any-return"

from __future__ import annotations

from typing import Any

import django_filters
from django import forms

from rescuesite.api.lists import SearchFilter
from roms.models import TARGETS, FlashKind, JobState, Profile


class NumberOfJobFilter(django_filters.Filter):
    """By the number of a job; larger ones than a database can hold are said to be wrong."""

    field_class = forms.IntegerField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, min_value=0, max_value=2**63 - 1, **kwargs)


class JobFilter(django_filters.FilterSet):
    state = django_filters.MultipleChoiceFilter(
        choices=JobState.choices, method="in_state", label="May be given several times."
    )
    card = django_filters.CharFilter(field_name="card__slug", label="The card's key.")
    requested_by = django_filters.CharFilter(field_name="requested_by_name")

    def in_state(self, queryset: Any, name: str, states: list[str]) -> Any:
        # As the JSON has it: a job whose worker has gone is lost, whatever is stored.
        return queryset.with_status(*states) if states else queryset


class BuildFilter(JobFilter):
    target = django_filters.ChoiceFilter(choices=TARGETS)
    profile = django_filters.ChoiceFilter(choices=Profile.choices)
    script_sha256 = django_filters.CharFilter()


class FlashJobFilter(JobFilter):
    action = django_filters.ChoiceFilter(choices=FlashKind.choices)
    station = django_filters.CharFilter(field_name="station__name")
    machine = django_filters.CharFilter(field_name="machine_name", lookup_expr="iexact")
    build = NumberOfJobFilter(field_name="build_id")


class CardFilter(django_filters.FilterSet):
    q = SearchFilter(label="Words that are in its name, PCI id, driver or programmer, like “intel 1229”.")
    flashable = django_filters.BooleanFilter(method="can_be_flashed", label="Whether flashrom can write to it.")

    def can_be_flashed(self, queryset: Any, name: str, wanted: bool) -> Any:
        return queryset.flashable() if wanted else queryset.filter(programmer="")


class InstalledROMFilter(django_filters.FilterSet):
    machine = django_filters.CharFilter(field_name="machine__name", lookup_expr="iexact")
    card = django_filters.CharFilter(field_name="card__slug")
    build = NumberOfJobFilter(field_name="build_id")
    outdated = django_filters.BooleanFilter(
        field_name="is_outdated", label="Whether a later build for such a card embeds another script."
    )
