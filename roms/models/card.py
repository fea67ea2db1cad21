"""Models of network cards: what iPXE can be built for, and what flashrom can write to."""

from __future__ import annotations

from collections.abc import Iterable
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
#: Of the practice chip, in bytes.
PRACTICE_SIZE = 64 << 10
#: What iPXE's tree and flashrom know of a card.
_OF_THE_TREE = ("name", "driver", "rom_name", "programmer", "conflict")


class CardQuerySet(models.QuerySet["Card"]):
    def named(self, text: str) -> CardQuerySet:
        """Those of which every word of `text` is part of the name, the PCI id, the driver or the programmer."""
        found = self
        for word in text.split():
            found = found.filter(
                Q(name__icontains=word)
                | Q(pci_id__icontains=word)
                | Q(slug__icontains=word)
                | Q(driver__icontains=word)
                | Q(programmer__icontains=word)
            )
        return found

    def flashable(self) -> CardQuerySet:
        return self.exclude(programmer="")

    def load_curated(self) -> None:
        """Take the list that comes with the site; what staff added or know better stays as it is."""
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
        """Take the cards that iPXE's tree can be built for, with flashrom's programmers; returns how
        many cards there are.

        Names and chip sizes of cards that we know better stay.
        """
        programmers = {one.id: one.programmer for one in reached(flashable).values()}
        known = {card.slug: card for card in self.all()}
        new, changed = [], []
        for found in catalogue:
            conflict = ", ".join(found.drivers) if found.is_ambiguous else ""
            is_new = found.id not in known
            card = Card(slug=found.id, pci_id=found.id, origin=Card.Origin.TREE) if is_new else known[found.id]
            before = [getattr(card, name) for name in _OF_THE_TREE]
            if card.origin == Card.Origin.TREE:
                card.name, card.programmer = found.name[:200], programmers.get(found.id, card.programmer)
            card.driver, card.rom_name, card.conflict = card.driver or found.driver, found.image[:60], conflict
            if is_new:
                new.append(card)
            elif before != [getattr(card, name) for name in _OF_THE_TREE]:
                changed.append(card)
        self.bulk_create(new, batch_size=200, ignore_conflicts=True)
        self.bulk_update(changed, _OF_THE_TREE, batch_size=200)
        return len(known) + len(new)


class Card(models.Model):
    """A model of network card."""

    class Origin(models.TextChoices):
        CURATED = "curated", "delivered with the site"
        TREE = "tree", "iPXE's source tree"
        OWN = "own", "added here"

    #: The PCI id, but for the practice card, which has that of a real one.
    slug = models.CharField(
        "id",
        max_length=40,
        unique=True,
        validators=[RegexValidator(r"\A[a-z0-9:-]+\Z", "Write lower-case letters, digits, “:” and “-”.")],
    )
    pci_id = models.CharField(
        "PCI id",
        max_length=9,
        validators=[RegexValidator(rf"\A{PCI_ID}\Z", "Write vendor and device like 8086:1229.")],
    )
    name = models.CharField(max_length=200)
    driver = models.CharField("iPXE driver", max_length=60, blank=True)
    rom_name = models.CharField("iPXE ROM", max_length=60, blank=True)
    #: From a closed list; of the practice card, which nobody makes or changes, flashrom's dummy.
    programmer = models.CharField(
        "flashrom programmer",
        max_length=20,
        blank=True,
        choices=[(name, name) for name in NIC_PROGRAMMERS],
        help_text="Empty: flashrom cannot write to it.",
    )
    chip_size = models.PositiveIntegerField(null=True, blank=True, help_text="In bytes; empty: found when flashing.")
    #: Other drivers that claim the same id in iPXE's tree.
    conflict = models.CharField(max_length=200, blank=True)
    notes = models.TextField(blank=True, help_text="What to know before flashing it.")
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
        """Whether it is no card at all, but a file of the site's own. Its key is reserved."""
        return self.slug == ipxe_cards.PRACTICE

    @property
    def is_flashable(self) -> bool:
        return bool(self.programmer)

    def programmer_at(self, station: Station) -> Programmer | PracticeChip:
        """What flashrom reaches its chip through. Raises WrongProgrammerError, whatever the database holds."""
        if self.is_practice:
            return PracticeChip(station.practice_chip, self.chip_size or PRACTICE_SIZE)
        return Programmer(self.programmer)

    @property
    def target(self) -> str:
        """The driver part of a build target: the PCI id, which also gets into the ROM."""
        return self.pci_id.replace(":", "")

    def clean(self) -> None:
        errors: dict[str, Any] = {}
        if self.is_practice:
            errors["slug"] = f"“{ipxe_cards.PRACTICE}” is the site's own card, which stays as it is. Choose another id."
        if self.chip_size is not None and (self.chip_size < 1024 or self.chip_size % 1024):
            errors["chip_size"] = "A chip has whole KiB: 65536 for 64 KiB."
        raise_if_errors(errors)

    def snapshot(self) -> dict[str, Any]:
        """The card as audit entries show it."""
        names = ("slug", "pci_id", "name", "driver", "programmer", "chip_size", "notes")
        return {name: getattr(self, name) for name in names}
