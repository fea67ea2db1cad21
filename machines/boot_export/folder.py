"""Write the files of an export into a folder. Files are replaced atomically. Files of others are never changed.

Each script has a line with its own checksum. So the export recognises scripts that somebody else wrote or edited. The
boot files are in a subfolder, and their names are checksums or contain one.
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
#: The prefix of temporary files. The next run removes those of a run that was killed.
_DRAFT = ".rescuesite-draft"
#: The account of the other server must be able to read the files. Scripts and boot files contain no secrets.
_MODE, _FOLDER_MODE = 0o644, 0o755
#: A larger file cannot be a script of an export.
_MAX_SCRIPT = 64 * 1024


class ExportFolderError(Exception):
    """The folder cannot be written. The message says why and what to do."""


@dataclass
class Changes:
    """The changes of a run, as paths below the folder."""

    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    #: Files of others with the name of a script. They were not replaced.
    foreign: list[str] = field(default_factory=list)


def publish(export: BootExport, folder: Path) -> Changes:
    """Write `export` to `folder` and remove the files of earlier exports.

    The order is: boot files, scripts, removals. So each script finds its files at all times. Raises ExportFolderError,
    also during another export to the same folder.
    """
    changes = Changes()
    try:
        _make(folder)
        with _locked(folder):
            _discard_drafts(folder)
            for path, content in export.files.items():
                _put_file(folder / path, content, folder, changes)
            # The default script comes last, so that no machine gets it because its own script is still missing.
            for name, text in sorted(export.scripts.items(), key=lambda item: item[0] == DEFAULT):
                _put_script(folder / name, text, changes)
            _remove_others(folder, export, changes)
            sync(folder)
    except OSError as error:
        raise ExportFolderError(
            f"{error.filename or folder}: {error.strerror}. All written files are complete. Export again when the "
            "problem is solved."
        ) from error
    return changes


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder for one export. The lock is in the data directory, because everybody may open the folder."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    try:
        with locks.held(f"export-{name}", wait=False):
            yield
    except BlockingIOError:
        raise ExportFolderError(f"Another export is writing to {folder}. Wait until it has ended.") from None


def marked(text: str) -> str:
    """Return the script `text` with the line that marks it as an export."""
    rest = text.removeprefix(_MAGIC)
    return f"{_MAGIC}# rescuesite export_boot {_checksum(rest)}: replaced by the next export; do not edit\n{rest}"


def is_ours(path: Path) -> bool:
    """Whether `path` is a script of an export that nobody has edited."""
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
        # A copy has the modification time of its original. A copy that was edited has another time.
        there = path.is_file() and path.stat().st_size == content.size and _time(path) == _time(content.path)
    else:
        there = path.is_file() and path.read_bytes() == content
    if there:
        changes.unchanged += 1
        return
    _write(path, content.path if isinstance(content, StoredFile) else content)
    changes.written.append(str(path.relative_to(folder)))


def _make(folder: Path) -> None:
    """Make `folder` if it is missing. An existing folder keeps its mode."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(_FOLDER_MODE)


def _write(path: Path, content: Path | bytes) -> None:
    """Write `content` to `path` atomically, and return when it is on disk."""
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
        # This fails while the folder has files.
        files.rmdir()
