"""flashrom: its command lines, and the meaning of its output.

Debian 12 has version 1.3. This module understands the output of 1.2 to 1.8. The exit status decides, and the text only
explains: flashrom prints "Erase/write done" even after some failed writes, and the texts differ between versions.
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
#: The time limit for commands that use no hardware, in seconds.
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
#: An operation is known to fail with this chip, or the chip does not support it.
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
    """A card that the installed flashrom supports."""

    programmer: str
    name: str
    id: str
    is_tested: bool


def supported_cards(program: str = PROGRAM) -> list[SupportedCard]:
    """The PCI cards that the installed flashrom supports. Raises ProgramMissingError."""
    return list(read_supported_cards(_output([program, "-L"])))


def supported_cards_if_installed() -> list[SupportedCard]:
    """The PCI cards that the installed flashrom supports; none if it is not installed."""
    try:
        return supported_cards()
    except ProgramMissingError:
        return []


def read_supported_cards(text: str) -> Iterator[SupportedCard]:
    """Read the PCI cards in the output of `flashrom -L`."""
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
    """The cards that one of NIC_PROGRAMMERS can flash, by PCI ID."""
    return {card.id: card for card in cards if card.programmer in NIC_PROGRAMMERS}


# The installed flashrom


def version(program: str = PROGRAM) -> str:
    """The version of the installed flashrom, or "unknown". Raises ProgramMissingError."""
    found = read_version(_output([program, "--version"]))
    if found != "unknown":
        return found
    # Debian 12 builds flashrom without its version.
    try:
        package = run(["dpkg-query", "--showformat=${Version}", "--show", "flashrom"], timeout=QUESTION)
    except ProgramMissingError:
        return found
    return package.output.decode(errors="replace").strip() if package.returncode == 0 else found


def read_version(text: str) -> str:
    """The version in the first line of flashrom's output, or "unknown"."""
    found = _VERSION.search(text)
    return found[1] if found else "unknown"


def _output(command: list[str]) -> str:
    chunks: list[bytes] = []
    run(command, log=chunks.append, timeout=QUESTION)
    return b"".join(chunks).decode(errors="replace")


# Command lines


@dataclass(frozen=True)
class Flashrom:
    """The command lines of flashrom for one chip."""

    programmer: Programmer | PracticeChip
    slot: PCISlot | None = None
    chip: str | None = None
    program: str = PROGRAM

    def probe(self) -> list[str]:
        return [*self._start(), "--flash-size"]

    def read(self, file: Path) -> list[str]:
        return [*self._start(), "-r", str(file)]

    def write(self, file: Path) -> list[str]:
        """Write and verify. The site never uses flashrom's option that skips the verification."""
        return [*self._start(), "-w", str(file)]

    def _start(self) -> list[str]:
        chip = ["-c", self.chip] if self.chip else []
        return [self.program, "-p", self.programmer.argument(self.slot), *chip]


# The output


class Outcome(enum.StrEnum):
    """The meaning of flashrom's output."""

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
    """A flash chip that flashrom found."""

    vendor: str
    name: str
    size: int  # bytes
    bus: str = ""
    programmer: str = ""

    def __str__(self) -> str:
        return f"{self.vendor} {self.name} ({self.size // 1024} KiB)"


@dataclass(frozen=True)
class Verdict:
    """The meaning of flashrom's output, with a message and advice for people."""

    outcome: Outcome
    message: str
    advice: str = ""
    chips: tuple[Chip, ...] = ()
    not_working: frozenset[str] = frozenset()  # operations that fail with this chip: PROBE, READ, ERASE, WRITE, WP

    @property
    def is_ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def chip(self) -> Chip | None:
        """The chip, if exactly one was found."""
        return self.chips[0] if len(self.chips) == 1 else None

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class _Sign(NamedTuple):
    """A text in flashrom's output, and its meaning."""

    text: str
    outcome: Outcome
    message: str
    advice: str = ""


_RELAX = (
    "Unload the card's driver (for example modprobe -r e100). If this does not help, boot the station with "
    "iomem=relaxed, and switch Secure Boot off, because it locks the kernel down."
)

