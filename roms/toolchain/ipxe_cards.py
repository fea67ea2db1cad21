"""Network cards: what the iPXE tree drives, what flashrom reaches, what we know besides, and what `lspci -nn` shows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from roms.toolchain import runner
from roms.toolchain.flashrom import DUMMY, NIC_PROGRAMMERS, SupportedCard, reached

CARDS = Path(__file__).resolve().parent.parent / "cards.toml"
#: The key of the card that is no card: its chip is a file of the site's own.
PRACTICE = "practice"
#: What is read of a pasted text.
LONGEST_PASTE = 1 << 20
LONGEST_LINE = 1000

_ID = re.compile(r"([0-9a-f]{4}):?([0-9a-f]{4})", re.IGNORECASE)
_RULE = re.compile(r"^# NIC\t(?P<image>\S+)\t(?P<vendor>[0-9a-f]{4}),(?P<device>[0-9a-f]{4})\t(?P<name>.*)$")
_DRIVER = re.compile(r"^DRIVER_(?P<image>\S+) = (?P<driver>\S+)$")
_TYPE = re.compile(r"^ROM_TYPE_(?P<image>\S+) = (?P<type>\S+)$")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_LSPCI = re.compile(
    r"^\s*(?P<slot>(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7])\s+"
    r"(?P<class>[^\[\]]*)\[(?P<code>[0-9a-f]{4})\]:\s*"
    r"(?P<name>.*?)\s*\[(?P<vendor>[0-9a-f]{4}):(?P<device>[0-9a-f]{4})\]"
    r"(?:\s*\(rev (?P<revision>[0-9a-f]{2})\))?",
    re.IGNORECASE,
)
#: lspci -n: numbers alone.
_NUMBERS = re.compile(
    r"^\s*(?P<slot>(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7])\s+(?P<class>)(?P<code>[0-9a-f]{4}):\s*"
    r"(?P<name>)(?P<vendor>[0-9a-f]{4}):(?P<device>[0-9a-f]{4})(?:\s*\(rev (?P<revision>[0-9a-f]{2})\))?\s*$",
    re.IGNORECASE,
)
_SUBSYSTEM = re.compile(r"^\s+Subsystem:.*\[([0-9a-f]{4}):([0-9a-f]{4})\]", re.IGNORECASE)
_IN_USE = re.compile(r"^\s+Kernel driver in use:\s*(\S+)")


class CardError(ValueError):
    """The catalogue or the list of cards cannot be read; the message says why."""


def pci_id(text: str) -> str:
    """`8086:1229` from that, from `80861229`, in any case. Raises CardError."""
    found = _ID.fullmatch(text.strip())
    if not found:
        raise CardError(f"“{text[:40]}” is no PCI vendor and device like 8086:1229 (see lspci -nn).")
    return f"{found[1]}:{found[2]}".lower()


def numbers(card: str) -> tuple[int, int]:
    """Vendor and device of `8086:1229` as numbers. Raises CardError."""
    vendor, _, device = pci_id(card).partition(":")
    return int(vendor, 16), int(device, 16)


# What the tree drives


@dataclass(frozen=True)
class CatalogueCard:
    """A card that the tree has a driver for."""

    id: str  # 8086:1229
    name: str
    #: The tree's own short name for it, as in 82559er.
    image: str
    #: More than one: the tree lets two drivers claim it, and its Makefile takes the last.
    drivers: tuple[str, ...]

    @property
    def driver(self) -> str:
        return self.drivers[-1]

    @property
    def is_ambiguous(self) -> bool:
        return len(self.drivers) > 1

    @property
    def rom_name(self) -> str:
        """What make calls it: 80861229."""
        return self.id.replace(":", "")


def catalogue(tree: Path, user: str | None = None) -> list[CatalogueCard]:
    """All PCI cards of the tree whose top folder is `tree`, by id. Raises CardError."""
    src = tree / "src"
    paths = (path.relative_to(src) for path in src.rglob("*.c"))
    sources = sorted(str(path) for path in paths if "drivers" in path.parts)
    heard = bytearray()
    try:
        finished = runner.run(["perl", "util/parserom.pl", *sources], cwd=src, user=user, log=heard.extend, timeout=60)
    except runner.ProgramMissingError as error:
        raise CardError(f"{error} Install it: apt-get install perl") from error
    if finished.returncode or not sources:
        said = finished.output[-300:].decode(errors="replace").strip()
        raise CardError(f"The tree's list of cards cannot be read: {said or 'it has no drivers'}")
    return read_rules(heard.decode(errors="replace"))


def read_rules(text: str) -> list[CatalogueCard]:
    """Read what parserom.pl prints: make rules, for each card first by its id, then by its short name."""
    found: dict[str, _Rules] = {}
    rule: re.Match[str] | None = None
    driver = ""
    for line in text.splitlines():
        if match := _RULE.match(line):
            rule, driver = match, ""
        elif rule and (match := _DRIVER.match(line)):
            driver = match["driver"]
        elif rule and driver and (match := _TYPE.match(line)) and match["type"] == "pci":
            found.setdefault(f"{rule['vendor']}:{rule['device']}", _Rules()).add(rule, driver)
    return [
        CatalogueCard(card, _plain(rules.name), rules.image, tuple(rules.drivers))
        for card, rules in sorted(found.items())
    ]


@dataclass
class _Rules:
    name: str = ""
    image: str = ""
    drivers: list[str] = field(default_factory=list)

    def add(self, rule: re.Match[str], driver: str) -> None:
        self.name = self.name or rule["name"]
        if rule["image"] == f"{rule['vendor']}{rule['device']}":
            # The last one wins in make.
            self.drivers = [*(known for known in self.drivers if known != driver), driver]
        else:
            self.image = self.image or rule["image"]


# What we know besides


@dataclass(frozen=True)
class CuratedCard:
    """A card of the list that comes with the site, cards.toml."""

    key: str
    id: str
    name: str
    driver: str
    programmer: str
    #: Bytes; None where cards of this kind carry different chips, or none: flashrom tells.
    chip_size: int | None = None
    notes: str = ""

    @property
    def is_practice(self) -> bool:
        """Whether there is no card: flashrom's dummy stands for it."""
        return self.key == PRACTICE


