"""Sightings: MAC addresses that sent a boot request and do not belong to a machine."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from machines.boot.request import BootRequest
from machines.models.fields import MACAddressField

#: The limits in all and for one source address. With them, a flood of requests leaves room for a new server.
MAX_SIGHTINGS = 2000
MAX_PER_SOURCE = 500


class SightingQuerySet(models.QuerySet["Sighting"]):
    def waiting(self) -> SightingQuerySet:
        return self.filter(ignored=False)

    def record(self, boot_request: BootRequest, at: datetime) -> bool:
        """Record a request of an unknown MAC address. Return False if the table is full.

        A full table drops the oldest sighting that is not ignored, if it was last seen more than an hour ago.
        """
        values = self._seen(boot_request, at)
        mac = boot_request.mac or ""
        if self.filter(mac=mac).update(count=F("count") + 1, **values):
            return True
        if self.filter(source=values["source"])[MAX_PER_SOURCE - 1 : MAX_PER_SOURCE].exists():
            return False
        if self.all()[MAX_SIGHTINGS - 1 : MAX_SIGHTINGS].exists() and not self._drop_stale(at):
            return False
        # Two processes may record the same MAC address at the same time.
        self.bulk_create([Sighting(mac=mac, first_seen_at=at, **values)], ignore_conflicts=True)
        return True

    def _drop_stale(self, at: datetime) -> bool:
        stale = self.waiting().filter(last_seen_at__lt=at - timedelta(hours=1)).order_by("last_seen_at")
        dropped, _ = self.filter(pk__in=list(stale.values_list("pk", flat=True)[:1])).delete()
        return dropped > 0

    @staticmethod
    def _seen(boot_request: BootRequest, at: datetime) -> dict[str, Any]:
        return {
            "last_seen_at": at,
            "source": str(boot_request.source) if boot_request.source else None,
            "ip": str(boot_request.ip) if boot_request.ip else None,
            "said": {
                **boot_request.params,
                **({"user_agent": boot_request.user_agent} if boot_request.user_agent else {}),
            },
        }


class Sighting(models.Model):
    """An unknown MAC address and the unverified values of its requests."""

    mac = MACAddressField("MAC address", unique=True)
    first_seen_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)
    count = models.PositiveIntegerField("times", default=1)
    source = models.GenericIPAddressField(null=True)
    ip = models.GenericIPAddressField("claimed address", null=True)
    said: models.JSONField[dict[str, str], dict[str, str]] = models.JSONField(default=dict)
    ignored = models.BooleanField(default=False)

    objects = SightingQuerySet.as_manager()

    class Meta:
        default_permissions = ("view", "change", "delete")
        ordering = ("-last_seen_at",)
        indexes = [
            models.Index(fields=["source"], name="sighting_source"),
            models.Index(fields=["last_seen_at"], condition=Q(ignored=False), name="sighting_waiting"),
        ]

    def __str__(self) -> str:
        return self.mac
