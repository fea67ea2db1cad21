"""Builds: jobs that make a ROM, or a bootable medium, from iPXE's source tree and an embedded script."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q

from machines.models.audit import Actor
from machines.models.stored_file import StoredFile
from machines.models.validation import raise_if_errors
from rescuesite import disk_space
from roms.models.card import Card
from roms.models.job import Job, JobQuerySet, JobState
from roms.toolchain.ipxe import options as ipxe_options
from roms.toolchain.ipxe.build import Target
from roms.toolchain.ipxe.option_headers import Value
from roms.toolchain.ipxe.script import checks
from roms.toolchain.ipxe.script.render import option_values, render, required_options
from roms.toolchain.ipxe.script.spec import ScriptError, ScriptSpec, from_json, to_json

if TYPE_CHECKING:
    from datetime import datetime

#: What the bound that is shown of the site's script rests on.
_OF_THE_SCRIPT = frozenset(
    f"DHCP_{phase}_{end}_TIMEOUT_SEC" for phase in ("DISC", "REQ") for end in ("START", "END")
) | {"DHCP_DISC_MAX_DEFERRALS"}

#: What is made, with what it is called.
TARGETS = [(target.value, target.label) for target in Target]
#: Those that are flashed into a card.
ROM_TARGETS = tuple(target for target in Target if target.needs_card)


def spec_of(data: object) -> ScriptSpec:
    """What a script is made of, from the API's JSON. Raises ValidationError."""
    try:
        return from_json(data)
    except ScriptError as error:
        raise ValidationError({"script": [f"{name}: {text}" for name, text in error.errors.items()]}) from error


class Profile(models.TextChoices):
    MINIMAL = "minimal", "minimal: what rescue needs, for small chips"
    STANDARD = "standard", "standard: iPXE's own defaults"
    EVERYTHING = "everything", "everything: HTTPS, IPv6, all commands"


#: What the ROM for Intel PRO/100 comes to with iPXE 2.0.0 (`make bench`), in bytes: all that is known before anything
#: was built here. Most drivers of wired cards are within a few KiB of it.
TYPICAL_SIZES = {Profile.MINIMAL: 51_712, Profile.STANDARD: 72_192, Profile.EVERYTHING: 112_128}


@dataclass(frozen=True)
class KnownSize:
    """How large a ROM of one profile came out, in bytes; or comes out typically, where none was built here."""

    profile: str
    size: int
    is_typical: bool = False

    def __str__(self) -> str:
        return f"{'typically comes to about' if self.is_typical else 'came to'} {self.size:,} bytes"

    def fits(self, chip_size: int) -> bool:
        return self.size <= chip_size


class BuildQuerySet(JobQuerySet):
    def known_sizes(self, card: Card, target: str, now: datetime | None = None) -> list[KnownSize]:
        """What builds of each profile, without single options, came to at last for a card like this one.

        Those of the same driver serve where the card's own were never built: they differ by the ids in them. For a
        profile that was not even built for those there are typical sizes.
        """
        sizes: dict[str, int] = {}
        built = self.filter(target=target, size__isnull=False, options=[]).order_by("finished_at")
        alike = built.filter(card__driver=card.driver) if card.driver else built.none()
        for profile, size in [
            *alike.values_list("profile", "size"),
            *built.filter(card__pci_id=card.pci_id).values_list("profile", "size"),
        ]:
            sizes[profile] = size
        typical = TYPICAL_SIZES if target in (Target.ROM, Target.MROM) else {}
        return [
            KnownSize(profile, sizes.get(profile) or typical[profile], profile not in sizes)
            for profile in Profile
            if profile in sizes or profile in typical
        ]

    def flashable(self, card: Card | None = None) -> BuildQuerySet:
        """Those that can be written into a card, newest first."""
        found = self.filter(state=JobState.SUCCEEDED, target__in=ROM_TARGETS).order_by("-finished_at", "-pk")
        return found.filter(card__pci_id=card.pci_id) if card else found


