"""Models of network cards: the cards that iPXE supports, and those that flashrom can write to."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower

from machines.models.validation import raise_if_errors
from roms.toolchain.flash.flashrom import SupportedCard, reached
from roms.toolchain.flash.programmers import NIC_PROGRAMMERS, PracticeChip, Programmer
from roms.toolchain.ipxe import cards as ipxe_cards
from roms.toolchain.ipxe.cards import CatalogueCard

if TYPE_CHECKING:
    from roms.models.station import Station

PCI_ID = r"[0-9a-f]{4}:[0-9a-f]{4}"
#: The size of the practice chip, in bytes.
PRACTICE_SIZE = 64 << 10
#: The fields that come from iPXE's source and flashrom.
_TREE_FIELDS = ("name", "driver", "rom_name", "programmer", "conflict")


class CardQuerySet(models.QuerySet["Card"]):
    def named(self, text: str) -> CardQuerySet:
        """The cards that have every word of `text` in their name, PCI ID, key, driver or programmer."""
        found = self
        for word in text.split():
            fields = ("name", "pci_id", "slug", "driver", "programmer")
            found = found.filter(reduce(or_, (Q(**{f"{field}__icontains": word}) for field in fields)))
        return found

    def flashable(self) -> CardQuerySet:
        return self.exclude(programmer="")

    def load_curated(self) -> None:
        """Load the list that comes with the site. Cards that staff added or changed stay as they are."""
        for known in ipxe_cards.load_curated():
            values = {
                "pci_id": known.id,
                "name": known.name,
                "driver": known.driver,
                "programmer": known.programmer,
                "chip_size": known.chip_size,
                "notes": known.notes,
                "origin": Card.Origin.CURATED,
            }
            card, made = self.get_or_create(slug=known.key, defaults=values)
            if not made and (card.is_practice or card.origin != Card.Origin.OWN):
                self.filter(pk=card.pk).exclude(**values).update(**values)

    def load_tree(self, catalogue: Iterable[CatalogueCard], flashable: Iterable[SupportedCard] = ()) -> int:
        """Load the cards that iPXE supports, with flashrom's programmers; return the number of all cards.

        Cards from other sources keep their names and programmers.
        """
        programmers = {one.id: one.programmer for one in reached(flashable).values()}
        known = {card.slug: card for card in self.all()}
        new, changed = [], []
        for found in catalogue:
            conflict = ", ".join(found.drivers) if found.is_ambiguous else ""
            is_new = found.id not in known
            card = Card(slug=found.id, pci_id=found.id, origin=Card.Origin.TREE) if is_new else known[found.id]
            before = [getattr(card, name) for name in _TREE_FIELDS]
            if card.origin == Card.Origin.TREE:
                card.name, card.programmer = found.name[:200], programmers.get(found.id, card.programmer)
            card.driver, card.rom_name, card.conflict = card.driver or found.driver, found.image[:60], conflict
            if is_new:
                new.append(card)
            elif before != [getattr(card, name) for name in _TREE_FIELDS]:
                changed.append(card)
        self.bulk_create(new, batch_size=200, ignore_conflicts=True)
        self.bulk_update(changed, _TREE_FIELDS, batch_size=200)
        return len(known) + len(new)


class Card(models.Model):
    """A model of network card."""

    class Origin(models.TextChoices):
        CURATED = "curated", "the list that comes with the site"
        TREE = "tree", "iPXE's source"
        OWN = "own", "added or changed by staff"

    #: The PCI ID; the practice card has its own key, and the PCI ID of a real card.
    slug = models.CharField(
        "key",
        max_length=40,
        unique=True,
        validators=[RegexValidator(r"\A[a-z0-9:-]+\Z", "Use only lower-case letters, digits, “:” and “-”.")],
    )
    pci_id = models.CharField(
        "PCI ID",
        max_length=9,
        validators=[RegexValidator(rf"\A{PCI_ID}\Z", "Write the vendor and the device, for example 8086:1229.")],
    )
    name = models.CharField(max_length=200)
    driver = models.CharField("iPXE driver", max_length=60, blank=True)
    rom_name = models.CharField("iPXE ROM", max_length=60, blank=True)
    #: One of a closed list; flashrom's dummy programmer for the practice card.
    programmer = models.CharField(
        "flashrom programmer",
        max_length=20,
        blank=True,
        choices=[(name, name) for name in NIC_PROGRAMMERS],
        help_text="Empty: flashrom cannot write to it.",
    )
    chip_size = models.PositiveIntegerField(
        null=True, blank=True, help_text="In bytes. Empty: the flash job finds the size."
    )
    #: The drivers in iPXE's source that claim this card, if there are several.
    conflict = models.CharField(max_length=200, blank=True)
    notes = models.TextField(blank=True, help_text="What staff should know before they flash this card.")
    origin = models.CharField(max_length=7, choices=Origin, default=Origin.OWN, editable=False)

    objects = CardQuerySet.as_manager()

    class Meta:
        ordering = ("name", "slug")
        constraints = [
            models.CheckConstraint(condition=Q(pci_id=Lower("pci_id")), name="card_pci_id_in_one_form"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.slug})"

    @property
    def vendor(self) -> int:
        return int(self.pci_id[:4], 16)

    @property
    def device(self) -> int:
        return int(self.pci_id[5:], 16)

    @property
    def is_practice(self) -> bool:
        """Whether this is the practice card: its chip is a file of the site. Its key is reserved."""
        return self.slug == ipxe_cards.PRACTICE

    @property
    def is_flashable(self) -> bool:
        return bool(self.programmer)

    def programmer_at(self, station: Station) -> Programmer | PracticeChip:
        """The programmer for this card at a station. Raises WrongProgrammerError for a name that is not listed."""
        if self.is_practice:
            return PracticeChip(station.practice_chip, self.chip_size or PRACTICE_SIZE)
        return Programmer(self.programmer)

    @property
    def target(self) -> str:
        """The driver part of a build target, for example 80861229. iPXE writes this PCI ID into the ROM."""
        return self.pci_id.replace(":", "")

    def clean(self) -> None:
        errors: dict[str, Any] = {}
        if self.is_practice:
            errors["slug"] = f"The key “{ipxe_cards.PRACTICE}” is reserved for the practice card. Choose another key."
        if self.chip_size is not None and (self.chip_size < 1024 or self.chip_size % 1024):
            errors["chip_size"] = "Write a multiple of 1024 bytes, for example 65536 for 64 KiB."
        raise_if_errors(errors)

    def snapshot(self) -> dict[str, Any]:
        """The values for audit entries."""
        names = ("slug", "pci_id", "name", "driver", "programmer", "chip_size", "notes")
        return {name: getattr(self, name) for name in names}
