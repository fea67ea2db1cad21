"""File locks, and writing files durably. Without Django, because the toolchain uses it too."""

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
    """Lock a folder, a file or an open descriptor. A missing file is created.

    Yields the descriptor, which is closed at the end. The lock is held while any process has the descriptor open. So a
    program that inherits it keeps the lock.

    If another process holds the lock, this waits or raises BlockingIOError. If `wait` is a function, it is called
    before each further try. An exception of the function ends the waiting.
    """
    while (descriptor := _tried(file, wait)) is None:
        if callable(wait):
            wait()
        time.sleep(_PAUSE)
    try:
        yield descriptor
    finally:
        # Do not use LOCK_UN: it would also release the lock of programs that inherited the descriptor.
        os.close(descriptor)


def sync(path: Path) -> None:
    """Return when the contents of a file or the names in a directory are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tried(file: Path | int, wait: object) -> int | None:
    """Return the locked descriptor; None if another process holds the lock or has removed the file."""
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