#: The first match counts. Later texts, such as "Programmer initialization failed", are only consequences.
_SIGNS = (
    _Sign(
        "Unknown programmer",
        Outcome.UNKNOWN_PROGRAMMER,
        "This flashrom does not have that programmer.",
        "Install a flashrom with this programmer, or choose another station.",
    ),
    _Sign(
        "Unknown chip",
        Outcome.UNKNOWN_CHIP,
        "flashrom does not know a chip with that name.",
        "Leave the name of the chip empty, and see what flashrom finds.",
    ),
    _Sign(
        "Multiple supported PCI devices found",
        Outcome.SEVERAL_CARDS,
        "The station has several cards that this programmer supports.",
        "Choose the slot.",
    ),
    _Sign(
        "No supported PCI device found",
        Outcome.NO_CARD,
        "flashrom found no card that this programmer supports.",
        "Check the slot and the card. Switch the station off before you plug a card in.",
    ),
    _Sign(
        "open(/dev/mem): Permission denied",
        Outcome.MEMORY_REFUSED,
        "flashrom needs /dev/mem to reach the card, but may not open it.",
        "Run the station's worker as root.",
    ),
    _Sign(
        "open(/dev/mem): No such file or directory",
        Outcome.MEMORY_REFUSED,
        "flashrom needs /dev/mem to reach the card, but this host does not have it.",
        "Run the station's worker on the host, not in a container, with a kernel that has /dev/mem (CONFIG_DEVMEM).",
    ),
    _Sign(
        "open(/dev/mem): ",
        Outcome.MEMORY_REFUSED,
        "flashrom needs /dev/mem to reach the card, but the kernel does not allow it.",
        "Switch Secure Boot off, because it locks the kernel down. In a container or a systemd unit, the worker needs "
        "CAP_SYS_RAWIO and the device /dev/mem. Otherwise boot the station with iomem=relaxed.",
    ),
    _Sign(
        "mmap failed: Operation not permitted",
        Outcome.MEMORY_REFUSED,
        "The kernel does not allow flashrom to map the card's memory.",
        _RELAX,
    ),
    _Sign(
        "mmap failed: Invalid argument",
        Outcome.MEMORY_REFUSED,
        "The kernel does not map the card's memory for flashrom (CONFIG_STRICT_DEVMEM, CONFIG_X86_PAT).",
        f"{_RELAX} If this does not help either, boot the station with nopat.",
    ),
    _Sign(
        "mmap failed",
        Outcome.MEMORY_REFUSED,
        "flashrom cannot map the card's memory.",
        f"{_RELAX} The log shows the kernel's error.",
    ),
    _Sign(
        "Could not get I/O privileges",
        Outcome.PORTS_REFUSED,
        "The kernel does not allow flashrom to use I/O ports.",
        "Run the worker as root, and read dmesg | grep flashrom. Switch Secure Boot off: it locks the kernel down.",
    ),
    _Sign(
        "device has MEM space accesses disabled",
        Outcome.MEMORY_DISABLED,
        "The card's memory is switched off. This happens when its driver is unloaded.",
        "Switch it on: setpci -s SLOT COMMAND=2:2. SLOT is the card's slot.",
    ),
    _Sign(
        "device has I/O space accesses disabled",
        Outcome.MEMORY_DISABLED,
        "The card's I/O ports are switched off. This happens when its driver is unloaded.",
        "Switch them on: setpci -s SLOT COMMAND=1:1. SLOT is the card's slot.",
    ),
    _Sign(
        "Cannot find any working access method",
        Outcome.NO_PCI,
        "flashrom cannot reach the PCI bus of this host.",
        "Run the station's worker as root on the host, not in a container.",
    ),
    _Sign(
        "Flash is in Secure Mode",
        Outcome.PROTECTED,
        "The card locks its flash chip (secure mode). Only the vendor's own tools can write to it.",
        "Use another card, or start the machine from an ISO, a USB stick or PXE.",
    ),
    _Sign(
        "Enabling flash write access failed",
        Outcome.PROTECTED,
        "The card does not allow writes to its flash chip.",
        "Check whether the card has a chip, and whether a jumper or the card's setup protects it.",
    ),
    _Sign(
        "Multiple flash chip definitions match",
        Outcome.SEVERAL_CHIPS,
        "flashrom has several definitions that match the chip.",
        "Read the name on the chip, and choose it.",
    ),
    _Sign(
        "No EEPROM/flash device found",
        Outcome.NO_CHIP,
        "flashrom found no flash chip on the card.",
        "Check that the socket has a chip, and that the chip is the right way round.",
    ),
    _Sign(
        "doesn't match the expected size",
        Outcome.WRONG_SIZE,
        "The contents and the chip have different sizes.",
        "Build the ROM for this chip.",
    ),
    _Sign(
        "Programmer initialization failed",
        Outcome.PROGRAMMER_FAILED,
        "flashrom could not initialize its programmer.",
        "The log shows why.",
    ),
    _Sign(
        "could not be written completely",
        Outcome.FILE_FAILED,
        "flashrom could not save the contents of the chip.",
        "Free some space on the disk.",
    ),
    _Sign("Error: opening file", Outcome.FILE_FAILED, "flashrom could not open a file.", "The log shows which one."),
)
_UNSUPPORTED = _Sign(
    "",
    Outcome.UNSUPPORTED_CHIP,
    "The card has a chip that this flashrom does not know, so its size and its commands are unknown.",
    "Nothing was written. Read the name on the chip, and search for it in flashrom -L: a later flashrom may know it. "
    "Bad contacts can also cause this error: switch the station off, and clean them.",
)
_NOT_WORKING_ADVICE = "Install a later flashrom, which may support it, or use another card."
_WRITE_FAILED = "flashrom failed to erase or write the chip."
_VERIFY_FAILED = "flashrom read back other contents than it wrote."


