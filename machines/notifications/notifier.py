"""The worker's thread that sends notifications. Messages leave within seconds, even while the worker runs a job."""

from __future__ import annotations

import time

from machines.notifications.delivery import deliver_due
from machines.notifications.timed_events import queue_timed_events
from rescuesite.repeating_thread import RepeatingThread

#: Seconds between two searches for timed events.
_TIMED_EVENTS_EVERY = 10.0


class Notifier(RepeatingThread):
    """Sends due messages. Several may run at once: each message is reserved for one try."""

    interval = 1.0

    def __init__(self) -> None:
        super().__init__()
        self._next_timed_events = 0.0

    def task(self) -> None:
        if time.monotonic() >= self._next_timed_events:
            queue_timed_events()
            self._next_timed_events = time.monotonic() + _TIMED_EVENTS_EVERY
        deliver_due()
