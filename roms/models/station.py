"""Stations: hosts with network cards, where a worker runs flash jobs."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone

LOCAL = "local"
#: A station has no worker if its worker was not seen for this long.
ABSENT_AFTER = timedelta(seconds=60)


class StationQuerySet(models.QuerySet["Station"]):
    def seen(self, name: str) -> None:
        """Store that the worker of a station runs, and create the station if it is new. Raises ValidationError.

        The check matters: the name becomes part of file names.
        """
        Station._meta.get_field("name").clean(name, None)
        now = timezone.now()
        if not self.filter(name=name).update(seen_at=now):
            self.get_or_create(name=name, defaults={"seen_at": now})


class Station(models.Model):
    """A host with network cards."""

    name = models.CharField(
        max_length=40,
        unique=True,
        validators=[RegexValidator(r"\A[a-z0-9][a-z0-9-]*\Z", "Use lower-case letters, digits and “-”.")],
    )
    notes = models.TextField(blank=True)
    seen_at = models.DateTimeField("worker last seen", null=True, blank=True, editable=False)

    objects = StationQuerySet.as_manager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def lock_path(self) -> Path:
        """The lock that a flash job holds while it works on this host's cards."""
        return Path(settings.RESCUESITE_DATA_DIR) / "stations" / f"{self.name}.lock"

    @property
    def practice_chip(self) -> Path:
        """The file that acts as the chip of the practice card."""
        return Path(settings.RESCUESITE_DATA_DIR) / "stations" / f"{self.name}-practice.bin"

    def has_worker(self, now: datetime | None = None) -> bool:
        return self.seen_at is not None and self.seen_at > (now or timezone.now()) - ABSENT_AFTER

    def snapshot(self) -> dict[str, Any]:
        return {"name": self.name, "notes": self.notes}
