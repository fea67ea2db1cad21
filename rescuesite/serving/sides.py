"""Which of gunicorn's workers is for boot requests and which for staff."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rescuesite.serving.places import Side

if TYPE_CHECKING:
    from rescuesite.serving.gunicorn_worker import SiteWorker


def assign(worker: SiteWorker, others: Iterable[SiteWorker]) -> None:
    """Give a worker that is about to be forked the side that has fewer."""
    sides = [other.side for other in others if not other.retiring]
    worker.side = Side.BOOT if sides.count(Side.BOOT) <= sides.count(Side.STAFF) else Side.STAFF


def delete_audited(workers: Iterable[SiteWorker]) -> None:
    """A reload is about to replace these workers."""
    for worker in workers:
        worker.retiring = True
