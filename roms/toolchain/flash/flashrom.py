"""flashrom: its command lines, and what its answers mean.

Debian 12's 1.3 is what runs; what 1.2 to 1.8 say is understood too. The exit status decides and the text explains:
"Erase/write done" is said of writes that failed, and no version says the same for identical contents.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from roms.toolchain.flash.pci import PCISlot
from roms.toolchain.flash.programmers import NIC_PROGRAMMERS, PracticeChip, Programmer
from roms.toolchain.runner import ProgramMissingError, run

PROGRAM = "flashrom"
#: Seconds for a question that touches no hardware.
QUESTION = 30.0

_FOUND = re.compile(
    r'^(?:Found|Assuming) (?P<vendor>.*?) flash chip "(?P<name>[^"]+)" \((?P<kb>\d+) kB, (?P<bus>[^)]*)\) '
    r"(?:on (?P<programmer>\S+?)|mapped at physical address 0x[0-9a-fA-F]+)\.$",
    re.MULTILINE,
)
_SIZES = re.compile(r"Image size \((\d+) B\) doesn't match the expected size \((\d+) B\)")
_ERROR = re.compile(r"^(?:Critical )?Error: (.*)$", re.MULTILINE | re.IGNORECASE)
_VERSION = re.compile(r"^flashrom v?(\S+) on ", re.MULTILINE)
_NOT_WORKING = re.compile(r"^This flash part has status NOT WORKING for operations:(.*)$", re.MULTILINE)
#: What a chip is known not to do, and what it cannot do by design.
_ABORTED = re.compile(
    r"^(?:Read|Erase|Write)(?:/erase)? is not (?:working|possible) (?:yet )?on (?:this chip|your programmer)[^.]*\.|"
    r"^flash\w+ has no (?:read|erase|write) function for this flash chip\.",
    re.MULTILINE,
)
_CARD_LIST = re.compile(r"^Supported PCI devices for the (\S+) programmer:$")
_CARD = re.compile(r"^(?P<names>.*\S)\s+(?P<id>[0-9a-f]{4}:[0-9a-f]{4})\s+(?P<status>\S.*)$")


# Cards


@dataclass(frozen=True)
class SupportedCard:
    """A card that the installed flashrom knows."""

    programmer: str
    name: str
    id: str
    is_tested: bool


def supported_cards(program: str = PROGRAM) -> list[SupportedCard]:
    """The PCI cards that the installed flashrom knows. Raises ProgramMissingError."""
    return list(read_supported_cards(_whole_answer([program, "-L"])))


def read_supported_cards(text: str) -> Iterator[SupportedCard]:
    """Read the PCI parts of what `flashrom -L` prints."""
    programmer = ""
    for line in text.splitlines():
        if header := _CARD_LIST.match(line):
            programmer = header[1]
        elif not line.strip():
            programmer = ""
        elif programmer and (card := _CARD.match(line)):
            name = re.sub(r"\s+", " ", card["names"])
            yield SupportedCard(programmer, name, card["id"], card["status"] == "OK")


def reached(cards: Iterable[SupportedCard]) -> dict[str, SupportedCard]:
    """Those whose boot ROM a programmer of NIC_PROGRAMMERS reaches, by PCI id."""
    return {card.id: card for card in cards if card.programmer in NIC_PROGRAMMERS}


# The installed flashrom


def version(program: str = PROGRAM) -> str:
    """The version of the installed flashrom, "unknown" where nobody knows. Raises ProgramMissingError."""
    found = read_version(_whole_answer([program, "--version"]))
    if found != "unknown":
        return found
    # Debian 12 builds it from a tree that has lost its version.
    try:
        package = run(["dpkg-query", "--showformat=${Version}", "--show", "flashrom"], timeout=QUESTION)
    except ProgramMissingError:
        return found
    return package.output.decode(errors="replace").strip() if package.returncode == 0 else found


def read_version(text: str) -> str:
    """The version in what flashrom says first."""
    found = _VERSION.search(text)
    return found[1] if found else "unknown"


def _whole_answer(command: list[str]) -> str:
    chunks: list[bytes] = []
    run(command, log=chunks.append, timeout=QUESTION)
    return b"".join(chunks).decode(errors="replace")


# Command lines


@dataclass(frozen=True)
class Flashrom:
    """flashrom for one chip: the command lines."""

    programmer: Programmer | PracticeChip
    slot: PCISlot | None = None
    chip: str | None = None
    program: str = PROGRAM

    def probe(self) -> list[str]:
        return [*self._start(), "--flash-size"]

    def read(self, file: Path) -> list[str]:
        return [*self._start(), "-r", str(file)]

    def write(self, file: Path) -> list[str]:
        """Write and verify. There is an option not to verify; nothing here ever uses it."""
        return [*self._start(), "-w", str(file)]

    def _start(self) -> list[str]:
        chip = ["-c", self.chip] if self.chip else []
        return [self.program, "-p", self.programmer.argument(self.slot), *chip]


# Answers


class Outcome(enum.StrEnum):
    """What flashrom's answer amounts to."""

    OK = "ok"
    NO_CHIP = "no_chip"
    SEVERAL_CHIPS = "several_chips"
    UNKNOWN_CHIP = "unknown_chip"
    UNSUPPORTED_CHIP = "unsupported_chip"
    NOT_WORKING = "not_working"
    PROTECTED = "protected"
    NO_CARD = "no_card"
    SEVERAL_CARDS = "several_cards"
    WRONG_SIZE = "wrong_size"
    MEMORY_REFUSED = "memory_refused"
    PORTS_REFUSED = "ports_refused"
    MEMORY_DISABLED = "memory_disabled"
    NO_PCI = "no_pci"
    UNKNOWN_PROGRAMMER = "unknown_programmer"
    PROGRAMMER_FAILED = "programmer_failed"
    FILE_FAILED = "file_failed"
    WRITE_FAILED = "write_failed"
    VERIFY_FAILED = "verify_failed"
    KILLED = "killed"
    FAILED = "failed"


