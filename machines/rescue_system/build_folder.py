"""The folder of one build: held by a lock as long as anything of the build runs, and cleared away after it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from rescuesite.files import locked

PREFIX = "rescue-image-"


class BuildFolder(NamedTuple):
    """A build's folder, and the descriptor of its lock."""

    path: Path
    #: Programs of the build inherit it: the folder of a build that was killed is not taken from under them.
    lock: int


@contextmanager
def build_folder(parent: Path) -> Iterator[BuildFolder]:
    """A folder for one build; removed with everything in it however the build ends.

    A build that is killed with -9 leaves its own: the next build removes it. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with locked(parent):
            # Nobody sees a new folder before it is locked.
            clear_leftovers(parent)
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            lock = held.enter_context(locked(path))
        try:
            # mmdebstrap drops its rights where it can.
            path.chmod(0o755)
            yield BuildFolder(path, lock)
        finally:
            shutil.rmtree(path)


def clear_leftovers(parent: Path) -> None:
    """Remove the folders of builds of which nothing runs any more."""
    for leftover in parent.glob(f"{PREFIX}*"):
        try:
            with locked(leftover, wait=False):
                # What is mounted there (mmdebstrap may bind /dev) is not ours to empty.
                if leftover.is_dir() and not _mounts_below(leftover):
                    shutil.rmtree(leftover)
        except BlockingIOError:
            continue


def _mounts_below(folder: Path) -> bool:
    """Whether anything is mounted below a folder (proc_pid_mountinfo(5): the fifth field, with octal escapes)."""
    start = f"{folder.resolve()}/".replace("\\", r"\134").replace(" ", r"\040")
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    return any(line.split(" ")[4].startswith(start) for line in lines)
