"""One flash at a station: find the chip, save what is in it, write, read back and compare.

Nothing is written before the old contents are read twice alike and stored. Until then everything can be cancelled, and
dies with the worker; the write cannot, and outlives it. The station's lock is inherited by flashrom, so that it is held
for as long as something works on the card, whoever started it.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rescuesite.files import sync
from roms.toolchain.flash.flashrom import PROGRAM, Chip, Flashrom, Outcome, Verdict, cannot, supported_cards, understand
from roms.toolchain.flash.pci import PCI_DEVICES, PCICard, PCISlot, plugged_in
from roms.toolchain.flash.programmers import PracticeChip, Programmer
from roms.toolchain.flash.station_lock import station_lock
from roms.toolchain.runner import Finished, Stopped, run

logger = logging.getLogger(__name__)

#: What must stay free on the disk besides the files of one flash, in bytes.
SPARE = 16 << 20
DO_NOT_POWER_OFF = "Do not power off the station or unplug the card: the chip may hold neither the old ROM nor the new."
WAYS_ON = "Retry the flash, or restore the saved contents."


class Phase(enum.StrEnum):
    """What a flash is at."""

    PROBE = "probe"
    SAVE = "save"
    WRITE = "write"
    VERIFY = "verify"


class Refusal(enum.StrEnum):
    """Why nothing was touched."""

    WRONG_CARD = "wrong_card"
    NO_CARD = "no_card"
    SEVERAL_CARDS = "several_cards"
    NO_CHIP = "no_chip"
    SEVERAL_CHIPS = "several_chips"
    UNSUPPORTED_CHIP = "unsupported_chip"
    WRONG_CHIP = "wrong_chip"
    WRONG_SIZE = "wrong_size"
    READS_DIFFER = "reads_differ"
    UNSAVED = "unsaved"
    TOOL = "tool"  # flashrom could not work with the card, or at all


class ChipState(enum.StrEnum):
    """What a failed write left in the chip, as far as it could be read."""

    UNKNOWN = "unknown"
    UNCHANGED = "unchanged"  # the old contents
    AS_WANTED = "as_wanted"  # the new contents, though flashrom said that it failed


class FlashError(Exception):
    """A flash that did not succeed; the message says what happened, and what to do."""


class RefusedError(FlashError):
    """Nothing was written. Where there is a choice to make, `chips` or `cards` hold what to choose from."""

    def __init__(
        self, refusal: Refusal, message: str, *, chips: tuple[Chip, ...] = (), cards: tuple[PCICard, ...] = ()
    ) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.chips = chips
        self.cards = cards


class StoppedError(FlashError):
    """Cancelled, or out of time, before anything was written."""

    def __init__(self, phase: Phase, stopped: Stopped) -> None:
        if stopped is Stopped.CANCELLED:
            message = f"Cancelled in phase {phase}; nothing was written."
        else:
            message = f"flashrom took too long in phase {phase} and was ended; nothing was written. Check the card."
        super().__init__(message)
        self.phase = phase
        self.stopped = stopped


class FlashFailedError(FlashError):
    """The write was begun, and did not end well."""

    def __init__(self, message: str, state: ChipState, phase: Phase) -> None:
        super().__init__(message)
        self.state = state
        self.phase = phase


class Listener:
    """What a flash tells, and asks, whoever started it.

    Until the write has begun, an exception ends the flash, and nothing is written. From then on exceptions are logged
    and the flash goes on: what becomes of the chip must not hang on a database.
    """

    def store_backup(self, file: Path, sha256: str, chip: Chip) -> None:
        """Keep the chip's old contents. Return only once they are kept durably and recorded; else raise."""
        raise NotImplementedError

    def phase_started(self, phase: Phase) -> None:
        """The next phase begins. WRITE is the point of no return: raise, and nothing is written."""

    def log(self, output: bytes) -> None:
        """flashrom said something."""

    def note(self, text: str) -> None:
        """We did something that flashrom says nothing about."""

    def progress(self, done: float) -> None:
        """So much is done, of 1."""

    def should_stop(self) -> bool:
        """Whether to stop, asked about once a second; not heeded any more where a write is going on."""
        return False

    def overdue(self) -> None:
        """The write takes longer than it should, or somebody wants to stop it; it goes on."""