@dataclass(frozen=True)
class Chip:
    """A flash chip that was found."""

    vendor: str
    name: str
    size: int  # bytes
    bus: str = ""
    programmer: str = ""

    def __str__(self) -> str:
        return f"{self.vendor} {self.name} ({self.size // 1024} KiB)"


@dataclass(frozen=True)
class Verdict:
    """What flashrom's answer means: for the program, and in a sentence for the person."""

    outcome: Outcome
    message: str
    advice: str = ""
    chips: tuple[Chip, ...] = ()
    not_working: frozenset[str] = frozenset()  # what is known not to work with this chip: PROBE, READ, ERASE, WRITE, WP

    @property
    def is_ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def chip(self) -> Chip | None:
        """The chip, where exactly one was found."""
        return self.chips[0] if len(self.chips) == 1 else None

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class _Sign(NamedTuple):
    """A text of flashrom's, and what it means."""

    text: str
    outcome: Outcome
    message: str
    advice: str = ""


_RELAX = (
    "Unload the card's driver (as in modprobe -r e100). If that is not enough, boot the station with iomem=relaxed;"
    " where Secure Boot is on, the kernel is locked down until it is off."
)

#: In this order: what comes first explains what flashrom says after it ("Programmer initialization failed").
_SIGNS = (
    _Sign(
        "Unknown programmer",
        Outcome.UNKNOWN_PROGRAMMER,
        "This flashrom was built without that programmer.",
        "Install a flashrom that has it, or choose another station.",
    ),
    _Sign(
        "Unknown chip",
        Outcome.UNKNOWN_CHIP,
        "flashrom does not know a chip of that name.",
        "Leave the chip's name empty to see what it finds.",
    ),
    _Sign(
        "Multiple supported PCI devices found",
        Outcome.SEVERAL_CARDS,
        "More than one card is plugged in that this programmer can reach.",
        "Choose the slot.",
    ),
    _Sign(
        "No supported PCI device found",
        Outcome.NO_CARD,
        "No card that this programmer can reach was found there.",
        "Check the slot, and that the card is plugged in; switch the station off before you plug one in.",
    ),
    _Sign(
        "open(/dev/mem): Permission denied",
        Outcome.MEMORY_REFUSED,
        "flashrom may not open /dev/mem, through which it reaches the card.",
        "Run the station's worker as root.",
    ),
    _Sign(
        "open(/dev/mem): No such file or directory",
        Outcome.MEMORY_REFUSED,
        "This host has no /dev/mem, through which flashrom reaches the card.",
        "Run the station's worker on the host itself, not in a container, with a kernel that has /dev/mem"
        " (CONFIG_DEVMEM).",
    ),
    _Sign(
        "open(/dev/mem): ",
        Outcome.MEMORY_REFUSED,
        "The kernel does not let flashrom open /dev/mem, through which it reaches the card.",
        "Where Secure Boot is on, the kernel is locked down until it is off. In a container or under a systemd unit, "
        "the worker needs CAP_SYS_RAWIO and the device /dev/mem. Else boot the station with iomem=relaxed.",
    ),
    _Sign(
        "mmap failed: Operation not permitted",
        Outcome.MEMORY_REFUSED,
        "The kernel does not let flashrom into the card's memory.",
        _RELAX,
    ),
    _Sign(
        "mmap failed: Invalid argument",
        Outcome.MEMORY_REFUSED,
        "The kernel does not map the card's memory for flashrom (CONFIG_STRICT_DEVMEM, CONFIG_X86_PAT).",
        f"{_RELAX} If neither helps, boot it with nopat.",
    ),
    _Sign(
        "mmap failed",
        Outcome.MEMORY_REFUSED,
        "The card's memory cannot be mapped for flashrom.",
        f"{_RELAX} The log says what the kernel answered.",
    ),
    _Sign(
        "Could not get I/O privileges",
        Outcome.PORTS_REFUSED,
        "The kernel does not let flashrom use I/O ports.",
        "Run the worker as root; dmesg | grep flashrom says more. Where Secure Boot is on, the kernel is locked down.",
    ),
    _Sign(
        "device has MEM space accesses disabled",
        Outcome.MEMORY_DISABLED,
        "The card's memory is switched off, as it is after its driver was unloaded.",
        "Switch it on: setpci -s SLOT COMMAND=2:2, with the card's slot.",
    ),
    _Sign(
        "device has I/O space accesses disabled",
        Outcome.MEMORY_DISABLED,
        "The card's I/O ports are switched off, as they are after its driver was unloaded.",
        "Switch them on: setpci -s SLOT COMMAND=1:1, with the card's slot.",
    ),
    _Sign(
        "Cannot find any working access method",
        Outcome.NO_PCI,
        "flashrom cannot reach the PCI bus of this host.",
        "Run the station's worker as root, on the host itself and not in a container.",
    ),
    _Sign(
        "Flash is in Secure Mode",
        Outcome.PROTECTED,
        "The card keeps its flash chip locked (secure mode): nothing but its maker's own tools writes to it.",
        "Use another card, or start the machine from an ISO, a USB stick or PXE.",
    ),
    _Sign(
        "Enabling flash write access failed",
        Outcome.PROTECTED,
        "The card does not let its flash chip be written.",
        "Look whether the card carries a chip at all, and whether a jumper or its setup protects it.",
    ),
    _Sign(
        "Multiple flash chip definitions match",
        Outcome.SEVERAL_CHIPS,
        "More than one chip fits what was found.",
        "Read the name that is printed on the chip, and choose it.",
    ),
    _Sign(
        "No EEPROM/flash device found",
        Outcome.NO_CHIP,
        "The card has no flash chip that flashrom recognises.",
        "Check that a chip sits in the socket, the right way round.",
    ),
    _Sign(
        "doesn't match the expected size",
        Outcome.WRONG_SIZE,
        "The contents do not have the chip's size.",
        "Build the ROM for this chip.",
    ),
    _Sign(
        "Programmer initialization failed",
        Outcome.PROGRAMMER_FAILED,
        "flashrom could not set up its programmer.",
        "The log says why.",
    ),
    _Sign(
        "could not be written completely",
        Outcome.FILE_FAILED,
        "What was read from the chip could not be saved.",
        "Make room on the disk.",
    ),
    _Sign("Error: opening file", Outcome.FILE_FAILED, "flashrom could not open a file.", "The log says which."),
)
_UNSUPPORTED = _Sign(
    "",
    Outcome.UNSUPPORTED_CHIP,
    "A chip answers that this flashrom does not know, so neither its size nor how to write it is known.",
    "Nothing was written. Read what is printed on the chip, and look for it in flashrom -L: a later flashrom may know "
    "it. A chip with bad contacts answers so too: clean them, with the station switched off.",
)
_NOT_WORKING_ADVICE = "Install a later flashrom, which may do it, or use another card."
_WRITE_FAILED = "Erasing or writing the chip failed."
_VERIFY_FAILED = "What flashrom read back is not what it wrote."


