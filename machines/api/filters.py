"""By what lists can be filtered."""

# django-filter has no types.
# mypy: disable-error-code="import-untyped, misc, no-any-return"

from __future__ import annotations

from typing import Any

import django_filters
from rest_framework.exceptions import ValidationError

from machines.addresses import AddressError, normalise_mac
from machines.models import Delivery, Machine, NotificationRule, Rescue, RescueImage
from rescuesite.api.lists import MomentFilter, SearchFilter


class MACFilter(django_filters.CharFilter):
    """A MAC address, in any form that people write."""

    def filter(self, qs: Any, value: str) -> Any:
        if not value:
            return qs
        try:
            return super().filter(qs, normalise_mac(value))
        except AddressError as error:
            raise ValidationError({"mac": [str(error)]}) from error


class MachineFilter(django_filters.FilterSet):
    q = SearchFilter(label="Part of a name, MAC, address, serial, UUID or note.")
    mac = MACFilter(field_name="macs__address")
    state = django_filters.ChoiceFilter(
        choices=[(state, state) for state in ("local", "armed", "booting", "up")], method="in_state"
    )
    image = django_filters.CharFilter(field_name="image__name", label="The image that it names.")
    unverified = django_filters.BooleanFilter(method="is_unverified")

    def in_state(self, queryset: Any, name: str, state: str) -> Any:
        return queryset.with_status(state)

    def is_unverified(self, queryset: Any, name: str, wanted: bool) -> Any:
        unverified = Machine.objects.unverified().values("pk")
        return queryset.filter(pk__in=unverified) if wanted else queryset.exclude(pk__in=unverified)


class ImageFilter(django_filters.FilterSet):
    default = django_filters.BooleanFilter(field_name="is_default")
    architecture = django_filters.ChoiceFilter(choices=RescueImage.Architecture.choices)
    reports = django_filters.BooleanFilter()


class RescueFilter(django_filters.FilterSet):
    machine = django_filters.CharFilter(field_name="machine__name", lookup_expr="iexact")
    state = django_filters.ChoiceFilter(choices=Rescue.State.choices, method="in_state")
    lifetime = django_filters.ChoiceFilter(choices=Rescue.Lifetime.choices)
    image = django_filters.CharFilter(field_name="image_name")
    enabled_by = django_filters.CharFilter(field_name="enabled_by_name")
    since = MomentFilter(field_name="enabled_at", lookup_expr="gte", label="Enabled then or later.")
    until = MomentFilter(field_name="enabled_at", lookup_expr="lt", label="Enabled before.")

    def in_state(self, queryset: Any, name: str, state: str) -> Any:
        # As the JSON has it: what time has ended is ended, whatever is stored.
        return queryset.with_status(state)


class AuditFilter(django_filters.FilterSet):
    machine = django_filters.CharFilter(lookup_expr="iexact")
    mac = MACFilter()
    action = django_filters.CharFilter()
    actor = django_filters.CharFilter()
    outcome = django_filters.CharFilter()
    since = MomentFilter(field_name="at", lookup_expr="gte", label="Then or later.")
    until = MomentFilter(field_name="at", lookup_expr="lt", label="Before.")


class SightingFilter(django_filters.FilterSet):
    mac = MACFilter()
    ignored = django_filters.BooleanFilter()
    since = MomentFilter(field_name="last_seen_at", lookup_expr="gte", label="Seen then or later.")


class NotificationRuleFilter(django_filters.FilterSet):
    active = django_filters.BooleanFilter(field_name="is_active")
    kind = django_filters.ChoiceFilter(choices=NotificationRule.Kind.choices)


class DeliveryFilter(django_filters.FilterSet):
    state = django_filters.ChoiceFilter(choices=Delivery.State.choices)
    event = django_filters.CharFilter()
    machine = django_filters.CharFilter(lookup_expr="iexact")
    rule = django_filters.CharFilter(field_name="rule_name", label="The rule's name.")
    since = MomentFilter(field_name="created_at", lookup_expr="gte", label="Made then or later.")
    until = MomentFilter(field_name="created_at", lookup_expr="lt", label="Made before.")
