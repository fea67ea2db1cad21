"""Flash jobs: jobs that save, write or restore the contents of a card's flash chip at a station."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from machines.models import Actor, Machine
from machines.models.stored_file import StoredFile
from machines.models.validation import raise_if_errors
from roms.models.build import ROM_TARGETS, Build
from roms.models.card import Card
from roms.models.job import Job, JobQuerySet, JobState
from roms.models.station import Station
from roms.toolchain.flash.pci import PCISlot, WrongAddressError
from roms.toolchain.flash.programmers import WrongProgrammerError


class FlashKind(models.TextChoices):
    FLASH = "flash", "write a built ROM"
    RESTORE = "restore", "write back saved contents"
    SAVE = "save", "only save the contents"


class FlashJob(Job):
    """A job that saves, writes or restores the chip of one card."""

    kind = "flash"

    action = models.CharField(max_length=7, choices=FlashKind, default=FlashKind.FLASH)
    station = models.ForeignKey(Station, on_delete=models.PROTECT, related_name="flash_jobs")
    card = models.ForeignKey(Card, on_delete=models.PROTECT, related_name="flash_jobs")
    #: The card's values at the time of the order. If they have changed since, the job does nothing.
    pci_id = models.CharField("PCI id", max_length=9, blank=True, editable=False)
    programmer = models.CharField(max_length=20, blank=True, editable=False)
    slot = models.CharField(
        "PCI slot", max_length=12, blank=True, help_text="For example 0000:03:00.0. Empty: the station finds the card."
    )
    chip_name = models.CharField(
        "chip",
        max_length=100,
        blank=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9][ -~]*\Z", "Write the name of the chip as flashrom prints it.")],
        help_text="Only needed if flashrom found several definitions.",
    )
    build = models.ForeignKey(Build, on_delete=models.PROTECT, null=True, blank=True, related_name="flash_jobs")
    #: The job that saved the contents to write back.
    restores = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True, related_name="restored_by")
    machine = models.ForeignKey(Machine, on_delete=models.SET_NULL, null=True, blank=True, related_name="flash_jobs")
    machine_name = models.CharField(max_length=63, blank=True, editable=False)

    # The results.
    chip_found = models.CharField(max_length=200, blank=True, editable=False)
    chip_size = models.PositiveIntegerField(null=True, blank=True, editable=False)
    flashrom_version = models.CharField(max_length=100, blank=True, editable=False)
    backup = models.ForeignKey(
        StoredFile, on_delete=models.PROTECT, null=True, blank=True, related_name="backups", editable=False
    )
    backup_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    backup_description = models.CharField(max_length=200, blank=True, editable=False)
    #: False if the chip held the new contents already, or if the job only saved.
    wrote = models.BooleanField(null=True, editable=False)
    written_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    #: The contents of the chip after a failed write: unknown, unchanged or as_wanted.
    chip_state = models.CharField(max_length=10, blank=True, editable=False)
    #: Why the job changed nothing, and the choices for another try: {"chips": [...], "slots": [...]}.
    refusal = models.CharField(max_length=20, blank=True, editable=False)
    choices: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField(
        default=dict, blank=True, editable=False
    )

    objects = JobQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ("-created_at", "-pk")
        permissions = [("flash_rom", "Can flash cards, restore them and cancel flash jobs")]
        constraints = [
            models.CheckConstraint(
                condition=Q(action=FlashKind.FLASH, build__isnull=False, restores__isnull=True)
                | Q(action=FlashKind.RESTORE, build__isnull=True, restores__isnull=False)
                | Q(action=FlashKind.SAVE, build__isnull=True, restores__isnull=True),
                name="flash_job_has_its_contents",
            ),
        ]

    def __str__(self) -> str:
        return f"flash job {self.pk}: {self.card.slug} at {self.station}"

    INPUT_FIELDS = ("action", "station", "card", "slot", "chip_name", "build", "restores", "machine")

    def submit_confirmed(self, actor: Actor, typed: str) -> FlashJob:
        """Submit this new job if `typed` is the name that confirms it. Raises ValidationError."""
        if typed.strip() != self.confirmation:
            what = "machine" if self.machine else "station"
            raise ValidationError({"confirm": f"Type the {what}'s name, {self.confirmation}, to confirm."})
        return self.submit(actor)

    def restoring(self) -> FlashJob:
        """A new job, not submitted, that writes back the contents that this job saved."""
        order = {name: getattr(self, name) for name in ("station", "card", "slot", "machine")}
        return FlashJob(action=FlashKind.RESTORE, restores=self, chip_name=self.chip_name, **order)

    @property
    def confirmation(self) -> str:
        """The name that confirms this job: the machine's name, or the station's name without a machine."""
        return self.machine.name if self.machine else self.station.name

    def clean(self) -> None:
        if not (self.card_id and self.station_id):
            # clean_fields() reports the missing fields.
            return
        errors: dict[str, Any] = {}
        if self.slot:
            try:
                self.slot = str(PCISlot.parse(self.slot))
            except WrongAddressError as error:
                errors["slot"] = str(error)
        errors |= self._wrong_card() | self._wrong_contents()
        raise_if_errors(errors)
        self.pci_id, self.programmer = self.card.pci_id, self.card.programmer
        self.machine_name = self.machine.name if self.machine else ""

    def _wrong_card(self) -> dict[str, str]:
        card = self.card
        if not card.programmer:
            advice = "Use another card, or build an ISO, USB or EFI medium for this machine."
            return {"card": f"flashrom cannot write to {card}. {advice}"}
        try:
            card.programmer_at(self.station)
        except WrongProgrammerError as error:
            return {"card": f"{card} cannot be flashed: {error}"}
        return {}

    def _wrong_contents(self) -> dict[str, str]:
        if self.action == FlashKind.FLASH:
            return self._wrong_build()
        if self.action == FlashKind.RESTORE:
            if self.restores is None or self.restores.backup is None:
                return {"restores": "Choose a flash job that saved the chip's contents."}
            if not self.restores.backup.is_intact():
                return {"restores": "The file with the saved contents is missing or damaged."}
            return self._wrong_backup(self.restores)
        return {}

    def _wrong_backup(self, saved: FlashJob) -> dict[str, str]:
        card = self.card
        if (saved.card_id, saved.pci_id, saved.programmer) == (card.pk, card.pci_id, card.programmer):
            return {}
        was = f"{saved.card} as {saved.pci_id or 'another card'} with {saved.programmer or 'another programmer'}"
        now = f"{card} is {card.pci_id} with {card.programmer or 'no programmer'}"
        return {
            "restores": f"These contents were saved from {was}. They are written back only to the same card, but {now}."
        }

    def _wrong_build(self) -> dict[str, str]:
        build = self.build
        if build is None:
            return {"build": "Choose the build to write."}
        if build.target not in ROM_TARGETS:
            return {"build": f"The target {build.target} is not a ROM, so it cannot be flashed."}
        if build.state != JobState.SUCCEEDED or build.artifact is None:
            return {"build": "This build did not succeed, so it has no ROM."}
        if not build.artifact.is_intact():
            return {"build": "The ROM of this build is missing or damaged. Build it again."}
        if build.card is None or build.card.pci_id != self.card.pci_id:
            return {"build": f"This ROM is for {build.card}, not for {self.card}."}
        if self.card.chip_size and (message := build.too_large_for(self.card.chip_size)):
            return {"build": message}
        return {}

    def restored_description(self) -> str:
        """The description of the contents to write back."""
        return self.restores.backup_description if self.restores else ""

    def lost_message(self) -> str:
        if self.phase in {"write", "verify"}:
            return (
                "The worker stopped during the write. Do not power off the station: flashrom may still be writing. The "
                "station stays locked until flashrom has finished. Then read the log, and flash again or restore the "
                "saved contents."
            )
        return "The worker stopped before the write. Read the log, then retry."

    def audit_machine(self) -> Machine | None:
        return self.machine

    def snapshot(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "station": self.station.name,
            "card": self.card.slug,
            "programmer": self.programmer,
            "slot": self.slot,
            "chip": self.chip_name,
            "build": self.build_id,
            "restores": self.restores_id,
        }

    def after_finish(self) -> None:
        from roms.models.ledger import InstalledROM

        if self.state == JobState.SUCCEEDED and self.action != FlashKind.SAVE:
            InstalledROM.objects.flashed(self)
