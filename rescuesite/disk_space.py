"""Room on the disk of the data directory: some is kept free for what a rescue needs, the database above all.

Where no more can be written, no answer can be recorded, and an armed machine is told to boot its disk. So uploads and
builds stop long before.
"""

from __future__ import annotations

import errno
import shutil

from django.conf import settings

#: So many bytes stay free: 1 GiB, or 5 % of a large disk, but of a small one no more than a fifth.
RESERVE = 1 << 30
RESERVE_SHARE, RESERVE_MOST = 0.05, 0.2

_MIB = 1 << 20


class NearlyFullError(OSError):
    """What is to be written would take from what stays free; `strerror` says what to do."""


def check(size: int = 0) -> None:
    """Raise NearlyFullError where `size` more bytes in the data directory would leave less than the reserve."""
    if text := problem(size):
        raise NearlyFullError(errno.ENOSPC, text)


def problem(size: int = 0) -> str:
    """Why `size` more bytes may not be written, for a person; empty where they may."""
    disk = shutil.disk_usage(settings.RESCUESITE_DATA_DIR)
    reserve = reserved(disk.total)
    if disk.free - size >= reserve:
        return ""
    needed = f" and {size // _MIB:,} MB are needed" if size >= _MIB else ""
    return (
        f"the disk of the data directory has {disk.free // _MIB:,} MB free{needed}, and {reserve // _MIB:,} MB of them "
        "stay free so that machines can be rescued; remove images or builds that nobody needs, or give it a larger disk"
    )


def reserved(total: int) -> int:
    """How much of a disk of `total` bytes stays free."""
    return int(min(max(RESERVE, total * RESERVE_SHARE), total * RESERVE_MOST))
