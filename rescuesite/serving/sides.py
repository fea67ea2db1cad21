"""Which of gunicorn's workers is for boot requests and which for staff, and when a reload may end the former ones."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rescuesite.serving.places import Side

if TYPE_CHECKING:
    from rescuesite.serving.gunicorn_worker import SiteWorker


def assign(worker: SiteWorker, others: Iterable[SiteWorker]) -> None:
    """Give a worker that is about to be forked the side that has fewer."""
    sides = [other.side for other in others if not other.retiring]
    worker.side = Side.BOOT if sides.count(Side.BOOT) <= sides.count(Side.STAFF) else Side.STAFF


class Reload:
    """How far the latest reload is. gunicorn's master makes it before it forks, and all workers see the same.

    The master alone counts reloads; each new worker sets a byte of its own. So nobody needs a lock.
    """

    _NUMBER = struct.Struct("=I")
    _MOST = 4096

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._NUMBER.size + self._MOST)
        self._started = 0

    @property
    def number(self) -> int:
        """How many reloads there were."""
        return int(self._NUMBER.unpack_from(self._memory)[0])

    def begin(self, workers: Iterable[SiteWorker]) -> None:
        """A reload is about to replace these workers. In the master."""
        for worker in workers:
            worker.retiring = True
        self._memory[self._NUMBER.size :] = bytes(self._MOST)
        self._started = 0
        self._NUMBER.pack_into(self._memory, 0, self.number + 1)

    def enrol(self, worker: SiteWorker) -> None:
        """A worker is about to be forked. In the master."""
        worker.generation = self.number
        worker.place = self._started % self._MOST
        self._started += 1
        self._memory[self._NUMBER.size + worker.place] = 1

    def ready(self, worker: SiteWorker) -> None:
        """A worker can answer. In that worker."""
        if worker.generation == self.number:
            self._memory[self._NUMBER.size + worker.place] = 2

    def ended(self, worker: SiteWorker) -> None:
        """A worker has ended: nobody waits for it. In the master."""
        if worker.generation == self.number:
            self._memory[self._NUMBER.size + worker.place] = 0

    def has_begun_since(self, generation: int) -> bool:
        return self.number != generation

    @property
    def is_done(self) -> bool:
        """Whether all workers that the latest reload has started can answer."""
        started = bytes(self._memory[self._NUMBER.size :])
        return 2 in started and 1 not in started
