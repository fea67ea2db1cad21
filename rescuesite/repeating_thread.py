"""A thread of the worker that repeats a task until it is stopped."""

from __future__ import annotations

import logging
import threading
from typing import ClassVar

from django.db import Error, close_old_connections, connection

logger = logging.getLogger(__name__)


class RepeatingThread(threading.Thread):
    """Runs `task` again and again. Errors are logged and do not end the thread."""

    #: Seconds between the end of a task and the start of the next one.
    interval: ClassVar[float]

    def __init__(self) -> None:
        super().__init__(daemon=True, name=type(self).__name__)
        self.stop_requested = threading.Event()

    def task(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self.stop_requested.set()

    def run(self) -> None:
        try:
            while not self.stop_requested.is_set():
                close_old_connections()
                try:
                    self.task()
                except Error:
                    logger.exception("%s: the database does not answer. It tries again.", self.name)
                    connection.close()
                except Exception:
                    logger.exception("%s: continues after an error.", self.name)
                self.stop_requested.wait(self.interval)
        finally:
            connection.close()
