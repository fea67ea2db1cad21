"""Network cards: those that iPXE supports, the site's own list, and those in the output of lspci."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from roms.toolchain import runner
from roms.toolchain.flash.flashrom import SupportedCard, reached
from roms.toolchain.flash.programmers import DUMMY, NIC_PROGRAMMERS
from roms.toolchain.sandbox import Sandbox

CARDS = Path(__file__).resolve().parents[2] / "cards.toml"
#: The key of the practice card: it needs no hardware, and its chip is a file.
PRACTICE = "practice"
#: The limits for a pasted text, in characters.
LONGEST_PASTE = 1 << 20
LONGEST_LINE = 1000

_ID = re.compile(r"([0-9a-f]{4}):?([0-9a-f]{4})", re.IGNORECASE)
_RULE = re.compile(r"^# NIC\t(?P<image>\S+)\t(?P<vendor>[0-9a-f]{4}),(?P<device>[0-9a-f]{4})\t(?P<name>.*)$")
_DRIVER = re.compile(r"^DRIVER_(?P<image>\S+) = (?P<driver>\S+)$")
_TYPE = re.compile(r"^ROM_TYPE_(?P<image>\S+) = (?P<type>\S+)$")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
#: Characters in copied text: other spaces and quotation marks, and invisible characters.
_COPIED = str.maketrans("\u00a0\u2007\u2009\u202f\u3000“”„″", '     """"', "\u200b\u200c\u200d\u2060\ufeff")
_QUOTED = re.compile(r"^(?: {0,3}[>|] ?)+")
_SLOT = r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_HEAD = re.compile(rf"^\s*(?:[-*•]\s+)?(?P<slot>{_SLOT})\s+(?P<rest>\S.*)$", re.IGNORECASE)
_REVISION = r"(?:\s*\(rev (?P<revision>[0-9a-f]{2})\))?"
#: A line of lspci -nn, with single spaces.
_NAMED = re.compile(
    r"(?P<class>[^\[\]]*)\[(?:Class )?(?P<code>[0-9a-f]{4})\]:\s?"
    rf"(?P<name>.*?)\s?\[(?P<vendor>[0-9a-f]{{4}}):(?P<device>[0-9a-f]{{4}})\]{_REVISION}",
    re.IGNORECASE,
)
#: A line of lspci -n, also of old versions and of BusyBox, which appends the driver.
_NUMBERS = re.compile(
    r"(?:Class )?(?P<code>[0-9a-f]{4}):\s?(?P<name>)(?P<vendor>[0-9a-f]{4}):(?P<device>[0-9a-f]{4})"
    rf"{_REVISION}(?: \(.*\))?(?: (?P<driver>[a-z][\w-]*))?$",
    re.IGNORECASE,
)
#: lspci -mm: fields in quotation marks.
_FIELD = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MACHINE_REVISION = re.compile(r"\s-r([0-9a-f]{2})\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?:^(?:Class )?|.*\[)([0-9a-f]{4})\]?$", re.IGNORECASE)
#: Further lines of a card, and all lines of lspci -vmm.
_KEY = re.compile(r"^\s*(?P<key>[A-Z][\w /-]*):(?P<value>.*)$")
_BLOCK_KEYS = {"Class", "Vendor", "Device", "SVendor", "SDevice", "Rev", "Driver"}
_SUBSYSTEM = re.compile(r"(?:.*\[)?([0-9a-f]{4}):([0-9a-f]{4})\]?$", re.IGNORECASE)
_NETWORK = re.compile(r"\b(?:Class )?02[0-8]0\b|ethernet|network|wireless|infiniband", re.IGNORECASE)
_ANY_ID = re.compile(r"\b[0-9a-f]{4}:[0-9a-f]{4}\b", re.IGNORECASE)
#: A wrapped line may have this many further lines.
_WRAPPED = 3


class CardError(ValueError):
    """A PCI ID or a list of cards is not valid, or cannot be read. The message says why."""


def pci_id(text: str) -> str:
    """Normalise a PCI ID: `8086:1229` or `80861229`, upper or lower case. Raises CardError."""
    found = _ID.fullmatch(text.strip())
    if not found:
        raise CardError(f"“{text[:40]}” is not a valid PCI ID. Write it like 8086:1229 (see lspci -nn).")
    return f"{found[1]}:{found[2]}".lower()


