"""Builds: jobs that make a ROM or a bootable medium from iPXE's source and an embedded script."""

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

#: The site sets these options from the script's DHCP wait. The longest delay that the preview shows depends on them.
_DHCP_TIMEOUTS = frozenset(
    f"DHCP_{phase}_{end}_TIMEOUT_SEC" for phase in ("DISC", "REQ") for end in ("START", "END")
) | {"DHCP_DISC_MAX_DEFERRALS"}

TARGETS = [(target.value, target.label) for target in Target]
#: The targets that can be flashed into a card.
ROM_TARGETS = tuple(target for target in Target if target.needs_card)


def spec_of(data: object) -> ScriptSpec:
    """The spec that the API's JSON describes. Raises ValidationError."""
    try:
        return from_json(data)
    except ScriptError as error:
        raise ValidationError({"script": [f"{name}: {text}" for name, text in error.errors.items()]}) from error


class Profile(models.TextChoices):
    MINIMAL = "minimal", "minimal: only what a rescue needs, for small chips"
    STANDARD = "standard", "standard: iPXE's own defaults"
    EVERYTHING = "everything", "everything: HTTPS, IPv6, all commands"


#: The sizes of the ROM for Intel PRO/100 with iPXE 2.0.0 (`make bench`), in bytes. The site shows them before the first
#: build. With most other drivers of wired cards the size differs by a few KiB.
TYPICAL_SIZES = {Profile.MINIMAL: 51_712, Profile.STANDARD: 72_192, Profile.EVERYTHING: 112_128}


@dataclass(frozen=True)
class KnownSize:
    """The size of a ROM with one profile, in bytes: of an earlier build, or a typical size."""

    profile: str
    size: int
    is_typical: bool = False

    def __str__(self) -> str:
        return f"{'typically has about' if self.is_typical else 'has'} {self.size:,} bytes"

    def fits(self, chip_size: int) -> bool:
        return self.size <= chip_size


