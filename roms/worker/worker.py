"""The worker: runs queued jobs one after the other, finds lost jobs, and delivers notifications.

The rows of the jobs are the queue. Workers claim a job with a conditional update, so several workers can run at once.
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
    """Runs builds, and the flash jobs of a station if one is named. It ends only between two jobs."""

    def __init__(self, *, builds: bool, station: str | None, interval: float = 1.0) -> None:
        """`interval`: seconds until the next query for a job, if none was queued."""
        self._builds, self._station, self._interval = builds, station, interval
        self._ended = threading.Event()
        self._notifier = Notifier()
        self._checker = FileChecker()

    def handle_signals(self) -> None:
        """Call `stop` on SIGTERM, SIGINT and SIGHUP."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.stop)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Stop the current job, and end. A write to a chip is never stopped: the worker then ends after it."""
        if self._ended.is_set():
            logger.warning("The worker ends as soon as the current job has stopped.")
        shutting_down.set()
        self._ended.set()

    def run(self) -> None:
        """Run jobs until `stop`."""
        keeper = threading.Thread(target=self._keep_house, daemon=True, name="housekeeping")
        keeper.start()
        # A worker without builds may run on a station that reaches only the database.
        if self._builds:
            self._notifier.start()
            self._checker.start()
        try:
            while not self._ended.is_set():
                close_old_connections()
                try:
                    found = self.run_next()
                except Error:
                    logger.exception("cannot query for jobs")
                    connection.close()
                    found = False
                if not found:
                    self._ended.wait(self._interval)
        finally:
            self._ended.set()
            self._notifier.stop()
            self._checker.stop()

    def run_next(self) -> bool:
        """Run the oldest queued job; False if none is queued."""
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
                    logger.exception("cannot check for lost jobs")
                if self._ended.wait(_HOUSEKEEPING.total_seconds()):
                    return
        finally:
            connection.close()


def housekeeping(station: str | None = None) -> None:
    """Store that the station has a worker, and store the state of lost jobs."""
    if station:
        Station.objects.seen(station)
    for model in (Build, FlashJob):
        model.objects.settle_lost()