# Cards that iPXE supports


@dataclass(frozen=True)
class CatalogueCard:
    """A card for which the tree has a driver."""

    id: str  # 8086:1229
    name: str
    #: The tree's short name for the card, for example 82559er.
    image: str
    #: If there are several, the tree's Makefile uses the last one.
    drivers: tuple[str, ...]

    @property
    def driver(self) -> str:
        return self.drivers[-1]

    @property
    def is_ambiguous(self) -> bool:
        return len(self.drivers) > 1

    @property
    def rom_name(self) -> str:
        """The name in a make target, for example 80861229."""
        return self.id.replace(":", "")


def catalogue(tree: Path, user: str | None = None, sandbox: Sandbox | None = None) -> list[CatalogueCard]:
    """All PCI cards of the tree in this folder, from the tree's own program. Raises CardError."""
    src = tree / "src"
    paths = (path.relative_to(src) for path in src.rglob("*.c"))
    sources = sorted(str(path) for path in paths if "drivers" in path.parts)
    heard = bytearray()
    try:
        command = ["perl", "util/parserom.pl", *sources]
        run = sandbox.with_folders((tree,), ()).run if sandbox else runner.run
        finished = run(command, cwd=src, user=user, log=heard.extend, timeout=60)
    except runner.ProgramMissingError as error:
        raise CardError(f"{error} Install it: apt-get install perl") from error
    if finished.returncode or not sources:
        said = finished.output[-300:].decode(errors="replace").strip()
        raise CardError(f"Cannot read the cards of iPXE's source: {said or 'it has no drivers'}")
    return read_rules(heard.decode(errors="replace"))


def read_rules(text: str) -> list[CatalogueCard]:
    """Read the output of parserom.pl: make rules for each card, first by its PCI ID, then by its short name."""
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
            # make uses the last driver.
            self.drivers = [*(known for known in self.drivers if known != driver), driver]
        else:
            self.image = self.image or rule["image"]


# The site's own list


@dataclass(frozen=True)
class CuratedCard:
    """A card in cards.toml."""

    key: str
    id: str
    name: str
    driver: str
    programmer: str
    #: In bytes; None if cards of this model have different chips.
    chip_size: int | None = None
    notes: str = ""

    @property
    def is_practice(self) -> bool:
        return self.key == PRACTICE


def load_curated(path: Path = CARDS) -> list[CuratedCard]:
    """The cards in cards.toml. Raises CardError."""
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
        raise CardError(f"The chip_size {size!r} is not a multiple of 1024.")
    text = {name: str(entry[name]) for name in ("name", "driver", "programmer")}
    card = pci_id(str(entry["id"]))
    key = str(entry.get("key", card))
    if text["programmer"] not in ((DUMMY,) if key == PRACTICE else ("", *NIC_PROGRAMMERS)):
        raise CardError(f"“{text['programmer']}” is not a valid programmer for this card.")
    return CuratedCard(key=key, id=card, chip_size=size, notes=str(entry.get("notes", "")).strip(), **text)


# The output of lspci


@dataclass(frozen=True)
class LspciCard:
    """A network card in the output of lspci."""

    slot: str
    id: str
    name: str
    class_code: str = ""  # 0200 is Ethernet
    revision: str = ""
    subsystem: str = ""
    #: The kernel driver that uses the card, from `lspci -nnk`.
    kernel_driver: str = ""


@dataclass(frozen=True)
class Pasted:
    """The result of reading a pasted text."""

    cards: list[LspciCard]
    #: Lines that look like network cards but could not be read.
    unread: list[str]


def read_lspci(text: str) -> Pasted:
    """Read the network cards in a pasted output of lspci; other lines are ignored.

    Valid forms are -nn, -nnk, -n, -D, -mm and -vmm with numbers, and BusyBox. Lines may be quoted or wrapped.
    """
    reader = _Reader()
    lines = [_QUOTED.sub("", line) for line in _clean(text).splitlines()]
    at = 0
    while at < len(lines):
        at += reader.read(lines[at : at + 1 + _WRAPPED])
    return reader.result()


def _clean(text: str) -> str:
    text = text[:LONGEST_PASTE].replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", text).translate(_COPIED)


