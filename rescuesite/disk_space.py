"""Keep space free on the disk of the data directory.

On a full disk, the site cannot record a boot answer. Then a machine in rescue boots its disk. So uploads and builds
stop before the disk is full.
"""

from __future__ import annotations

import errno
import shutil

from django.conf import settings

#: The reserve in bytes: 1 GiB, or 5 % of a large disk, but at most a fifth of a small disk.
RESERVE = 1 << 30
RESERVE_SHARE, RESERVE_MOST = 0.05, 0.2

_MIB = 1 << 20


class NearlyFullError(OSError):
    """Writing would use the reserve. `strerror` says what to do."""


def check(size: int = 0) -> None:
    """Raise NearlyFullError if `size` more bytes would leave less than the reserve."""
    if text := problem(size):
        raise NearlyFullError(errno.ENOSPC, text)


def problem(size: int = 0) -> str:
    """Return why `size` more bytes may not be written, as a message for people; empty if they may."""
    disk = shutil.disk_usage(settings.RESCUESITE_DATA_DIR)
    reserve = reserved(disk.total)
    if disk.free - size >= reserve:
        return ""
    needed = f" and {size // _MIB:,} MB are needed" if size >= _MIB else ""
    return (
        f"the disk of the data directory has {disk.free // _MIB:,} MB free{needed}, but {reserve // _MIB:,} MB must "
        "stay free for rescues. Remove unused images or builds, or use a larger disk"
    )


def reserved(total: int) -> int:
    """Return the reserve of a disk with `total` bytes."""
    return int(min(max(RESERVE, total * RESERVE_SHARE), total * RESERVE_MOST))
