"""Locks between the site's processes. Their folder is only for the site's account.

A process that can open a lock file can hold the lock and block the site.
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
    """Hold the lock `name`. Without `wait`, raises BlockingIOError if another process holds it."""
    with locked(_opened(Path(settings.RESCUESITE_DATA_DIR) / "locks" / f"{name}.lock"), wait=wait):
        yield


def _opened(path: Path) -> int:
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        _make(path)
        return os.open(path, _FLAGS)


def _make(path: Path) -> None:
    """Make the lock file. It gets its name after its mode and owner, so that a file of root cannot block the site."""
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
