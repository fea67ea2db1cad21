"""Locks on files, and what is on the disk for sure. No Django: the toolchain needs it too."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

#: Seconds between two tries to get a lock.
_PAUSE = 0.2


@contextmanager
def locked(file: Path | int, *, wait: bool | Callable[[], object] = True) -> Iterator[int]:
    """Hold the lock of a folder, or of a file, which is made where it is missing; or of an open descriptor.

    Yields the descriptor, which is closed at the end. The lock is held for as long as anybody has it open: a program
    that inherits it keeps it.
    Where another holds it, this waits, or raises BlockingIOError; a function is called before each further try, and
    what it raises ends the waiting.
    """
    while (descriptor := _tried(file, wait)) is None:
        if callable(wait):
            wait()
        time.sleep(_PAUSE)
    try:
        yield descriptor
    finally:
        # Closed, never LOCK_UN: that would free it for those who have inherited it, too.
        os.close(descriptor)


def sync(path: Path) -> None:
    """Return once a file's contents, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tried(file: Path | int, wait: object) -> int | None:
    """The locked descriptor; None where another holds it, or has removed the file meanwhile."""
    with ExitStack() as opened:
        descriptor = file if isinstance(file, int) else _opened(file)
        opened.callback(os.close, descriptor)
        with suppress(FileNotFoundError, *([BlockingIOError] if callable(wait) else [])):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait is True else fcntl.LOCK_NB))
            if isinstance(file, int) or os.path.samestat(file.stat(), os.fstat(descriptor)):
                opened.pop_all()
                return descriptor
    return None


def _opened(path: Path) -> int:
    if path.is_dir():
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