def load_curated(path: Path = CARDS) -> list[CuratedCard]:
    """The cards of the list. Raises CardError for one that it cannot take."""
    with path.open("rb") as file:
        data = tomllib.load(file)
    cards: dict[str, CuratedCard] = {}
    for number, entry in enumerate(data.get("card", []), 1):
        try:
            card = _curated(entry)
        except (CardError, KeyError, TypeError) as error:
            raise CardError(f"{path.name}, card {number}: {error}") from error
        if card.key in cards:
            raise CardError(f"{path.name}, card {number}: {card.key} is listed twice.")
        cards[card.key] = card
    return list(cards.values())


def _curated(entry: Mapping[str, object]) -> CuratedCard:
    size = entry.get("chip_size")
    if size is not None and (not isinstance(size, int) or size <= 0 or size % 1024):
        raise CardError(f"chip_size is {size!r}, and not a multiple of 1024 bytes.")
    text = {name: str(entry[name]) for name in ("name", "driver", "programmer")}
    card = pci_id(str(entry["id"]))
    key = str(entry.get("key", card))
    if text["programmer"] not in ((DUMMY,) if key == PRACTICE else ("", *NIC_PROGRAMMERS)):
        raise CardError(f"“{text['programmer']}” is no programmer for it.")
    return CuratedCard(key=key, id=card, chip_size=size, notes=str(entry.get("notes", "")).strip(), **text)


# What is plugged in somewhere


@dataclass(frozen=True)
class LspciCard:
    """A network card as lspci shows it."""

    slot: str
    id: str
    name: str
    class_code: str = ""  # 0200 is Ethernet
    revision: str = ""
    subsystem: str = ""
    #: The kernel's driver that holds it, from `lspci -nnk`.
    kernel_driver: str = ""


