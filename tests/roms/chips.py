"""Chips to flash in tests: the real flashrom's dummy, whose contents are a file, and a listener that remembers."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from roms.toolchain.flash.flashing import Flashing, Listener, Phase
from roms.toolchain.flash.flashrom import Chip
from roms.toolchain.flash.pci import PCISlot
from roms.toolchain.flash.programmers import PracticeChip, Programmer

KIB = 1024


def contents(size: int, seed: int = 1) -> bytes:
    """The same bytes for the same seed, of every value."""
    return random.Random(seed).randbytes(size)


def changed(old: bytes) -> bytes:
    """Contents that differ in one block only: most of a slow chip then needs no writing."""
    return b"\x55" * 16 + old[16:]


@dataclass(frozen=True)
class Dummy(PracticeChip):
    """flashrom's dummy with whatever parameters: what only a test has, as no text of a user's leads to them."""

    text: str = ""

    def argument(self, slot: PCISlot | None = None) -> str:
        return self.text


def dummy(image: Path, emulate: str = "VARIABLE_SIZE", **parameters: str) -> Dummy:
    if emulate == "VARIABLE_SIZE":
        parameters.setdefault("size", str(64 * KIB))
    pairs = {"emulate": emulate, "image": str(image), **parameters}
    return Dummy(image, 64 * KIB, "dummy:" + ",".join(f"{name}={value}" for name, value in pairs.items()))


@dataclass
class Remembering(Listener):
    """Keeps what it is told; a test sets when to stop, or lets one of its methods fail."""

    shelf: Path
    stop_at: bytes | Phase | None = None  # once this phase has begun, or flashrom has said this
    phases: list[Phase] = field(default_factory=list)
    text: bytes = b""
    notes: list[str] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    stored: list[tuple[bytes, str, Chip]] = field(default_factory=list)
    overdue_calls: int = 0

    def phase_started(self, phase: Phase) -> None:
        self.phases.append(phase)

    def log(self, output: bytes) -> None:
        self.text += output

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, done: float) -> None:
        self.steps.append(done)

    def should_stop(self) -> bool:
        if isinstance(self.stop_at, Phase):
            return self.stop_at in self.phases
        return self.stop_at is not None and self.stop_at in self.text

    def overdue(self) -> None:
        self.overdue_calls += 1

    def store_backup(self, file: Path, sha256: str, chip: Chip) -> None:
        shutil.copyfile(file, self.shelf)
        self.stored.append((file.read_bytes(), sha256, chip))


@dataclass
class Bench:
    """A station with a chip on it."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "work").mkdir()
        self.image = self.folder / "chip.bin"
        self.lock = self.folder / "station.lock"
        self.listener = Remembering(self.folder / "shelf.bin")

    def chip_with(self, held: bytes) -> bytes:
        self.image.write_bytes(held)
        return held

    def flashing(
        self, wanted: bytes | None, programmer: Programmer | PracticeChip | None = None, **more: object
    ) -> Flashing:
        what: dict[str, object] = {
            "programmer": programmer or dummy(self.image),
            "folder": self.folder / "work",
            "lock": self.lock,
            "listener": self.listener,
            "contents": wanted,
            # Named, it is found at once.
            "chip": None if programmer else "Opaque flash chip",
        }
        return Flashing(**(what | more))  # type: ignore[arg-type]

    def program(self, script: str) -> str:
        """A program to stand before the real flashrom, for what its dummy cannot do."""
        path = self.folder / "flashrom-wrapper"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)


#: The program of a worker that flashes; arguments: the folder, the programmer, flashrom, the wanted contents' file.
WORKER = """
import sys
from pathlib import Path
from roms.toolchain.flash.flashing import Flashing, FlashError, Listener
from tests.roms.chips import Dummy

class Telling(Listener):
    def phase_started(self, phase):
        print(phase)
    def log(self, output):
        for line in output.decode().splitlines():
            print(line)
    def store_backup(self, file, sha256, chip):
        (folder / "shelf.bin").write_bytes(file.read_bytes())
        print("stored")

folder = Path(sys.argv[1])
wanted = Path(sys.argv[4]).read_bytes()
Flashing(Dummy(folder, 0, sys.argv[2]), folder / "work", folder / "station.lock", Telling(), wanted,
         program=sys.argv[3], label="job 7").run()
print("done")
"""
