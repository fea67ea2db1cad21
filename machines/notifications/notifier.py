"""The worker's thread that delivers: whatever job it runs meanwhile, messages leave within seconds."""

from __future__ import annotations

import logging
import threading
import time

from django.db import Error, close_old_connections, connection

from machines.notifications.delivery import deliver_due
from machines.notifications.timed_events import queue_timed_events

logger = logging.getLogger(__name__)

#: Seconds between two looks for messages, and for what time has done.
_LOOK_EVERY = 1.0
_CLOCK_EVERY = 10.0


class Notifier(threading.Thread):
    """Delivers until it is stopped. Several may run: each message is held by who tries it."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="notifier")
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        self._stop_asked.set()

    def run(self) -> None:
        clock_at = 0.0
        try:
            while not self._stop_asked.wait(_LOOK_EVERY):
                close_old_connections()
                try:
                    if time.monotonic() >= clock_at:
                        queue_timed_events()
                        clock_at = time.monotonic() + _CLOCK_EVERY
                    deliver_due()
                except Error:
                    logger.exception("notifications cannot be delivered now")
                    connection.close()
                except Exception:
                    logger.exception("the notifier goes on after an error")
        finally:
            connection.close()
