"""To read: rescues, the audit log, and MAC addresses that belong to no machine."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.mixins import ListModelMixin
from rest_framework.viewsets import GenericViewSet

from machines.api import filters, serializers
from machines.models import AuditEntry, Rescue, Sighting
from rescuesite.api.lists import FilteredLists
from rescuesite.api.views import NotStored

M = TypeVar("M", bound=Model)


class LogViewSet(NotStored, FilteredLists, ListModelMixin, GenericViewSet[M]):
    """What happened, newest first."""


@extend_schema_view(list=extend_schema(summary="Rescues, newest first", tags=["rescues"]))
class RescueViewSet(LogViewSet[Rescue]):
    """Every activation of rescue mode, from enabling to its end."""

    queryset = Rescue.objects.select_related("machine")
    serializer_class = serializers.RescueSerializer
    filterset_class = filters.RescueFilter
    ordering = ["-enabled_at"]
    ordering_fields = ["enabled_at", "served_at", "up_at", "ended_at"]
    permissions = {"GET": "machines.view_machine"}


@extend_schema_view(list=extend_schema(summary="The audit log, newest first", tags=["audit"]))
class AuditViewSet(LogViewSet[AuditEntry]):
    """What staff did, what NICs asked, and why they got their answer."""

    queryset = AuditEntry.objects.all()
    serializer_class = serializers.AuditSerializer
    filterset_class = filters.AuditFilter
    ordering = ["-at"]
    ordering_fields = ["at"]
    permissions = {"GET": "machines.view_auditentry"}


@extend_schema_view(list=extend_schema(summary="Unknown MAC addresses that asked, latest first", tags=["sightings"]))
class SightingViewSet(LogViewSet[Sighting]):
    """MAC addresses that asked what to boot, and belong to no machine."""

    queryset = Sighting.objects.all()
    serializer_class = serializers.SightingSerializer
    filterset_class = filters.SightingFilter
    ordering = ["-last_seen_at"]
    ordering_fields = ["first_seen_at", "last_seen_at", "count"]
    permissions = {"GET": "machines.view_sighting"}