def understand(output: bytes, returncode: int) -> Verdict:
    """What an answer of flashrom's means."""
    text = output.decode(errors="replace")
    chips = tuple(
        Chip(found["vendor"], found["name"], int(found["kb"]) * 1024, found["bus"], found["programmer"] or "")
        for found in _FOUND.finditer(text)
    )
    known = tuple(chip for chip in chips if chip.size)
    broken = frozenset(word for found in _NOT_WORKING.finditer(text) for word in found[1].split())
    outcome, message, advice = _judge(text, returncode, is_unknown=bool(chips) and not known)
    return Verdict(outcome, message, advice, known, broken)


def cannot(verdict: Verdict, *operations: str) -> Verdict | None:
    """Another verdict where one of these operations is known not to work with the chip found; None elsewhere."""
    broken = [name.lower() for name in operations if name in verdict.not_working]
    if not broken or not verdict.is_ok:
        return None
    message = f"flashrom's authors know that this does not work with the chip {verdict.chip}: {', '.join(broken)}."
    return dataclasses.replace(verdict, outcome=Outcome.NOT_WORKING, message=message, advice=_NOT_WORKING_ADVICE)


def _judge(text: str, returncode: int, *, is_unknown: bool = False) -> tuple[Outcome, str, str]:
    if is_unknown and returncode >= 0:
        # It says so with status 0, too: where only the size is asked for, the answer is 0.
        return _UNSUPPORTED.outcome, _UNSUPPORTED.message, _UNSUPPORTED.advice
    if returncode == 0:
        return Outcome.OK, "flashrom succeeded.", ""
    if returncode < 0:
        return Outcome.KILLED, f"flashrom was ended by signal {-returncode}.", ""
    if returncode == 2:
        return Outcome.WRITE_FAILED, _WRITE_FAILED, ""
    # The manual says that 3 is a failed mmap, and it is; a failed verification is 3 as well.
    if returncode == 3 and "mmap failed" not in text and "open(/dev/mem)" not in text:
        return Outcome.VERIFY_FAILED, _VERIFY_FAILED, ""
    for sign in _SIGNS:
        if sign.text in text:
            return sign.outcome, _in_detail(sign, text), sign.advice
    if found := _ABORTED.search(text):
        return Outcome.NOT_WORKING, f"flashrom does not try it: {found[0].strip()}", _NOT_WORKING_ADVICE
    errors = _ERROR.findall(text)
    said = f": {errors[-1]}" if errors else "."
    return Outcome.FAILED, f"flashrom failed with exit status {returncode}{said}", "The log says more."


def _in_detail(sign: _Sign, text: str) -> str:
    """A sign's message, with the sizes or the cause that flashrom names."""
    if sizes := _SIZES.search(text):
        return f"{sign.message[:-1]}: {sizes[1]} bytes for {sizes[2]}."
    if sign.outcome is Outcome.PROGRAMMER_FAILED:
        before, _, _ = text.partition("Error: Programmer initialization failed")
        if lines := [line for line in before.splitlines() if line.strip()]:
            return f"{sign.message[:-1]}: {lines[-1].strip()}"
    return sign.message
