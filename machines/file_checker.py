"""The worker's thread that reads stored files again: those that have changed at once, the others once a day."""

from __future__ import annotations

import logging
import threading

from django.db import Error, close_old_connections, connection

from machines.models import StoredFile

logger = logging.getLogger(__name__)

#: Seconds between two looks. Each reads what has changed, and at most one file whose day is over.
_LOOK_EVERY = 15.0
#: Bytes per second, where nobody waits for it.
_RATE = 32 << 20


class FileChecker(threading.Thread):
    """Looks after the stored files until it is stopped; the first look is at the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="file checker")
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        self._stop_asked.set()

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                close_old_connections()
                try:
                    self._look()
                except Error:
                    logger.exception("stored files cannot be looked after now")
                    connection.close()
                except Exception:
                    logger.exception("the file checker goes on after an error")
                self._stop_asked.wait(_LOOK_EVERY)
        finally:
            connection.close()

    def _look(self) -> None:
        StoredFile.objects.read_changed()
        if due := StoredFile.objects.due():
            due.read_again(rate=_RATE, wait=self._stop_asked.wait)