class BuildQuerySet(JobQuerySet):
    def known_sizes(self, card: Card, target: str, now: datetime | None = None) -> list[KnownSize]:
        """The latest size for each profile, without single options, for a card like this one.

        If nobody has built the profile for this card, the size for another card with the same driver counts: such ROMs
        differ only in their PCI IDs. Otherwise the typical size counts.
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
        """The builds that can be flashed, newest first."""
        found = self.filter(state=JobState.SUCCEEDED, target__in=ROM_TARGETS).order_by("-finished_at", "-pk")
        return found.filter(card__pci_id=card.pci_id) if card else found


class Build(Job):
    """A job that makes one ROM or medium."""

    kind = "build"

    card = models.ForeignKey(
        Card,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="builds",
        help_text="Empty for targets that are not a ROM: they support all cards.",
    )
    target = models.CharField(max_length=8, choices=TARGETS, default=Target.ROM)
    profile = models.CharField(max_length=10, choices=Profile, default=Profile.MINIMAL)
    #: Changes to the profile, as NAME, NAME=off or NAME=20.
    options: models.JSONField[list[str], list[str]] = models.JSONField(default=list, blank=True)
    banner = models.PositiveSmallIntegerField(
        "banner timeout",
        null=True,
        blank=True,
        validators=[MaxValueValidator(600)],
        help_text="How long the ROM shows its prompt at power-on, in tenths of a second. 0: no prompt. "
        "Empty: iPXE's default.",
    )
    #: The spec of the script as JSON; null if somebody wrote the script by hand.
    script_spec: models.JSONField[Any, Any] = models.JSONField(null=True, blank=True)
    script = models.TextField(max_length=32 << 10)
    script_sha256 = models.CharField("SHA-256 of the script", max_length=64, editable=False)

    ipxe_ref = models.CharField("iPXE version", max_length=100, blank=True, editable=False)
    ipxe_commit = models.CharField("iPXE commit", max_length=64, blank=True, editable=False)
    #: The command lines of the build.
    commands: models.JSONField[list[str], list[str]] = models.JSONField(default=list, blank=True, editable=False)
    #: The options that differ from iPXE's defaults.
    effective_options: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField(
        default=dict, blank=True, editable=False
    )
    tool_versions: models.JSONField[dict[str, str], dict[str, str]] = models.JSONField(
        default=dict, blank=True, editable=False
    )
    #: How the build was isolated from the host, in a sentence.
    isolation = models.CharField(max_length=500, blank=True, editable=False)
    #: The sizes of the card's chip and of the result, in bytes.
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
        """A new build with this script: a spec, or a text that somebody wrote."""
        made_of = {"spec": script} if isinstance(script, ScriptSpec) else {"script": script}
        return cls(**order, **made_of)

    @property
    def spec(self) -> ScriptSpec | None:
        """The spec of the script; None if somebody wrote it by hand. Raises ValidationError."""
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
        """Whether the site made the script. Such a ROM runs only scripts and kernels."""
        return self.script_spec is not None

    @property
    def is_rom(self) -> bool:
        return self.target in ROM_TARGETS

    @property
    def fits(self) -> bool | None:
        """Whether the ROM fits the card's chip; None if a size is unknown."""
        if self.size is None or self.chip_size is None:
            return None
        return self.size <= self.chip_size

    @property
    def file_name(self) -> str:
        """The name of the downloaded file."""
        suffix = "rom" if self.target == Target.COMBINED else self.target
        return f"ipxe-{self.card.target if self.card else 'all'}-{self.pk}.{suffix}"

    def clean(self) -> None:
        errors: dict[str, Any] = {}
        if self.card is None and self.is_rom:
            errors["card"] = "A ROM needs a card. Choose one."
        errors |= self._check_script()
        if not isinstance(self.options, list) or not all(isinstance(option, str) for option in self.options):
            errors["options"] = "Write a list of options: NAME, NAME=off or NAME=value."
        else:
            errors |= self._check_options()
        raise_if_errors(errors)
        self.chip_size = self.card.chip_size if self.card and self.is_rom else None

    def _check_options(self) -> dict[str, Any]:
        """The errors of the single options that can be found without a source tree."""
        try:
            picked = dict(ipxe_options.picked(option) for option in self.options)
        except ipxe_options.OptionError as error:
            return {"options": str(error)}
        if not self.has_site_script:
            return {}
        on = [name for name, value in picked.items() if not ipxe_options.is_off(value)]
        problems = [
            f"{name} cannot be on in a ROM with the site's script: an answer that is not a script could keep the "
            "machine from booting its disk. Remove the option, or write the script by hand."
            for name in on
            if ipxe_options.takes_over(name)
        ]
        needed = self._needed()
        problems += [
            f"{name} cannot be off: the site's script needs it."
            for name in sorted(needed.keys() & (picked.keys() - set(on)))
        ]
        problems += [
            f"The site sets {name} from “Wait for DHCP”. Change that value instead."
            for name in sorted(picked)
            if name in _DHCP_TIMEOUTS
        ]
        return {"options": problems} if problems else {}

    def submit(self, actor: Actor) -> Self:
        """Submit the build, unless the disk is nearly full. Raises ValidationError."""
        if problem := disk_space.problem():
            raise ValidationError(f"The site cannot build now: {problem}.")
        return super().submit(actor)

    def clean_fields(self, exclude: Any = None) -> None:
        # clean() checks the script.
        super().clean_fields({*(exclude or ()), "script", "script_sha256"})

    def _check_script(self) -> dict[str, Any]:
        """The errors of a script that somebody wrote. A script from a spec is correct: the spec was checked."""
        if not (self.has_site_script and self.script):
            self.script = self.script.replace("\r\n", "\n")
            try:
                checks.check_text(self.script)
            except ScriptError as error:
                return {"script": list(error.errors.values())}
        self.script_sha256 = hashlib.sha256(self.script.encode()).hexdigest()
        return {}

    def warnings(self) -> list[str]:
        """Warnings about a script that somebody wrote; none for the site's own script."""
        if self.has_site_script:
            return []
        try:
            options = checks.likely_options(self.profile, self.options)
            return checks.check_text(self.script, options, Target(self.target).platforms)
        except ScriptError as error:
            return list(error.errors.values())

    def changes(self) -> dict[str, Value]:
        """The single options by name, with the options that the script needs."""
        return dict(ipxe_options.picked(option) for option in self.options) | self._needed()

    def _needed(self) -> dict[str, Value]:
        """The options that the site's script needs; none for a script that somebody wrote."""
        if (spec := self.spec) is None:
            return {}
        return {**dict.fromkeys(sorted(required_options(spec)), True), **option_values(spec)}

    def too_large(self, size: int) -> str:
        """The message for a ROM of `size` bytes that does not fit the chip; empty if it fits."""
        if self.chip_size is None or size <= self.chip_size:
            return ""
        text = _too_large(size, self.chip_size)
        assert self.card
        if self.profile == Profile.MINIMAL:
            return f"{text} Switch options off, or use a card with a larger chip."
        known = {one.profile: one for one in Build.objects.known_sizes(self.card, self.target)}
        minimal = known.get(Profile.MINIMAL)
        if minimal and minimal.fits(self.chip_size):
            return f"{text} The profile “minimal” fits: it {minimal}."
        return f"{text} Build the profile “minimal”: it has only the features that a rescue needs."

    def too_large_for(self, chip_size: int) -> str:
        """The message for a chip that is too small for this ROM; empty if the ROM fits."""
        return _too_large(self.size, chip_size) if self.size is not None and self.size > chip_size else ""

    def snapshot(self) -> dict[str, Any]:
        return {
            "card": self.card.slug if self.card else None,
            "target": self.target,
            "profile": self.profile,
            "options": self.options,
            "banner": self.banner,
            "script_sha256": self.script_sha256,
        }


def _too_large(size: int, chip_size: int) -> str:
    return f"The ROM has {size:,} bytes, but the chip of this card has only {chip_size:,}."