class Build(Job):
    """One ROM being made, or made."""

    kind = "build"

    card = models.ForeignKey(
        Card,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="builds",
        help_text="Empty, for media that are not a ROM: every card that iPXE knows.",
    )
    target = models.CharField(max_length=8, choices=TARGETS, default=Target.ROM)
    profile = models.CharField(max_length=10, choices=Profile, default=Profile.MINIMAL)
    #: Single options beyond the profile, as people write them: NAME, NAME=off, NAME=20.
    options: models.JSONField[list[str], list[str]] = models.JSONField(default=list, blank=True)
    banner = models.PositiveSmallIntegerField(
        "banner time-out",
        null=True,
        blank=True,
        validators=[MaxValueValidator(600)],
        help_text="How long the ROM offers its prompt at power-on, in tenths of a second; 0: not at all. "
        "Empty: as iPXE's tree has it.",
    )
    #: What the script was made from; null where somebody wrote it.
    script_spec: models.JSONField[Any, Any] = models.JSONField(null=True, blank=True)
    script = models.TextField(max_length=32 << 10)
    script_sha256 = models.CharField("script's SHA-256", max_length=64, editable=False)

    ipxe_ref = models.CharField("iPXE version", max_length=100, blank=True, editable=False)
    ipxe_commit = models.CharField("iPXE commit", max_length=64, blank=True, editable=False)
    #: What was run, as it would be typed.
    commands: models.JSONField[list[str], list[str]] = models.JSONField(default=list, blank=True, editable=False)
    #: All options of the tree that differ from its defaults.
    effective_options: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField(
        default=dict, blank=True, editable=False
    )
    tool_versions: models.JSONField[dict[str, str], dict[str, str]] = models.JSONField(
        default=dict, blank=True, editable=False
    )
    #: How the tree's programs were kept from the rest of the host, in a sentence.
    isolation = models.CharField(max_length=500, blank=True, editable=False)
    #: The chip that it was made for, in bytes, and what came out.
    chip_size = models.PositiveIntegerField(null=True, blank=True, editable=False)
    size = models.PositiveBigIntegerField(null=True, blank=True, editable=False)
    sha256 = models.CharField("SHA-256", max_length=64, blank=True, editable=False)
    artifact = models.ForeignKey(
        StoredFile, on_delete=models.PROTECT, null=True, blank=True, related_name="builds", editable=False
    )

    objects = BuildQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ("-created_at", "-pk")
        permissions = [("build_rom", "Can build ROMs and cancel builds")]
        indexes = [models.Index(fields=["script_sha256"], name="build_script")]
        constraints = [
            models.CheckConstraint(
                condition=~Q(state=JobState.SUCCEEDED) | Q(artifact__isnull=False), name="build_succeeds_with_artifact"
            ),
        ]

    def __str__(self) -> str:
        return f"build {self.pk}: {self.card.slug if self.card else 'all cards'}, {self.target}, {self.profile}"

    INPUT_FIELDS = ("card", "target", "profile", "options", "banner", "spec", "script")
    _spec: ScriptSpec | None = None

    @classmethod
    def of(cls, script: ScriptSpec | str, **order: Any) -> Self:
        """A build that embeds a script: one made of a spec, or one that somebody wrote."""
        made_of = {"spec": script} if isinstance(script, ScriptSpec) else {"script": script}
        return cls(**order, **made_of)

    @property
    def spec(self) -> ScriptSpec | None:
        """What the site's script is made of; None where somebody wrote it. Raises ValidationError."""
        if self._spec is None and self.script_spec is not None:
            self._spec = spec_of(self.script_spec)
        return self._spec

    @spec.setter
    def spec(self, spec: ScriptSpec | None) -> None:
        self._spec = spec
        self.script_spec = to_json(spec) if spec else None
        if spec:
            self.script = render(spec)

    @property
    def has_site_script(self) -> bool:
        """Whether the site made the script: such a ROM never runs what is neither script nor kernel."""
        return self.script_spec is not None

    @property
    def is_rom(self) -> bool:
        return self.target in ROM_TARGETS

    @property
    def fits(self) -> bool | None:
        """Whether it fits the card's chip; None where either size is unknown."""
        if self.size is None or self.chip_size is None:
            return None
        return self.size <= self.chip_size

    @property
    def file_name(self) -> str:
        """What the artifact is called where it is downloaded."""
        suffix = "rom" if self.target == Target.COMBINED else self.target
        return f"ipxe-{self.card.target if self.card else 'all'}-{self.pk}.{suffix}"

    def clean(self) -> None:
        errors: dict[str, Any] = {}
        if self.card is None and self.is_rom:
            errors["card"] = "A ROM is made for one card: choose it."
        errors |= self._check_script()
        if not isinstance(self.options, list) or not all(isinstance(option, str) for option in self.options):
            errors["options"] = "Write a list of options: NAME, NAME=off or NAME=value."
        else:
            errors |= self._check_options()
        raise_if_errors(errors)
        self.chip_size = self.card.chip_size if self.card and self.is_rom else None

    def _check_options(self) -> dict[str, Any]:
        """What is wrong with the single options, as far as no tree is needed to tell."""
        try:
            picked = dict(ipxe_options.picked(option) for option in self.options)
        except ipxe_options.OptionError as error:
            return {"options": str(error)}
        if not self.has_site_script:
            return {}
        on = [name for name, value in picked.items() if not ipxe_options.is_off(value)]
        problems = [
            f"{name} cannot be on in a ROM with the site's script: an answer that is not a script could keep the "
            "machine from its disk. Leave it out, or write the script by hand."
            for name in on
            if ipxe_options.takes_over(name)
        ]
        needed = self._needed()
        problems += [
            f"{name} cannot be off: the site's script needs it."
            for name in sorted(needed.keys() & (picked.keys() - set(on)))
        ]
        problems += [
            f"{name} follows from how long the script waits for DHCP: say that instead."
            for name in sorted(picked)
            if name in _OF_THE_SCRIPT
        ]
        return {"options": problems} if problems else {}

    def submit(self, actor: Actor) -> Self:
        """As every job; not while the disk is nearly full. Raises ValidationError."""
        if problem := disk_space.problem():
            raise ValidationError(f"Nothing is built now: {problem}.")
        return super().submit(actor)

    def clean_fields(self, exclude: Any = None) -> None:
        # What is wrong with the script clean() says.
        super().clean_fields({*(exclude or ()), "script", "script_sha256"})

    def _check_script(self) -> dict[str, Any]:
        """What is wrong with a script that somebody wrote. The site's is made of a spec, which was checked."""
        if not (self.has_site_script and self.script):
            self.script = self.script.replace("\r\n", "\n")
            try:
                checks.check_text(self.script)
            except ScriptError as error:
                return {"script": list(error.errors.values())}
        self.script_sha256 = hashlib.sha256(self.script.encode()).hexdigest()
        return {}

    def warnings(self) -> list[str]:
        """What whoever wrote the script should know before it goes into a card; nothing where the site made it."""
        if self.has_site_script:
            return []
        try:
            options = checks.likely_options(self.profile, self.options)
            return checks.check_text(self.script, options, Target(self.target).platforms)
        except ScriptError as error:
            return list(error.errors.values())

    def changes(self) -> dict[str, Value]:
        """The single options by name, with those that the script cannot do without."""
        return dict(ipxe_options.picked(option) for option in self.options) | self._needed()

    def _needed(self) -> dict[str, Value]:
        """The options that the site's script cannot do without; none where the script is somebody's own."""
        if (spec := self.spec) is None:
            return {}
        return {**dict.fromkeys(sorted(required_options(spec)), True), **option_values(spec)}

    def too_large(self, size: int) -> str:
        """What to do where `size` bytes do not fit the chip, for a person; empty where they do."""
        if self.chip_size is None or size <= self.chip_size:
            return ""
        text = f"The ROM has {size:,} bytes, and the chip of this card {self.chip_size:,}."
        assert self.card
        known = {one.profile: one for one in Build.objects.known_sizes(self.card, self.target)}
        minimal = known.get(Profile.MINIMAL)
        if self.profile == Profile.MINIMAL:
            return f"{text} Leave out options, or use a card with a larger chip."
        if minimal and minimal.fits(self.chip_size):
            return f"{text} The profile “minimal” fits: it {minimal}."
        return f"{text} Build the profile “minimal”, which leaves out what a rescue does not need."

    def too_large_for(self, chip_size: int) -> str:
        """Why this ROM does not go into a chip of so many bytes; empty where it does."""
        if self.size is None or self.size <= chip_size:
            return ""
        return f"The ROM has {self.size:,} bytes, and the chip of this card {chip_size:,}."

    def snapshot(self) -> dict[str, Any]:
        return {
            "card": self.card.slug if self.card else None,
            "target": self.target,
            "profile": self.profile,
            "options": self.options,
            "banner": self.banner,
            "script_sha256": self.script_sha256,
        }