@dataclass
class _Reader:
    """Reads line by line, and remembers the card to which further lines belong."""

    _cards: list[dict[str, str]] = field(default_factory=list)
    _unread: dict[str, None] = field(default_factory=dict)
    _current: dict[str, str] | None = None
    #: The keys and values of one device in `lspci -vmm`.
    _block: dict[str, str] = field(default_factory=dict)

    def read(self, lines: list[str]) -> int:
        """Read the first line with its wrapped continuation; return the number of lines read."""
        line = lines[0]
        if head := _HEAD.match(line):
            self._end_block()
            return self._head(head, lines)
        found = _KEY.match(line) if len(line) <= LONGEST_LINE else None
        if found and self._key(found["key"], found["value"].strip()):
            return 1
        if not line.strip():
            self._end_block()
        elif line.startswith("(") or (found and not _NETWORK.search(found["key"])):
            pass  # part of a wrapped line, or another detail of the card
        elif not line[0].isspace():
            self._current = None
            if _NETWORK.search(line[:LONGEST_LINE]) and _ANY_ID.search(line[:LONGEST_LINE]):
                self._not_understood(line)
        return 1

    def result(self) -> Pasted:
        self._end_block()
        return Pasted([LspciCard(**card) for card in self._cards], list(self._unread))

    def _head(self, head: re.Match[str], lines: list[str]) -> int:
        self._current = None
        for number, rest in _unwrapped(head["rest"], lines):
            card = _understood(rest) if len(rest) <= LONGEST_LINE else None
            if card is not None:
                self._take(head["slot"], card)
                return number
        if _NETWORK.search(head["rest"][:LONGEST_LINE]):
            self._not_understood(lines[0])
        return 1

    def _take(self, slot: str, card: dict[str, str]) -> None:
        # 02 is the class of all network controllers, 0200 Ethernet, 0280 others.
        if card["class_code"].startswith("02"):
            self._current = {"slot": slot.lower()} | card
            self._cards.append(self._current)

    def _key(self, key: str, value: str) -> bool:
        if re.fullmatch(_SLOT, value, re.IGNORECASE) and (key == "Slot" or (key == "Device" and not self._block)):
            self._end_block()
            self._current, self._block = None, {"Slot": value}
        elif self._block and key in _BLOCK_KEYS:
            self._block[key] = value
        elif self._current is not None and key == "Subsystem" and (found := _SUBSYSTEM.match(value)):
            self._current["subsystem"] = f"{found[1]}:{found[2]}".lower()
        elif self._current is not None and key == "Kernel driver in use":
            self._current["kernel_driver"] = _plain(value.partition(" ")[0], 40)
        else:
            return False
        return True

    def _end_block(self) -> None:
        block, self._block = self._block, {}
        if not block:
            return
        fields = [block.get(name, "") for name in ("Class", "Vendor", "Device", "SVendor", "SDevice")]
        card = _numbered(fields, block.get("Rev", ""), block.get("Driver", ""))
        if card is not None:
            self._take(block["Slot"], card)
        elif _NETWORK.search(block.get("Class", "")):
            self._not_understood(f"Slot: {block['Slot']} Class: {block['Class']}")
        self._current = None

    def _not_understood(self, line: str) -> None:
        self._unread[_plain(" ".join(line[:LONGEST_LINE].split()), 120)] = None


def _unwrapped(rest: str, lines: list[str]) -> Iterator[tuple[int, str]]:
    """The text after a slot, alone and with each possible number of continuation lines."""
    whole = " ".join(rest.split())
    yield 1, whole
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or len(line) > LONGEST_LINE or _HEAD.match(line) or _KEY.match(line):
            return
        more = " ".join(line.split())
        yield number, f"{whole} {more}"
        # A terminal can wrap in the middle of a word.
        yield number, whole + more
        whole = f"{whole} {more}"


def _understood(rest: str) -> dict[str, str] | None:
    """The device in the text after a slot; None if the text has no numbers."""
    if rest.startswith('"'):
        fields = [found.replace('\\"', '"') for found in _FIELD.findall(rest)]
        revision = _MACHINE_REVISION.search(_FIELD.sub("", rest))
        return _numbered(fields, revision[1] if revision else "", fields[5] if len(fields) > 5 else "")
    if not (found := _NAMED.match(rest) or _NUMBERS.match(rest)):
        return None
    card = {
        "id": f"{found['vendor']}:{found['device']}".lower(),
        "name": _plain(found["name"]),
        "class_code": found["code"].lower(),
        "revision": (found["revision"] or "").lower(),
    }
    return card | {"kernel_driver": found.groupdict().get("driver") or ""}


