"""The modes of the data directory. Each start of the site corrects them and logs what it cannot correct.

Only the site's account may read the data directory, with one exception: a web server in the site's group may send the
stored files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: By default, only the site's account can read new files.
UMASK = 0o077
#: The group may enter the directory to reach the stored files.
_ITSELF = 0o710
_FOLDERS = {"files": 0o750, "static": 0o700, "tmp": 0o700, "job-logs": 0o700, "stations": 0o700, "locks": 0o700}
_FILE = 0o600
#: The suffixes of SQLite's files with contents of the database: https://www.sqlite.org/tempfiles.html
_BESIDE_DATABASE = ("", "-wal", "-shm", "-journal")


class TooOpen(NamedTuple):
    """A file or folder that other accounts of this host must not use, but can."""

    path: Path
    mode: int
    widest: int
    owner: int
    us: int

    def __str__(self) -> str:
        return (
            f"Other accounts of this host can use {self.path}: its mode is {self.mode:04o}, but must not be wider than "
            f"{self.widest:04o}. Its owner is account {self.owner}. This process runs as account {self.us}."
        )


def prepare(path: Path) -> None:
    """Make the data directory and its folders if they are missing. Raises OSError."""
    os.umask(UMASK)
    _made(path, _ITSELF)
    for name, mode in _FOLDERS.items():
        if _made(path / name, mode):
            same_owner(path / name, path)


def secure(path: Path, database: Path | None = None) -> list[TooOpen]:
    """Correct the modes. Return those that cannot be corrected, for example because of another owner."""
    for found in too_open(path, database):
        with suppress(OSError):
            found.path.chmod(found.mode & (found.widest | 0o7000))
    return too_open(path, database)


def too_open(path: Path, database: Path | None = None) -> list[TooOpen]:
    """Return the files and folders with a mode that is too wide."""
    found = []
    for one, widest in _kept(path, database):
        with suppress(FileNotFoundError):
            status = one.stat()
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o777 & ~widest:
                found.append(TooOpen(one, mode, widest, status.st_uid, os.geteuid()))
    return found


def _kept(path: Path, database: Path | None) -> Iterator[tuple[Path, int]]:
    """Yield each folder and file with its widest allowed mode. These folders protect the files below them."""
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
    """Make a folder if it is missing. Return whether it was made. An existing folder keeps its mode."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    # The umask has removed the rights of the group.
    folder.chmod(mode)
    return True


def same_owner(path: Path, other: Path) -> None:
    """Give `path` the owner of `other`, if this process is root: a station's worker may run as root."""
    if os.geteuid() == 0:
        owner = other.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
