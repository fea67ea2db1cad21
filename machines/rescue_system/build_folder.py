"""The folder of one build. It is locked while any program of the build runs, and removed after that."""

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
    """The folder of a build and the descriptor of its lock."""

    path: Path
    #: The programs of the build inherit it. So their folder stays, even if the build itself was killed.
    lock: int


@contextmanager
def build_folder(parent: Path) -> Iterator[BuildFolder]:
    """Make a folder for one build, and remove it when the build ends. Raises OSError.

    A build that was killed with SIGKILL leaves its folder. The next build removes it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with locked(parent):
            # The lock of the parent folder prevents that another build removes the new folder before it is locked.
            clear_leftovers(parent)
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            lock = held.enter_context(locked(path))
        try:
            # mmdebstrap drops its privileges if it can.
            path.chmod(0o755)
            yield BuildFolder(path, lock)
        finally:
            shutil.rmtree(path)


def clear_leftovers(parent: Path) -> None:
    """Remove the folders of builds that have ended."""
    for leftover in parent.glob(f"{PREFIX}*"):
        try:
            with locked(leftover, wait=False):
                # Do not delete through mounts: mmdebstrap may bind /dev.
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
