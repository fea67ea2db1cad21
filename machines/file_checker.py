"""The worker's thread that checks stored files: changed files at once, all others once a day."""

from __future__ import annotations

from machines.models import StoredFile
from rescuesite.repeating_thread import RepeatingThread

#: Bytes per second, for files that nobody waits for.
_RATE = 32 << 20


class FileChecker(RepeatingThread):
    """Checks all changed files, and at most one other file in each run."""

    interval = 15.0

    def task(self) -> None:
        StoredFile.objects.read_changed()
        if due := StoredFile.objects.due():
            due.read_again(rate=_RATE, wait=self.stop_requested.wait)
