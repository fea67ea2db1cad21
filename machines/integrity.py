"""Whether a stored file still has its bytes: told from what was last read, as a boot answer has no time to read it all.

A file that nobody has touched looks as it did then: same size, inode and times. One that looks otherwise is read again,
and each is from time to time: a disk may lose bytes and say nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

_CHUNK = 1 << 20


class Condition(StrEnum):
    """How a stored file stands."""

    WHOLE = "whole"
    #: It is not there in its full length, or cannot be read.
    LOST = "lost"
    #: Its contents are not those that were stored.
    DAMAGED = "damaged"
    #: It looks otherwise than when it was last read, and is about to be read again.
    CHANGED = "changed"


def look(path: Path) -> tuple[int, str]:
    """The size of a file, and how it looks: what changes when somebody writes to it or replaces it. Raises OSError."""
    found = path.stat()
    return found.st_size, _look(found)


def _look(found: os.stat_result) -> str:
    return f"{found.st_size}:{found.st_ino}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def read(path: Path, *, rate: int | None = None, wait: Callable[[float], object] = time.sleep) -> tuple[str, str]:
    """The SHA-256 of a file, and how it looked before it was read: a later change shows. Raises OSError.

    `rate`: so many bytes per second at most, with `wait` for the time between.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        looked = _look(os.fstat(file.fileno()))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if rate:
                wait(len(chunk) / rate)
    return digest.hexdigest(), looked


#: What this process has read itself: the look of each file then, and whether it was whole.
_known: dict[str, tuple[str, bool]] = {}


def read_once(path: Path, sha256: str, looks: str) -> Condition:
    """Read a small file that looks like this, unless this process has done so before."""
    seen, whole = _known.get(sha256, ("", False))
    if seen != looks:
        try:
            found, seen = read(path)
        except OSError:
            return Condition.LOST
        whole = found == sha256
        _known[sha256] = seen, whole
    return Condition.WHOLE if whole else Condition.DAMAGED
