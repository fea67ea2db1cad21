"""The worker: runs queued jobs, one after the other, looks after jobs whose workers have gone, and notifies.

The rows of the jobs are the queue. A job is claimed by a conditional update, so any number of workers may look for one.
"""

from __future__ import annotations

import logging
import signal
import threading
from datetime import timedelta
from types import FrameType

from django.db import Error, close_old_connections, connection

from machines.file_checker import FileChecker
from machines.notifications.notifier import Notifier
from roms.models import Build, FlashJob, Station
from roms.worker.building import BuildRun
from roms.worker.flashing import FlashRun
from roms.worker.running import shutting_down

logger = logging.getLogger(__name__)

_HOUSEKEEPING = timedelta(seconds=15)


class Worker:
    """Runs builds, and the flash jobs of a station where one is named. It ends between two jobs."""

    def __init__(self, *, builds: bool, station: str | None, interval: float = 1.0) -> None:
        """`interval`: seconds between two looks for a job, where there was none."""
        self._builds, self._station, self._interval = builds, station, interval
        self._ended = threading.Event()
        self._notifier = Notifier()
        self._checker = FileChecker()

    def handle_signals(self) -> None:
        """Stop at SIGTERM, SIGINT and SIGHUP: what can be stopped at once, a chip that is being written never."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.stop)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        if self._ended.is_set():
            # A chip that is being written is not left alone because somebody is impatient.
            logger.warning("Ending once the current job has come to a stop.")
        shutting_down.set()
        self._ended.set()

    def run(self) -> None:
        """Run jobs until `stop`."""
        keeper = threading.Thread(target=self._keep_house, daemon=True, name="housekeeping")
        keeper.start()
        # A station elsewhere may reach the database alone.
        if self._builds:
            self._notifier.start()
            self._checker.start()
        try:
            while not self._ended.is_set():
                close_old_connections()
                try:
                    found = self.run_next()
                except Error:
                    logger.exception("jobs cannot be looked for now")
                    connection.close()
                    found = False
                if not found:
                    self._ended.wait(self._interval)
        finally:
            self._ended.set()
            self._notifier.stop()
            self._checker.stop()

    def run_next(self) -> bool:
        """Run the job that has waited for longest; False where none waits."""
        build = Build.objects.next_queued() if self._builds else None
        flash = FlashJob.objects.filter(station__name=self._station).next_queued() if self._station else None
        if build and (flash is None or build.created_at <= flash.created_at):
            BuildRun.claim_and_run(build.pk)
        elif flash:
            FlashRun.claim_and_run(flash.pk)
        return bool(build or flash)

    def _keep_house(self) -> None:
        try:
            while True:
                close_old_connections()
                try:
                    housekeeping(self._station)
                except Error:
                    logger.exception("jobs cannot be looked after now")
                if self._ended.wait(_HOUSEKEEPING.total_seconds()):
                    return
        finally:
            connection.close()


def housekeeping(station: str | None = None) -> None:
    """What is to be done now and then: say that the station has a worker, and settle what others have left."""
    if station:
        Station.objects.seen(station)
    for model in (Build, FlashJob):
        model.objects.settle_lost()
