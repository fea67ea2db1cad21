"""What make prints: how far a build is, and why it failed."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

#: How much of a first call of make is spent on the dependencies.
_DEPENDENCIES_SHARE = 0.3


class Phase(enum.StrEnum):
    """A phase of a build."""

    SOURCE = "source"
    TREE = "tree"
    DEPENDENCIES = "dependencies"
    COMPILING = "compiling"
    LINKING = "linking"
    FINISHING = "finishing"


class ErrorKind(enum.StrEnum):
    """Why a build failed."""

    SOURCE = "source"
    OPTIONS = "options"
    MISSING_TOOL = "missing_tool"
    UNKNOWN_CARD = "unknown_card"
    COMPILER = "compiler"
    TOO_LARGE = "too_large"
    DISK_FULL = "disk_full"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Listener:
    """The callbacks of a build."""

    log: Callable[[bytes], None] = _nothing
    phase: Callable[[Phase], None] = _nothing
    #: The progress of the whole build, from 0 to 1.
    progress: Callable[[float], None] = _nothing
    #: How the build is isolated from the host, in a sentence.
    isolation: Callable[[str], None] = _nothing


def explain(output: str, returncode: int) -> tuple[ErrorKind, str]:
    """The kind and the message of an error, from the output of a failed make."""
    for pattern, kind, message in _SIGNS:
        if found := re.search(pattern, output):
            return kind, message.format(*found.groups())
    return ErrorKind.FAILED, f"make failed with exit status {returncode}. See the log."


_SIGNS = (
    (r"No space left on device|Disk quota exceeded", ErrorKind.DISK_FULL, "The disk is full."),
    (
        r"undefined (?:symbol|reference to) [`'‘]?(?:obj|pci_devlist)_(\w+)",
        ErrorKind.UNKNOWN_CARD,
        "This iPXE has no card and no driver with the name {0}.",
    ),
    (
        r"overflows \d+-byte field \((\d+) bytes too big\)",
        ErrorKind.TOO_LARGE,
        "The ROM is {0} bytes too large: a BIOS can load 130,560 bytes. Choose a smaller profile, or the target mrom.",
    ),
    (r"(?m)^(\S+:\d+)(?::\d+)?: (?:fatal )?error: (.*)$", ErrorKind.COMPILER, "Compiler error at {0}: {1}"),
    (r"(?m)^(\S+): (?:Fatal )?[Ee]rror: (.*)$", ErrorKind.COMPILER, "Assembler error in {0}: {1}"),
    (r"(?m)undefined reference to [`'‘](\w+)", ErrorKind.COMPILER, "The options do not work together: {0} is missing."),
    (r"No rule to make target [`'‘](\S+)['’]", ErrorKind.FAILED, "This source tree cannot make {0}."),
    (r"(?m)^(?:/bin/sh: \d+: |make: )(\S+): (?:not found|No such file)", ErrorKind.MISSING_TOOL, "{0} is missing."),
)


@dataclass
class MakeOutput:
    """Reads the phase and the progress from make's output.

    make first finds the dependencies of the changed files, then compiles these files. Their number is therefore known
    when make starts to compile.
    """

    listener: Listener
    start: float
    share: float
    expected: int
    compiled: int = 0
    _dependencies: int = 0
    _phase: Phase | None = None
    _rest: bytes = b""
    _shown: float = 0.0

    def receive(self, chunk: bytes) -> None:
        self.listener.log(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            found = re.match(rb"\s*\[(\w+)\] ", line)
            if found:
                self._step(found[1])

    def _step(self, what: bytes) -> None:
        if what == b"DEPS":
            self._dependencies += 1
            self._show(Phase.DEPENDENCIES, _DEPENDENCIES_SHARE * self._dependencies / self._total())
        elif what == b"BUILD":
            self.compiled += 1
            done = self.compiled / self._total()
            self._show(Phase.COMPILING, _DEPENDENCIES_SHARE + (1 - _DEPENDENCIES_SHARE) * done)
        elif what in {b"AR", b"LD"}:
            self._show(Phase.LINKING, 0.97)

    def _total(self) -> int:
        known = self._dependencies if self._phase in {Phase.COMPILING, Phase.LINKING} else self.expected
        return max(known, self._dependencies, self.compiled, 1)

    def _show(self, phase: Phase, done: float) -> None:
        if phase is not self._phase:
            self._phase = phase
            self.listener.phase(phase)
        # Report only progress, and not every file.
        value = round(self.start + self.share * min(done, 0.99), 2)
        if value > self._shown:
            self._shown = value
            self.listener.progress(value)
