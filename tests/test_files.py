"""Locks on files: who waits, who is told, and what happens where the file is removed meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rescuesite.files import locked


def test_a_lock_that_another_holds_is_refused_or_waited_for(tmp_path: Path) -> None:
    asked: list[Path] = []

    class GivenUpError(Exception):
        pass

    def again() -> None:
        asked.append(lock)
        if len(asked) > 1:
            raise GivenUpError

    lock = tmp_path / "locks" / "one.lock"
    with locked(lock):
        with pytest.raises(BlockingIOError), locked(lock, wait=False):
            pass
        with pytest.raises(GivenUpError), locked(lock, wait=again):
            pass
    assert len(asked) == 2
    with locked(lock, wait=False), locked(tmp_path, wait=False):
        assert lock.stat().st_mode & 0o777 == 0o600


def test_a_lock_is_that_of_the_file_that_has_the_name(tmp_path: Path) -> None:
    def again() -> None:
        if not held.closed:
            lock.unlink()
            held.close()

    lock = tmp_path / "one.lock"
    with locked(lock) as first:
        held = os.fdopen(os.dup(first))
    with locked(lock, wait=again) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), lock.stat())
