"""The data directory, and who may read what lies in it: its modes are set at each start, and what cannot be is told.

Only the site's account reads anything, but for the stored files: a web server in the site's group may send those.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: What the site's processes create can be read by their account alone, unless they say otherwise.
UMASK = 0o077
#: The group may pass through to the files.
_ITSELF = 0o710
_FOLDERS = {"files": 0o750, "static": 0o700, "tmp": 0o700, "job-logs": 0o700, "stations": 0o700, "locks": 0o700}
_FILE = 0o600
#: What lies beside a database of SQLite's, and holds its contents: https://www.sqlite.org/tempfiles.html
_BESIDE_DATABASE = ("", "-wal", "-shm", "-journal")


class TooOpen(NamedTuple):
    """Something that other accounts of this host may use, and must not."""

    path: Path
    mode: int
    widest: int
    owner: int
    us: int

    def __str__(self) -> str:
        return (
            f"Other accounts of this host may use {self.path}: its mode is {self.mode:04o}, and may be "
            f"{self.widest:04o} at most. It belongs to account {self.owner}, this process to {self.us}."
        )


def prepare(path: Path) -> None:
    """Make what is missing of the data directory, for the site's account alone. Raises OSError."""
    os.umask(UMASK)
    _made(path, _ITSELF)
    for name, mode in _FOLDERS.items():
        if _made(path / name, mode):
            same_owner(path / name, path)


def secure(path: Path, database: Path | None = None) -> list[TooOpen]:
    """Take away every right that is too much; return where that cannot be done: it is another account's, perhaps."""
    for found in too_open(path, database):
        with suppress(OSError):
            found.path.chmod(found.mode & (found.widest | 0o7000))
    return too_open(path, database)


def too_open(path: Path, database: Path | None = None) -> list[TooOpen]:
    """What other accounts may use though they must not."""
    found = []
    for one, widest in _kept(path, database):
        with suppress(FileNotFoundError):
            status = one.stat()
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o777 & ~widest:
                found.append(TooOpen(one, mode, widest, status.st_uid, os.geteuid()))
    return found


def _kept(path: Path, database: Path | None) -> Iterator[tuple[Path, int]]:
    """Each folder and file with the widest mode that it may have. Files deeper down lie behind these folders."""
    yield path, _ITSELF
    for name, mode in _FOLDERS.items():
        yield path / name, mode
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield Path(entry.path), _FILE
    if database is not None and not (database.parent == path and not database.is_symlink()):
        for suffix in _BESIDE_DATABASE:
            yield database.with_name(database.name + suffix), _FILE


def _made(folder: Path, mode: int) -> bool:
    """Make a folder if it is missing, and tell whether it was. One that is there keeps its mode."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    # Our umask has taken the group's rights.
    folder.chmod(mode)
    return True


def same_owner(path: Path, other: Path) -> None:
    """What root makes is for the data directory's owner: a station's worker may run as root."""
    if os.geteuid() == 0:
        owner = other.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
