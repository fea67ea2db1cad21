"""Turns at SQLite's one write lock, which has no queue: boot answers go first, long work comes after them.

Who waits for that lock looks for it from time to time, and may never find it free beside busy writers. So boot answers
hold a lock of their own while they wait and write, and long work begins no transaction meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from django.db import connection, models

from rescuesite import locks

Item = TypeVar("Item")

#: So few transactions keep nobody waiting for long.
_AT_ONCE = 10
#: Rows that one transaction removes.
PORTION = 1000


def boot_turn() -> contextlib.AbstractContextManager[None]:
    """Held while boot answers are written, by one process after the other; PostgreSQL has queues of its own."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return contextlib.nullcontext()
    return locks.held("boot")


def in_turns(items: Iterable[Item]) -> Iterator[Item]:
    """Give each item, for work that is a short transaction of its own.

    Before it, boot answers that wait are written; after it, who else waits has as much time as it took.
    """
    for n, item in enumerate(items):
        with boot_turn():
            began = time.monotonic()
        yield item
        if n >= _AT_ONCE:
            time.sleep(time.monotonic() - began)


def portions(rows: models.QuerySet[Any]) -> Iterator[list[int]]:
    """The primary keys of rows that are removed while these are given, in turns."""
    keys = rows.order_by("pk").values_list("pk", flat=True)

    def left() -> Iterator[list[int]]:
        while portion := list(keys[:PORTION]):
            yield portion

    return in_turns(left())