def parse_lspci(text: str) -> list[LspciCard]:
    """The network cards in a pasted output of `lspci -nn` (or -nnk, -D, -n); every other line is passed over."""
    cards: list[dict[str, str]] = []
    current: dict[str, str] | None = None
    for line in _CONTROL.sub("", text[:LONGEST_PASTE]).splitlines():
        if len(line) > LONGEST_LINE:
            continue
        if found := _LSPCI.match(line) or _NUMBERS.match(line):
            # 02 is the class of all network controllers, 0200 Ethernet, 0280 others.
            current = _card(found) if found["code"].startswith("02") else None
            if current is not None:
                cards.append(current)
        elif current is not None and (found := _SUBSYSTEM.match(line)):
            current["subsystem"] = f"{found[1]}:{found[2]}".lower()
        elif current is not None and (found := _IN_USE.match(line)):
            current["kernel_driver"] = _plain(found[1], 40)
        elif line and not line[0].isspace():
            current = None
    return [LspciCard(**card) for card in cards]


def _card(found: re.Match[str]) -> dict[str, str]:
    return {
        "slot": found["slot"].lower(),
        "id": f"{found['vendor']}:{found['device']}".lower(),
        "name": _plain(found["name"]),
        "class_code": found["code"].lower(),
        "revision": (found["revision"] or "").lower(),
    }


def _plain(text: str, longest: int = 200) -> str:
    return "".join(letter for letter in text if letter.isprintable()).strip()[:longest]


# Which of them can be flashed


@dataclass(frozen=True)
class Advice:
    """What can be done with one card."""

    card: LspciCard
    can_build: bool
    can_flash: bool
    programmer: str
    chip_size: int | None
    #: Sentences for staff.
    text: tuple[str, ...]
    curated: CuratedCard | None = None


def advise(
    cards: Iterable[LspciCard],
    known: Iterable[CatalogueCard],
    curated: Iterable[CuratedCard],
    flashable: Iterable[SupportedCard] = (),
) -> list[Advice]:
    """Say of each card whether it can be flashed, with what, and how. `flashable` is what the installed flashrom lists.

    The practice card is no card, and is not advised.
    """
    drivers = {card.id: card for card in known}
    listed = {card.id: card for card in curated if not card.is_practice}
    by_flashrom = reached(flashable)
    return [_advice(card, drivers.get(card.id), listed.get(card.id), by_flashrom.get(card.id)) for card in cards]


def _advice(
    card: LspciCard, driven: CatalogueCard | None, listed: CuratedCard | None, supported: SupportedCard | None
) -> Advice:
    programmer = listed.programmer if listed else supported.programmer if supported else ""
    return Advice(
        card=card,
        can_build=driven is not None,
        can_flash=driven is not None and bool(programmer),
        programmer=programmer,
        chip_size=listed.chip_size if listed else None,
        text=tuple(_sentences(card, driven, listed, supported)),
        curated=listed,
    )


def _sentences(
    card: LspciCard, driven: CatalogueCard | None, listed: CuratedCard | None, supported: SupportedCard | None
) -> Iterator[str]:
    if driven is None:
        yield "This iPXE has no driver for it: no ROM can be built for it."
    elif driven.is_ambiguous:
        yield f"iPXE's drivers {' and '.join(driven.drivers)} both claim it; {driven.driver} is built in unless chosen."
    else:
        yield f"iPXE drives it with {driven.driver}."
    programmer = listed.programmer if listed else supported.programmer if supported else ""
    if not programmer:
        yield "flashrom does not know how to write to it. Start the machine from an ISO, a USB stick or PXE instead."
        return
    slot = card.slot if card.slot.count(":") == 2 else f"0000:{card.slot}"
    yield f"Its chip is reached with flashrom -p {programmer}:pci={slot}."
    if supported is not None and not supported.is_tested:
        yield "flashrom's authors have not had it tested: read the chip twice and compare before you write."
    if listed and listed.chip_size:
        yield f"Its chip usually holds {listed.chip_size // 1024} KiB; flashrom tells."
    else:
        yield "Cards of this kind carry chips of different sizes, or none: flashrom tells."
    if card.kernel_driver:
        yield f"Unload its driver before (modprobe -r {card.kernel_driver}); its network goes down with it."
    if listed and listed.notes:
        yield listed.notes
