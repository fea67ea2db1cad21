"""The lock of a station: only one flash at a time works on its cards."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rescuesite.files import locked


class StationBusyError(Exception):
    """Another flash works on this station's card. The message says which one, and what to do."""


@contextlib.contextmanager
def station_lock(path: Path, label: str = "") -> Iterator[int]:
    """Lock a station; yield the descriptor that child processes inherit. Raises StationBusyError."""
    with contextlib.ExitStack() as held:
        try:
            descriptor = held.enter_context(locked(path, wait=False))
        except BlockingIOError:
            raise _busy(path) from None
        owner = {"since": datetime.datetime.now(datetime.UTC).isoformat(), "label": label}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield descriptor


def holders(path: Path) -> dict[int, str]:
    """The processes that hold a station's lock, by their IDs. Only root sees all of them."""
    lock = path.stat()
    found = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            file = link.stat()
            process = link.parent.parent
            if (file.st_dev, file.st_ino) != (lock.st_dev, lock.st_ino):
                continue
            if "lock:" in (process / "fdinfo" / link.name).read_text():
                found[int(process.name)] = (process / "comm").read_text().strip()
    return found


def _busy(path: Path) -> StationBusyError:
    since, label = None, ""
    # The owner may be writing this file right now.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads(path.read_text())
        label = str(owner["label"])
        since = datetime.datetime.fromisoformat(owner["since"])
    processes = holders(path)
    parts = [label] if label else []
    parts += [f"since {since:%Y-%m-%d %H:%M:%S} UTC"] if since else []
    parts += [f"held by {', '.join(f'{name} ({pid})' for pid, name in processes.items())}"] if processes else []
    details = f" ({'; '.join(parts)})" if parts else ""
    message = (
        f"Another flash job runs on this station{details}. Wait until it has finished. Do not power off the station."
    )
    return StationBusyError(message)
