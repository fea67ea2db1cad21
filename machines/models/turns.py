"""Long work on the database, so that boot answers get their turn: SQLite has one write lock, and no queue for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from django.db import models

Item = TypeVar("Item")

#: So few transactions keep nobody waiting for long.
_AT_ONCE = 10
#: Rows that one transaction removes.
PORTION = 1000


def in_turns(items: Iterable[Item]) -> Iterator[Item]:
    """Give each item, for work that is a short transaction of its own; pause as long as that took.

    Who waits for SQLite's write lock looks for it from time to time, and would not find it free otherwise.
    """
    for n, item in enumerate(items):
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
