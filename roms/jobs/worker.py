"""The worker: runs what lies in its queues, one after the other, looks after jobs whose workers have gone, notifies."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable
from datetime import timedelta
from types import FrameType

from django.db import Error, close_old_connections, connection
from django.utils import timezone
from django_tasks.base import TaskResultStatus
from django_tasks_db.management.commands.db_worker import Worker
from django_tasks_db.models import DBTaskResult

from machines.file_checker import FileChecker
from machines.notifications.notifier import Notifier
from roms.jobs.running import shutting_down
from roms.models import Build, FlashJob, Job, JobState, Station
from roms.models.job import REQUEUE_AFTER, worker_identity

logger = logging.getLogger(__name__)

BUILDS = "builds"
_LOOK_AFTER = timedelta(seconds=15)
#: Finished tasks are of no use once their jobs say how they ended.
_KEEP_TASKS = timedelta(days=7)


class ROMWorker(Worker):
    """django-tasks' own, which stops what can be stopped when it is told to end, and waits for what cannot."""

    def __init__(self, queue_names: list[str], station: str | None, *, interval: float = 1.0) -> None:
        super().__init__(
            queue_names=queue_names,
            interval=interval,
            batch=False,
            backend_name="default",
            startup_delay=False,
            max_tasks=None,
            worker_id=worker_identity()[-64:],
            excluded_queue_names=[],
        )
        self._station = station
        self._ended = threading.Event()
        # A station elsewhere may reach the database alone.
        self._notifies = BUILDS in queue_names
        self._notifier = Notifier()
        self._checker = FileChecker()

    def shutdown(self, signum: int, frame: FrameType | None) -> None:
        shutting_down.set()
        if self.running:
            super().shutdown(signum, frame)
        else:
            # A chip that is being written is not left alone because somebody is impatient.
            logger.warning("Ending once the current job has come to a stop.")

    def configure_signals(self) -> None:
        super().configure_signals()
        signal.signal(signal.SIGHUP, self.shutdown)

    def run(self) -> None:
        keeper = threading.Thread(target=self._look_after, daemon=True, name="looks after jobs")
        keeper.start()
        if self._notifies:
            self._notifier.start()
            self._checker.start()
        try:
            super().run()
        finally:
            self._ended.set()
            self._notifier.stop()
            self._checker.stop()

    def _look_after(self) -> None:
        try:
            while True:
                close_old_connections()
                try:
                    housekeeping(self._station)
                except Error:
                    logger.exception("jobs cannot be looked after now")
                if self._ended.wait(_LOOK_AFTER.total_seconds()):
                    return
        finally:
            connection.close()


def housekeeping(station: str | None = None) -> None:
    """What is to be done now and then: say that the station has a worker, and settle what others have left."""
    if station:
        Station.objects.seen(station)
    for model in (Build, FlashJob):
        model.objects.settle_lost()
        for job in vanished(model.objects.filter(state=JobState.QUEUED)):
            logger.warning("%s %s has lost its place in the queue; it is put in anew", job.kind, job.pk)
            job.enqueue()
    DBTaskResult.objects.finished().filter(finished_at__lt=timezone.now() - _KEEP_TASKS).delete()


def vanished(queued: Iterable[Job]) -> list[Job]:
    """The queued jobs that no worker will find: the one that took the task has gone before it claimed the job."""
    before = timezone.now() - REQUEUE_AFTER
    old = [job for job in queued if job.queued_at < before]
    waiting = DBTaskResult.objects.filter(pk__in=[job.task_id for job in old if job.task_id])
    found = set(waiting.filter(status=TaskResultStatus.READY).values_list("pk", flat=True))
    found |= set(waiting.filter(status=TaskResultStatus.RUNNING, started_at__gt=before).values_list("pk", flat=True))
    return [job for job in old if job.task_id not in found]
