"""One flash at a station: find the chip, save its contents, write, read back and compare.

Nothing is written until two reads of the old contents are equal, and the contents are stored. Until then the flash can
be cancelled, and it ends if the worker dies. The write cannot be cancelled, and it continues if the worker dies.
flashrom inherits the station's lock, so the station stays locked while flashrom runs.
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

#: The free space that a flash needs on the disk besides its own files, in bytes.
SPARE = 16 << 20
DO_NOT_POWER_OFF = (
    "Do not power off the station or unplug the card: the chip may hold neither the old ROM nor the new ROM."
)
WAYS_ON = "Retry the flash, or restore the saved contents."


class Phase(enum.StrEnum):
    """A phase of a flash."""

    PROBE = "probe"
    SAVE = "save"
    WRITE = "write"
    VERIFY = "verify"


class Refusal(enum.StrEnum):
    """Why the flash changed nothing."""

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
    TOOL = "tool"  # flashrom failed, or cannot use the card


class ChipState(enum.StrEnum):
    """The contents of the chip after a failed write."""

    UNKNOWN = "unknown"
    UNCHANGED = "unchanged"  # the old contents
    AS_WANTED = "as_wanted"  # the new contents, although flashrom reported an error


class FlashError(Exception):
    """A flash did not succeed. The message says what happened, and what to do."""


class RefusedError(FlashError):
    """Nothing was written. If several chips or cards were found, `chips` or `cards` lists them."""

    def __init__(
        self, refusal: Refusal, message: str, *, chips: tuple[Chip, ...] = (), cards: tuple[PCICard, ...] = ()
    ) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.chips = chips
        self.cards = cards


class StoppedError(FlashError):
    """The flash was cancelled, or took too long, before the write."""

    def __init__(self, phase: Phase, stopped: Stopped) -> None:
        if stopped is Stopped.CANCELLED:
            message = f"Cancelled in phase {phase}. Nothing was written."
        else:
            message = (
                f"flashrom took too long in phase {phase}, so the site stopped it. Nothing was written. Check the card."
            )
        super().__init__(message)
        self.phase = phase
        self.stopped = stopped


class FlashFailedError(FlashError):
    """The write failed after it had started."""

    def __init__(self, message: str, state: ChipState, phase: Phase) -> None:
        super().__init__(message)
        self.state = state
        self.phase = phase


class Listener:
    """The callbacks of a flash.

    Before the write, an exception of a callback ends the flash, and nothing is written. From then on exceptions are
    only logged: a database error must not leave the chip half written.
    """

    def store_backup(self, file: Path, sha256: str, chip: Chip) -> None:
        """Store the old contents of the chip. Return only after they are stored durably; raise otherwise."""
        raise NotImplementedError

    def phase_started(self, phase: Phase) -> None:
        """The next phase starts. The start of WRITE is the last chance to raise an exception and prevent the write."""

    def log(self, output: bytes) -> None:
        """flashrom printed something."""

    def note(self, text: str) -> None:
        """A message of the site for the log."""

    def progress(self, done: float) -> None:
        """The part that is done, from 0 to 1."""

    def should_stop(self) -> bool:
        """Whether to cancel. Called about once a second; ignored during a write."""
        return False

    def overdue(self) -> None:
        """The write takes longer than expected, or somebody wants to cancel it. It continues."""


@dataclass(frozen=True)
class Limits:
    """The time limits for each run of flashrom, in seconds."""

    probe: float = 120.0
    save: float = 900.0
    write: float = 900.0
    verify: float = 900.0


@dataclass(frozen=True)
class Result:
    """A flash that succeeded."""

    chip: Chip
    wrote: bool  # False if the chip already had the new contents, or if the flash only saved
    verified_sha256: str | None  # of the new contents, read back; None if the flash only saved

    @property
    def size(self) -> int:
        return self.chip.size


@dataclass
class Flashing:
    """One flash. Without `contents` and `contents_for` it only saves the contents of the chip."""

    programmer: Programmer | PracticeChip
    folder: Path  # for this flash only; it must exist until the write ends, even if this process dies
    lock: Path  # the station's
    listener: Listener
    contents: bytes | None = None  # the new contents, exactly as large as the chip
    #: Makes the contents for the chip that was found. If it raises an exception, the flash changes nothing.
    contents_for: Callable[[Chip], bytes] | None = None
    slot: PCISlot | None = None
    chip: str | None = None  # flashrom's name of the chip, if there are several definitions
    card: str | None = None  # the PCI ID for the contents, for example "8086:1229"
    expected_size: int | None = None  # the known size of the card's chip
    limits: Limits = Limits()
    label: str = ""  # the name of this flash in messages to others
    program: str = PROGRAM
    pci_devices: Path = PCI_DEVICES
    _lock_fd: int = field(init=False, repr=False)

    def run(self) -> Result:
        """Run the flash. Raises FlashError, StationBusyError, ProgramMissingError, and exceptions of the listener."""
        if self.contents is not None and self.expected_size not in (None, len(self.contents)):
            raise _wrong_size(len(self.contents), f"the card's chip has {self.expected_size}")
        with station_lock(self.lock, self.label) as self._lock_fd:
            slot = self._slot()
            tool = Flashrom(self.programmer, slot, self.chip, self.program)
            chip = self._probe(tool)
            # From now on, name the chip, so that each run of flashrom uses the same definition.
            tool = Flashrom(self.programmer, slot, chip.name, self.program)
            old = self._save(tool, chip)
            verified = None
            wrote = self.contents not in (None, old)
            if wrote:
                verified = self._write_and_verify(tool, chip, old)
            elif self.contents is not None:
                self.listener.note("The chip already has exactly these contents. There is nothing to write.")
                verified = _sha256(old)
            self._after(lambda: self.listener.progress(1.0))
            return Result(chip, wrote, verified)

    # Probe

    def _slot(self) -> PCISlot | None:
        """The slot of the card. Raises RefusedError if it is not clear."""
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
                message = f"The card in slot {self.slot} is {there.id}, but this ROM is for {self.card}."
                raise RefusedError(Refusal.WRONG_CARD, message, cards=(there,))
            return self.slot
        fitting = tuple(card for card in cards if card.id == self.card.lower())
        if not fitting:
            raise RefusedError(Refusal.NO_CARD, f"This station has no card {self.card}.")
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
            raise RefusedError(Refusal.TOOL, "flashrom succeeded, but did not name the chip. See the log.")
        if self.contents_for is not None:
            self.contents = self.contents_for(chip)
        if self.contents is not None and len(self.contents) != chip.size:
            raise _wrong_size(len(self.contents), f"the chip {chip} has {chip.size}")
        if self.expected_size not in (None, chip.size):
            message = f"The chip {chip} has {chip.size} bytes, but this card should have {self.expected_size}."
            raise RefusedError(Refusal.WRONG_SIZE, f"{message} Is this the right card?", chips=(chip,))
        self.listener.progress(0.1)
        return chip

    def _refused(self, verdict: Verdict, slot: PCISlot | None) -> FlashError:
        """The error for a failed probe, with the choices."""
        refusal = _REFUSALS.get(verdict.outcome, Refusal.TOOL)
        if refusal is Refusal.SEVERAL_CARDS:
            known = {card.id for card in supported_cards(self.program) if card.programmer == self.programmer.name}
            return _several_cards(tuple(card for card in plugged_in(self.pci_devices) if card.id in known))
        message = str(verdict)
        if verdict.outcome is Outcome.MEMORY_REFUSED:
            drivers = [card.driver for card in plugged_in(self.pci_devices) if card.slot == slot and card.driver]
            message += f" The driver {drivers[0]} uses the card." if drivers else ""
        chips = verdict.chips if refusal is Refusal.SEVERAL_CHIPS else ()
        names = f" Found: {', '.join(chip.name for chip in chips)}." if chips else ""
        return RefusedError(refusal, message + names, chips=chips)

    # Save

    def _save(self, tool: Flashrom, chip: Chip) -> bytes:
        """Read the chip twice, compare, and store the contents. Raises FlashError, and exceptions of the listener."""
        self.listener.phase_started(Phase.SAVE)
        free = shutil.disk_usage(self.folder).free
        if free < 4 * chip.size + SPARE:
            message = f"{self.folder} has only {free >> 20} MB free: too little to save the contents. Free some space."
            raise RefusedError(Refusal.UNSAVED, message)
        first = self._read_before_write(tool, chip, "old.bin")
        self.listener.progress(0.25)
        second = self._read_before_write(tool, chip, "old-again.bin")
        self.listener.progress(0.4)
        if first != second:
            differing = sum(one != other for one, other in zip(first, second, strict=True))
            message = f"Two reads of the chip differ in {differing} of {chip.size} bytes, so they are not reliable."
            advice = "Switch the station off, clean the card's contacts, and plug the card in again."
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
            message = f"flashrom read {len(contents)} bytes from a chip of {chip.size} bytes. Nothing was written."
            raise RefusedError(Refusal.UNSAVED, message)
        return contents

    # Write and verify

    def _write_and_verify(self, tool: Flashrom, chip: Chip, old: bytes) -> str:
        """Write, read back and compare. Returns the SHA-256 of the new contents. Raises FlashError."""
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
            raise self._failed("flashrom reported success, but the chip cannot be read.", state, Phase.VERIFY)
        if found != self.contents:
            message = "flashrom reported success, but the chip has other contents."
            raise self._failed(message, state, Phase.VERIFY)
        return _sha256(found)

    def _read_back(self, tool: Flashrom) -> bytes | None:
        """The contents of the chip after the write; None if they cannot be read. This step cannot be cancelled."""
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
            logger.exception("The chip could not be read after the write.")
            return None

    def _failed(self, message: str, state: ChipState, phase: Phase) -> FlashFailedError:
        if state is ChipState.UNCHANGED:
            rest = f"The chip still holds the old contents. {WAYS_ON}"
        elif state is ChipState.AS_WANTED:
            rest = f"However, the chip has the new contents. {WAYS_ON}"
        else:
            rest = f"{DO_NOT_POWER_OFF} {WAYS_ON}"
        return FlashFailedError(f"{message} {rest}", state, phase)

    # What the phases share

    def _run(self, command: list[str], phase: Phase, limit: float) -> Finished:
        """Run flashrom in a phase that can be cancelled. Raises StoppedError."""
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
        """Call the listener after the start of the write. Its exceptions are only logged."""
        try:
            tell()
        except Exception:
            logger.exception("The listener of a flash failed after the start of the write. The flash continues.")


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
    return RefusedError(Refusal.SEVERAL_CARDS, f"Several cards match. Choose the slot: {listed}.", cards=cards)


def _wrong_size(size: int, but: str) -> RefusedError:
    message = f"The contents have {size} bytes, but {but}. They must have exactly the size of the chip."
    return RefusedError(Refusal.WRONG_SIZE, message)


def _state(found: bytes | None, old: bytes, wanted: bytes) -> ChipState:
    if found == wanted:
        return ChipState.AS_WANTED
    return ChipState.UNCHANGED if found == old else ChipState.UNKNOWN


def _sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()
