"""A folder that another server answers from: files are replaced as a whole, and what is not ours is never touched.

A script carries a line with its own checksum, so that one that somebody else wrote, or edited, is known as such. What
scripts boot lies in a folder of its own, under names that are checksums or made of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machines.boot_export.scripts import DEFAULT, FILES, BootExport
from machines.models import StoredFile
from rescuesite import locks
from rescuesite.files import sync

_MAGIC = "#!ipxe\n"
_MARK = re.compile(r"# rescuesite export_boot ([0-9a-f]{64}): replaced by the next export; do not edit\n")
_SCRIPT = re.compile(r"MAC-[0-9a-f]{12}\.ipxe")
_FILE = re.compile(r"[0-9a-f]{64}|[0-9a-f]{32}\.cpio")
#: What a run that was killed leaves behind; the next one removes it.
_DRAFT = ".rescuesite-draft"
#: The other server's user reads them, whatever our umask is. No secret is in a script, nor in what is booted with it.
_MODE, _FOLDER_MODE = 0o644, 0o755
#: Scripts are small; what is larger is not ours and need not be read.
_MAX_SCRIPT = 64 * 1024


class ExportFolderError(Exception):
    """The folder cannot be written; the message says why, and what to do."""


@dataclass
class Changes:
    """What a run did, by path below the folder."""

    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    #: Files in the way that are not ours; they were left as they are.
    foreign: list[str] = field(default_factory=list)


def publish(export: BootExport, folder: Path) -> Changes:
    """Let `folder`, which is made if it is missing, hold `export` and nothing else of ours.

    First what scripts boot, then the scripts, then what no script names any more is removed: at each moment each script
    finds its files. Raises ExportFolderError, also while another run is at it.
    """
    changes = Changes()
    try:
        _make(folder)
        with _locked(folder):
            _discard_drafts(folder)
            for path, content in export.files.items():
                _put_file(folder / path, content, folder, changes)
            # The default last: where it is new, all others are there.
            for name, text in sorted(export.scripts.items(), key=lambda item: item[0] == DEFAULT):
                _put_script(folder / name, text, changes)
            _remove_others(folder, export, changes)
            sync(folder)
    except OSError as error:
        told = f"{error.filename or folder}: {error.strerror}."
        raise ExportFolderError(
            f"{told} What was written before is whole; export again when this is mended."
        ) from error
    return changes


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One export at a time writes to a folder. The lock is ours: the folder itself can be opened by everybody."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    try:
        with locks.held(f"export-{name}", wait=False):
            yield
    except BlockingIOError:
        raise ExportFolderError(f"Another export writes to {folder} now; let it end first.") from None


def marked(text: str) -> str:
    """The script `text` with the line that says whose it is."""
    rest = text.removeprefix(_MAGIC)
    return f"{_MAGIC}# rescuesite export_boot {_checksum(rest)}: replaced by the next export; do not edit\n{rest}"


def is_ours(path: Path) -> bool:
    """Whether `path` is a script as an export wrote it, with nothing changed since."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_SCRIPT:
        return False
    text = path.read_bytes().decode(errors="replace")
    match = _MARK.match(text, len(_MAGIC)) if text.startswith(_MAGIC) else None
    return bool(match) and match[1] == _checksum(text[match.end() :])  # type: ignore[index,union-attr]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _put_script(path: Path, text: str, changes: Changes) -> None:
    wanted = marked(text).encode()
    if os.path.lexists(path):
        if not is_ours(path):
            changes.foreign.append(path.name)
            return
        if path.read_bytes() == wanted:
            changes.unchanged += 1
            return
    _write(path, wanted)
    changes.written.append(path.name)


def _put_file(path: Path, content: StoredFile | bytes, folder: Path, changes: Changes) -> None:
    _make(path.parent)
    if isinstance(content, StoredFile):
        # A copy has its original's time: one that somebody wrote to since is copied anew.
        there = path.is_file() and path.stat().st_size == content.size and _time(path) == _time(content.path)
    else:
        there = path.is_file() and path.read_bytes() == content
    if there:
        changes.unchanged += 1
        return
    _write(path, content.path if isinstance(content, StoredFile) else content)
    changes.written.append(str(path.relative_to(folder)))


def _make(folder: Path) -> None:
    """Make `folder` if it is missing; one that is there keeps its mode."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(_FOLDER_MODE)


def _write(path: Path, content: Path | bytes) -> None:
    """Put the whole of `content` at `path` at once; it is on disk when this returns."""
    draft = path.with_name(f"{_DRAFT}-{path.name}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, _MODE)
        with os.fdopen(descriptor, "wb") as target:
            os.fchmod(descriptor, _MODE)
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, target, 1024 * 1024)
                target.flush()
                os.utime(target.fileno(), ns=(_time(content), _time(content)))
            else:
                target.write(content)
            target.flush()
            os.fsync(target.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _time(path: Path) -> int:
    return path.stat().st_mtime_ns


def _discard_drafts(folder: Path) -> None:
    for draft in [*folder.glob(f"{_DRAFT}-*"), *folder.glob(f"{FILES}/{_DRAFT}-*")]:
        draft.unlink()


def _remove_others(folder: Path, export: BootExport, changes: Changes) -> None:
    for path in sorted(folder.iterdir()):
        if _SCRIPT.fullmatch(path.name) and path.name not in export.scripts and is_ours(path):
            path.unlink()
            changes.removed.append(path.name)
    files = folder / FILES
    for path in sorted(files.iterdir()) if files.is_dir() else ():
        name = f"{FILES}/{path.name}"
        if _FILE.fullmatch(path.name) and name not in export.files and path.is_file():
            path.unlink()
            changes.removed.append(name)
    with contextlib.suppress(OSError):
        # Not while it holds anything.
        files.rmdir()
