"""Boot answers write to SQLite first, and long work writes after them.

SQLite has one write lock without a queue. A waiting process tries again from time to time and may starve next to busy
writers. So boot answers hold an additional lock while they wait and write. Long work does not start a transaction
during that time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from django.db import connection, models

from rescuesite import locks

Item = TypeVar("Item")

#: This many transactions may follow each other without a pause.
_AT_ONCE = 10
#: The number of rows that one transaction removes.
PORTION = 1000


def boot_turn() -> contextlib.AbstractContextManager[None]:
    """Lock out long work while boot answers are written. PostgreSQL does not need it: its locks have queues."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return contextlib.nullcontext()
    return locks.held("boot")


def in_turns(items: Iterable[Item]) -> Iterator[Item]:
    """Yield each item. The caller does a short transaction for each.

    Before each item, waiting boot answers are written. After each item, other writers get as much time as it took.
    """
    for n, item in enumerate(items):
        with boot_turn():
            began = time.monotonic()
        yield item
        if n >= _AT_ONCE:
            time.sleep(time.monotonic() - began)


def portions(rows: models.QuerySet[Any]) -> Iterator[list[int]]:
    """Yield primary keys in portions, in turns. The caller deletes the rows of each portion."""
    keys = rows.order_by("pk").values_list("pk", flat=True)

    def left() -> Iterator[list[int]]:
        while portion := list(keys[:PORTION]):
            yield portion

    return in_turns(left())
