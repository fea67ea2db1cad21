"""The preview of a build: the script, how long it delays the boot from disk, and whether the ROM fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from machines.models import RescueImage
from roms.admin.builds.form import BuildForm
from roms.models import ROM_TARGETS, Build, Card
from roms.models.build import KnownSize
from roms.toolchain.ipxe import options as ipxe_options
from roms.toolchain.ipxe.script import checks
from roms.toolchain.ipxe.script.render import required_options
from roms.toolchain.ipxe.script.spec import ScriptSpec
from roms.toolchain.ipxe.script.waits import worst_case, worst_case_seconds
from roms.wording import kib, seconds_text


@dataclass(frozen=True)
class Row:
    """The known size of one profile for cards like the chosen one."""

    known: KnownSize
    fits: bool | None
    is_chosen: bool

    @property
    def profile(self) -> str:
        return self.known.profile


@dataclass(frozen=True)
class Fit:
    """Whether the ROM fits its chip, from the sizes of earlier builds."""

    card: Card
    profile: str
    rows: tuple[Row, ...]
    has_options: bool

    @property
    def chosen(self) -> Row | None:
        return next((row for row in self.rows if row.is_chosen), None)

    @property
    def offer(self) -> Row | None:
        """The largest profile that fits; None if the chosen one fits."""
        if self.chosen and self.chosen.fits:
            return None
        return next((row for row in reversed(self.rows) if row.fits and not row.is_chosen), None)

    @property
    def chip(self) -> str:
        return kib(self.card.chip_size)

    @property
    def verdict(self) -> str:
        """`fits`, `too-large` or `unknown`."""
        if self.chosen is None or self.chosen.fits is None:
            return "unknown"
        return "fits" if self.chosen.fits else "too-large"


def fit_of(card: Card | None, target: str, profile: str, *, has_options: bool) -> Fit | None:
    """What is known about the size; None without a card, and for targets that are not ROMs. One query."""
    if card is None or target not in ROM_TARGETS:
        return None

    def row(known: KnownSize) -> Row:
        fits = known.fits(card.chip_size) if card.chip_size else None
        return Row(known, fits, known.profile == profile)

    rows = tuple(row(known) for known in Build.objects.known_sizes(card, target))
    return Fit(card, profile, rows, has_options)


@dataclass(frozen=True)
class Delay:
    """How long the script can delay the boot from disk."""

    site: str
    network: str
    cases: tuple[tuple[str, str], ...]
    per_card: str


def delay_of(spec: ScriptSpec) -> Delay:
    files = RescueImage.objects.most_fetched()
    case = worst_case(spec, files=files)
    cases = [
        ("no cable", case.no_link),
        ("no answer from DHCP", case.no_address),
        ("no answer from the site", case.no_site),
        (f"the site stops answering in each of the {files} files of a rescue", case.in_files),
        ("any other fault", case.ever),
    ]
    more = worst_case_seconds(spec, 2) - worst_case_seconds(spec, 1)
    return Delay(
        seconds_text(case.no_site),
        seconds_text(max(case.no_link, case.no_address)),
        tuple((what, seconds_text(seconds)) for what, seconds in cases if seconds),
        seconds_text(more) if more else "",
    )


@dataclass(frozen=True)
class Needed:
    """A build option that the script needs."""

    name: str
    is_added: bool  # the profile switches it off


def needed_by(spec: ScriptSpec, profile: str) -> list[Needed]:
    left_out = {name for name, value in ipxe_options.PROFILES.get(profile, {}).items() if value is False}
    return [Needed(name, name in left_out) for name in sorted(required_options(spec))]


def preview_of(form: BuildForm) -> dict[str, Any]:
    """The context of the preview for a bound form, valid or not."""
    form.is_valid()
    values, order, spec = form.cleaned_data, form.order, form.order.spec
    is_written = form.is_by_hand and "text" not in form.errors
    return {
        "problems": [
            (form.fields[name].label or name.capitalize() if name in form.fields else "", texts)
            for name, texts in form.errors.items()
        ],
        "script": order.script if spec or is_written else "",
        "warnings": order.warnings() if is_written else [],
        "delay": delay_of(spec) if spec else None,
        "needed": needed_by(spec, order.profile) if spec else [],
        "kept_out": checks.takeover_options(order.profile, order.options) if spec else [],
        "fit": fit_of(values.get("card"), values.get("target", ""), order.profile, has_options=bool(order.options)),
        "is_medium": values.get("target") not in ROM_TARGETS,
    }