def _numbered(fields: list[str], revision: str, driver: str) -> dict[str, str] | None:
    """A device from its fields. Each field is a number, or a name with a number in brackets."""
    numbers = [found[1].lower() if (found := _NUMBER.match(text)) else "" for text in fields[:5]]
    if len(numbers) < 3 or not all(numbers[:3]):
        return None
    names = [re.sub(r"\s*\[[0-9a-fA-F]{4}\]$", "", text) for text in fields[1:3] if "[" in text]
    return {
        "id": f"{numbers[1]}:{numbers[2]}",
        "name": _plain(" ".join(names)),
        "class_code": numbers[0],
        "revision": revision.lower(),
        "subsystem": ":".join(numbers[3:]) if len(numbers) == 5 and all(numbers[3:]) else "",
        "kernel_driver": _plain(driver, 40),
    }


def _plain(text: str, longest: int = 200) -> str:
    return "".join(letter for letter in text if letter.isprintable()).strip()[:longest]


# Advice


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


def advise(
    cards: Iterable[LspciCard],
    known: Iterable[CatalogueCard],
    curated: Iterable[CuratedCard],
    flashable: Iterable[SupportedCard] = (),
    *,
    knows_the_tree: bool = True,
) -> list[Advice]:
    """Say for each card whether it can be built for and flashed, and how.

    `known` are the cards that iPXE supports. Without `knows_the_tree` they are only the cards of the site's own list.
    `flashable` are the cards that the installed flashrom supports.
    """
    drivers = {card.id: card for card in known}
    listed = {card.id: card for card in curated if not card.is_practice}
    by_flashrom = reached(flashable)
    return [
        _advice(card, drivers.get(card.id), listed.get(card.id), by_flashrom.get(card.id), knows_the_tree)
        for card in cards
    ]


def _advice(
    card: LspciCard,
    driven: CatalogueCard | None,
    listed: CuratedCard | None,
    supported: SupportedCard | None,
    knows_the_tree: bool,
) -> Advice:
    best = listed or supported
    programmer = best.programmer if best else ""
    if programmer:
        flashing = [*_flashing_advice(card, programmer, listed, supported)]
    else:
        flashing = ["flashrom cannot write to it. Start the machine from an ISO, a USB stick or PXE instead."]
    return Advice(
        card=card,
        can_build=driven is not None,
        can_flash=bool(programmer) and (driven is not None or not knows_the_tree),
        programmer=programmer,
        chip_size=listed.chip_size if listed else None,
        text=(_driver_advice(driven, knows_the_tree), *flashing),
    )


def _driver_advice(driven: CatalogueCard | None, knows_the_tree: bool) -> str:
    if driven is None:
        if knows_the_tree:
            return "This iPXE has no driver for it, so nobody can build a ROM for it."
        return "It is not in the site's list. After the first build the site knows whether iPXE supports it."
    if driven.is_ambiguous:
        return f"iPXE's drivers {' and '.join(driven.drivers)} both claim it. The default is {driven.driver}."
    return f"iPXE supports it with the driver {driven.driver}."


def _flashing_advice(
    card: LspciCard, programmer: str, listed: CuratedCard | None, supported: SupportedCard | None
) -> Iterator[str]:
    slot = card.slot if card.slot.count(":") == 2 else f"0000:{card.slot}"
    yield f"Flash it with flashrom -p {programmer}:pci={slot}."
    if supported is not None and not supported.is_tested:
        yield "The authors of flashrom have not tested it: read the chip twice and compare before you write."
    if listed and listed.chip_size:
        yield f"Its chip usually has {listed.chip_size // 1024} KiB. flashrom shows the size."
    else:
        yield "Cards of this model have different chips or none. flashrom shows the size."
    if card.kernel_driver:
        yield f"Unload its driver first (modprobe -r {card.kernel_driver}). This stops its network connection."
    if listed and listed.notes:
        yield listed.notes
