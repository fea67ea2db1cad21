"""Locks between the site's processes. They lie in a folder of their own that only the site's account may enter.

Whoever can open a lock can hold it, and everything that waits for it stands still.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from rescuesite.data_directory import same_owner
from rescuesite.files import locked

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@contextlib.contextmanager
def held(name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock `name`. Raises BlockingIOError where another holds it and we do not `wait`."""
    with locked(_opened(Path(settings.RESCUESITE_DATA_DIR) / "locks" / f"{name}.lock"), wait=wait):
        yield


def _opened(path: Path) -> int:
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        _make(path)
        return os.open(path, _FLAGS)


def _make(path: Path) -> None:
    """Make the lock's file. It has its mode and its owner before it has its name: root must not lock the site out."""
    data_dir = path.parent.parent
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        same_owner(path.parent, data_dir)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)
    os.close(descriptor)
    try:
        same_owner(Path(draft), data_dir)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
