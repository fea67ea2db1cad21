"""Check whether stored files are intact.

A boot answer has no time to read a whole file. So the site stores the result of the last check together with the
metadata of the file: size, inode and times. A file whose metadata has changed is read again. Every file is also read
again from time to time, because a disk may lose data without an error.
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
    """The condition of a stored file."""

    WHOLE = "whole"
    #: The file is missing, too short or too long, or cannot be read.
    LOST = "lost"
    #: The contents do not match the SHA-256.
    DAMAGED = "damaged"
    #: The metadata has changed. The worker will read the file soon.
    CHANGED = "changed"


def metadata(path: Path) -> tuple[int, str]:
    """Return the size of a file, and a text that changes when the file is written or replaced. Raises OSError."""
    status = path.stat()
    return status.st_size, _as_text(status)


def _as_text(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def read(path: Path, *, rate: int | None = None, wait: Callable[[float], object] = time.sleep) -> tuple[str, str]:
    """Return the SHA-256 of a file, and its metadata from before the reading. Raises OSError.

    `rate` limits the bytes per second. `wait` is called to pause.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        before = _as_text(os.fstat(file.fileno()))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if rate:
                wait(len(chunk) / rate)
    return digest.hexdigest(), before


#: The files that this process has read: their metadata, and whether they were intact.
_known: dict[str, tuple[str, bool]] = {}


def read_once(path: Path, sha256: str, looks: str) -> Condition:
    """Read a small file, unless this process has already read it with the same metadata."""
    seen, whole = _known.get(sha256, ("", False))
    if seen != looks:
        try:
            found, seen = read(path)
        except OSError:
            return Condition.LOST
        whole = found == sha256
        _known[sha256] = seen, whole
    return Condition.WHOLE if whole else Condition.DAMAGED