def understand(output: bytes, returncode: int) -> Verdict:
    """The meaning of flashrom's output and exit status."""
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
    """The verdict if one of these operations is known to fail with the chip; None otherwise."""
    broken = [name.lower() for name in operations if name in verdict.not_working]
    if not broken or not verdict.is_ok:
        return None
    message = f"According to flashrom, these operations do not work with the chip {verdict.chip}: {', '.join(broken)}."
    return dataclasses.replace(verdict, outcome=Outcome.NOT_WORKING, message=message, advice=_NOT_WORKING_ADVICE)


def _judge(text: str, returncode: int, *, is_unknown: bool = False) -> tuple[Outcome, str, str]:
    if is_unknown and returncode >= 0:
        # For --flash-size the exit status is 0 even for an unknown chip.
        return _UNSUPPORTED.outcome, _UNSUPPORTED.message, _UNSUPPORTED.advice
    if returncode == 0:
        return Outcome.OK, "flashrom succeeded.", ""
    if returncode < 0:
        return Outcome.KILLED, f"Signal {-returncode} killed flashrom.", ""
    if returncode == 2:
        return Outcome.WRITE_FAILED, _WRITE_FAILED, ""
    # Exit status 3 is a failed mmap, according to the manual, but also a failed verification.
    if returncode == 3 and "mmap failed" not in text and "open(/dev/mem)" not in text:
        return Outcome.VERIFY_FAILED, _VERIFY_FAILED, ""
    for sign in _SIGNS:
        if sign.text in text:
            return sign.outcome, _in_detail(sign, text), sign.advice
    if found := _ABORTED.search(text):
        return Outcome.NOT_WORKING, f"flashrom refused the operation: {found[0].strip()}", _NOT_WORKING_ADVICE
    errors = _ERROR.findall(text)
    said = f": {errors[-1]}" if errors else "."
    return Outcome.FAILED, f"flashrom failed with exit status {returncode}{said}", "The log shows more."


def _in_detail(sign: _Sign, text: str) -> str:
    """The message of a sign, with the sizes or the cause in flashrom's output."""
    if sizes := _SIZES.search(text):
        return f"{sign.message[:-1]}: {sizes[1]} bytes for {sizes[2]}."
    if sign.outcome is Outcome.PROGRAMMER_FAILED:
        before, _, _ = text.partition("Error: Programmer initialization failed")
        if lines := [line for line in before.splitlines() if line.strip()]:
            return f"{sign.message[:-1]}: {lines[-1].strip()}"
    return sign.message