@dataclass(frozen=True)
class Limits:
    """Seconds that flashrom may take, for each time it is run."""

    probe: float = 120.0
    save: float = 900.0
    write: float = 900.0
    verify: float = 900.0


@dataclass(frozen=True)
class Result:
    """A flash that succeeded."""

    chip: Chip
    wrote: bool  # False: the chip had the wanted contents already, or only its contents were to be saved
    verified_sha256: str | None  # of the contents read back; None where they were only to be saved

    @property
    def size(self) -> int:
        return self.chip.size


@dataclass
class Flashing:
    """One flash, one restore, or one saving of a chip's contents (without `contents`)."""

    programmer: Programmer | PracticeChip
    folder: Path  # of this flash alone; must outlive a write that outlives us
    lock: Path  # the station's
    listener: Listener
    contents: bytes | None = None  # exactly what the chip is to hold
    #: Makes them where it takes the chip's size; what it raises ends the flash before anything is touched.
    contents_for: Callable[[Chip], bytes] | None = None
    slot: PCISlot | None = None
    chip: str | None = None  # flashrom's name of it, where there was a choice
    card: str | None = None  # the vendor and device that the contents are for, as in "8086:1229"
    expected_size: int | None = None  # of the chip, where the card is known to have no other
    limits: Limits = Limits()
    label: str = ""  # what the lock's owner is called, where another one asks
    program: str = PROGRAM
    pci_devices: Path = PCI_DEVICES
    _lock_fd: int = field(init=False, repr=False)

    def run(self) -> Result:
        """Do it. Raises FlashError, ProgramMissingError, and what the listener raises before the write has begun."""
        if self.contents is not None and self.expected_size not in (None, len(self.contents)):
            raise _wrong_size(len(self.contents), f"the card's chip has {self.expected_size}")
        with station_lock(self.lock, self.label) as self._lock_fd:
            slot = self._slot()
            tool = Flashrom(self.programmer, slot, self.chip, self.program)
            chip = self._probe(tool)
            # From here on the chip goes by its name, so that each run means the same definition of it.
            tool = Flashrom(self.programmer, slot, chip.name, self.program)
            old = self._save(tool, chip)
            verified = None
            wrote = self.contents not in (None, old)
            if wrote:
                verified = self._write_and_verify(tool, chip, old)
            elif self.contents is not None:
                self.listener.note("The chip holds exactly these contents already; there is nothing to write.")
                verified = _sha256(old)
            self._after(lambda: self.listener.progress(1.0))
            return Result(chip, wrote, verified)

    # Probe

    def _slot(self) -> PCISlot | None:
        """The one slot to work on; where none is named, the one that has the card. Raises RefusedError."""
        if self.programmer.is_practice:
            return None
        if self.card is None:
            return self.slot
        cards = plugged_in(self.pci_devices)
        if self.slot is not None:
            there = next((card for card in cards if card.slot == self.slot), None)
            if there is None:
                raise RefusedError(Refusal.NO_CARD, f"There is no card in slot {self.slot}.")
            if there.id != self.card.lower():
                message = f"The card in slot {self.slot} is {there.id}; this ROM is for {self.card}."
                raise RefusedError(Refusal.WRONG_CARD, message, cards=(there,))
            return self.slot
        fitting = tuple(card for card in cards if card.id == self.card.lower())
        if not fitting:
            raise RefusedError(Refusal.NO_CARD, f"No card {self.card} is plugged in here.")
        if len(fitting) > 1:
            raise _several_cards(fitting)
        return fitting[0].slot

    def _probe(self, tool: Flashrom) -> Chip:
        """Find exactly one chip, of the right size. Raises FlashError."""
        self.listener.phase_started(Phase.PROBE)
        finished = self._run(tool.probe(), Phase.PROBE, self.limits.probe)
        verdict = understand(finished.output, finished.returncode)
        writes = self.contents is not None or self.contents_for is not None
        verdict = cannot(verdict, "READ", *(("ERASE", "WRITE") if writes else ())) or verdict
        if not verdict.is_ok:
            raise self._refused(verdict, tool.slot)
        chip = verdict.chip
        if chip is None:
            raise RefusedError(Refusal.TOOL, "flashrom succeeded without naming the chip; the log shows what it said.")
        if self.contents_for is not None:
            self.contents = self.contents_for(chip)
        if self.contents is not None and len(self.contents) != chip.size:
            raise _wrong_size(len(self.contents), f"the chip {chip} has {chip.size}")
        if self.expected_size not in (None, chip.size):
            message = f"The chip {chip} has {chip.size} bytes, the card's should have {self.expected_size}."
            raise RefusedError(Refusal.WRONG_SIZE, f"{message} Is this the right card?", chips=(chip,))
        self.listener.progress(0.1)
        return chip

    def _refused(self, verdict: Verdict, slot: PCISlot | None) -> FlashError:
        """Why it cannot begin, with what there is to choose from."""
        refusal = _REFUSALS.get(verdict.outcome, Refusal.TOOL)
        if refusal is Refusal.SEVERAL_CARDS:
            known = {card.id for card in supported_cards(self.program) if card.programmer == self.programmer.name}
            return _several_cards(tuple(card for card in plugged_in(self.pci_devices) if card.id in known))
        message = str(verdict)
        if verdict.outcome is Outcome.MEMORY_REFUSED:
            drivers = [card.driver for card in plugged_in(self.pci_devices) if card.slot == slot and card.driver]
            message += f" The driver {drivers[0]} holds it." if drivers else ""
        chips = verdict.chips if refusal is Refusal.SEVERAL_CHIPS else ()
        names = f" There is: {', '.join(chip.name for chip in chips)}." if chips else ""
        return RefusedError(refusal, message + names, chips=chips)

    # Save

    def _save(self, tool: Flashrom, chip: Chip) -> bytes:
        """Read the chip twice alike, and have it stored. Raises FlashError, and what the listener raises."""
        self.listener.phase_started(Phase.SAVE)
        free = shutil.disk_usage(self.folder).free
        if free < 4 * chip.size + SPARE:
            message = f"{self.folder} has {free >> 20} MB free: not enough to save the chip's contents. Make room."
            raise RefusedError(Refusal.UNSAVED, message)
        first = self._read_before_write(tool, chip, "old.bin")
        self.listener.progress(0.25)
        second = self._read_before_write(tool, chip, "old-again.bin")
        self.listener.progress(0.4)
        if first != second:
            differing = sum(one != other for one, other in zip(first, second, strict=True))
            message = f"Two reads of the chip differ in {differing} of {chip.size} bytes, so neither can be trusted."
            advice = "Clean the card's contacts and plug it in anew, with the station switched off."
            raise RefusedError(Refusal.READS_DIFFER, f"{message} {advice}")
        file = self.folder / "old.bin"
        sync(file)
        sync(file.parent)
        self.listener.store_backup(file, _sha256(first), chip)
        self.listener.progress(0.5)
        return first

    def _read_before_write(self, tool: Flashrom, chip: Chip, name: str) -> bytes:
        file = self.folder / name
        file.unlink(missing_ok=True)
        finished = self._run(tool.read(file), Phase.SAVE, self.limits.save)
        verdict = understand(finished.output, finished.returncode)
        if not verdict.is_ok:
            raise RefusedError(Refusal.UNSAVED, f"The chip's contents could not be saved. {verdict}")
        contents = file.read_bytes()
        if len(contents) != chip.size:
            message = f"flashrom read {len(contents)} bytes from a chip of {chip.size}; nothing was written."
            raise RefusedError(Refusal.UNSAVED, message)
        return contents

    # Write and verify

    def _write_and_verify(self, tool: Flashrom, chip: Chip, old: bytes) -> str:
        """Write, then compare what is read back; its SHA-256. Raises FlashError."""
        assert self.contents is not None
        wanted = self.folder / "wanted.bin"
        wanted.write_bytes(self.contents)
        if self.listener.should_stop():
            raise StoppedError(Phase.SAVE, Stopped.CANCELLED)
        self.listener.phase_started(Phase.WRITE)
        finished = run(
            tool.write(wanted),
            cwd=self.folder,
            log=self.listener.log,
            should_stop=self.listener.should_stop,
            timeout=self.limits.write,
            killable=False,
            overdue=self.listener.overdue,
            keep_fds=[self._lock_fd],
            output=self.folder / "write.log",
        )
        verdict = understand(finished.output, finished.returncode)
        self._after(lambda: self.listener.progress(0.85))
        self._after(lambda: self.listener.phase_started(Phase.VERIFY))
        found = self._read_back(tool)
        state = _state(found, old, self.contents)
        if not verdict.is_ok:
            raise self._failed(str(verdict), state, Phase.WRITE)
        if found is None:
            raise self._failed("flashrom says that it wrote, but the chip cannot be read.", state, Phase.VERIFY)
        if found != self.contents:
            message = "flashrom says that it wrote, but the chip holds something else."
            raise self._failed(message, state, Phase.VERIFY)
        return _sha256(found)

    def _read_back(self, tool: Flashrom) -> bytes | None:
        """What the chip holds after the write, None where nobody can tell. No cancelling: this has to be known."""
        file = self.folder / "new.bin"
        try:
            file.unlink(missing_ok=True)
            finished = run(
                tool.read(file),
                cwd=self.folder,
                log=lambda output: self._after(lambda: self.listener.log(output)),
                timeout=self.limits.verify,
                keep_fds=[self._lock_fd],
                output=self.folder / "verify.log",
            )
            return None if finished.stopped or finished.returncode else file.read_bytes()
        except Exception:
            logger.exception("A chip could not be read back.")
            return None

    def _failed(self, message: str, state: ChipState, phase: Phase) -> FlashFailedError:
        if state is ChipState.UNCHANGED:
            rest = f"The chip still holds the old contents. {WAYS_ON}"
        elif state is ChipState.AS_WANTED:
            rest = f"A read afterwards found the new contents all the same. {WAYS_ON}"
        else:
            rest = f"{DO_NOT_POWER_OFF} {WAYS_ON}"
        return FlashFailedError(f"{message} {rest}", state, phase)

    # What the phases share

    def _run(self, command: list[str], phase: Phase, limit: float) -> Finished:
        """Run flashrom where it may be killed. Raises StoppedError."""
        if self.listener.should_stop():
            raise StoppedError(phase, Stopped.CANCELLED)
        finished = run(
            command,
            cwd=self.folder,
            log=self.listener.log,
            should_stop=self.listener.should_stop,
            timeout=limit,
            keep_fds=[self._lock_fd],
            output=self.folder / f"{phase}.log",
        )
        if finished.stopped:
            raise StoppedError(phase, finished.stopped)
        return finished

    def _after(self, tell: Callable[[], None]) -> None:
        """Tell the listener something after the write has begun: it cannot stop us any more."""
        try:
            tell()
        except Exception:
            logger.exception("The listener of a flash failed after the write; going on.")


_REFUSALS = {
    Outcome.NO_CHIP: Refusal.NO_CHIP,
    Outcome.SEVERAL_CHIPS: Refusal.SEVERAL_CHIPS,
    Outcome.UNSUPPORTED_CHIP: Refusal.UNSUPPORTED_CHIP,
    Outcome.NO_CARD: Refusal.NO_CARD,
    Outcome.SEVERAL_CARDS: Refusal.SEVERAL_CARDS,
    Outcome.WRONG_SIZE: Refusal.WRONG_SIZE,
}


def _several_cards(cards: tuple[PCICard, ...]) -> RefusedError:
    listed = "; ".join(map(str, cards))
    return RefusedError(Refusal.SEVERAL_CARDS, f"More than one card fits; choose the slot: {listed}.", cards=cards)


def _wrong_size(size: int, but: str) -> RefusedError:
    message = f"The contents have {size} bytes; {but}. Only contents of exactly the chip's size can be written."
    return RefusedError(Refusal.WRONG_SIZE, message)


def _state(found: bytes | None, old: bytes, wanted: bytes) -> ChipState:
    if found == wanted:
        return ChipState.AS_WANTED
    return ChipState.UNCHANGED if found == old else ChipState.UNKNOWN


def _sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()
