"""Installed ROMs: which card of which machine holds which ROM, since when, and who flashed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from machines.models import Machine
from machines.models.fields import MACAddressField
from roms.models.build import Build
from roms.models.card import Card
from roms.models.job import JobState

if TYPE_CHECKING:
    from roms.models.flash import FlashJob


class InstalledROMQuerySet(models.QuerySet["InstalledROM"]):
    def flashed(self, job: FlashJob) -> InstalledROM:
        """Store what a flash job wrote into a card."""
        build = job.build
        if build is None:
            # The restored contents may be an earlier build of this site.
            known = self.filter(sha256=job.written_sha256, build__isnull=False).select_related("build").first()
            build = known.build if known else None
        values: dict[str, Any] = {
            "build": build,
            "sha256": job.written_sha256,
            "description": "" if build else job.restored_description(),
            "since": timezone.now(),
            "by": job.requested_by_name,
            "flash_job": job,
        }
        if job.machine is None:
            return self.create(card=job.card, **values)
        installed, _ = self.update_or_create(
            machine=job.machine, card=job.card, mac="", defaults=values, create_defaults=values
        )
        return installed

    def with_outdated(self) -> Self:
        """The rows with `is_outdated`."""
        return self.annotate(is_outdated=Exists(InstalledROM.objects.outdated().filter(pk=OuterRef("pk"))))

    def outdated(self) -> InstalledROMQuerySet:
        """The rows for which a later build of the same card has another script."""
        newer = Build.objects.filter(
            state=JobState.SUCCEEDED,
            card__pci_id=OuterRef("card__pci_id"),
            finished_at__gt=OuterRef("build__finished_at"),
        ).exclude(script_sha256=OuterRef("build__script_sha256"))
        return self.filter(machine__isnull=False, build__isnull=False).filter(Exists(newer))


class InstalledROM(models.Model):
    """The ROM in one card."""

    machine = models.ForeignKey(
        Machine,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="installed_roms",
        help_text="Empty: the card is in no machine.",
    )
    card = models.ForeignKey(Card, on_delete=models.PROTECT, related_name="installed")
    mac = MACAddressField(
        "MAC address", blank=True, help_text="Only needed if the machine has several cards of this model."
    )
    build = models.ForeignKey(Build, on_delete=models.PROTECT, null=True, blank=True, related_name="installed")
    sha256 = models.CharField("SHA-256 of the chip", max_length=64, blank=True)
    description = models.CharField(
        max_length=200, blank=True, help_text="The contents of the chip, if this site did not build them."
    )
    since = models.DateTimeField(default=timezone.now)
    by = models.CharField("flashed by", max_length=150, blank=True)
    flash_job = models.ForeignKey(
        "roms.FlashJob", on_delete=models.PROTECT, null=True, blank=True, related_name="installed"
    )
    notes = models.TextField(blank=True)

    objects = InstalledROMQuerySet.as_manager()

    class Meta:
        ordering = ("-since", "-pk")
        verbose_name = "installed ROM"
        constraints = [
            models.UniqueConstraint(
                fields=["machine", "card", "mac"],
                condition=Q(machine__isnull=False),
                name="one_rom_per_card_of_a_machine",
                violation_error_message="This machine already has a row for this card. Enter the MAC addresses.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.card.slug} in {self.machine}" if self.machine else f"{self.card.slug}, not in a machine"

    def snapshot(self) -> dict[str, Any]:
        return {
            "machine": self.machine.name if self.machine else None,
            "card": self.card.slug,
            "mac": self.mac,
            "build": self.build_id,
            "sha256": self.sha256,
            "since": self.since.isoformat(),
            "by": self.by,
            "notes": self.notes,
        }
