"""Connections whose request is not complete yet: how many there may be, and for how long. Pure."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from machines.addresses import IPNetwork, parse_ip

Item = TypeVar("Item", bound=Hashable)

#: Who waits no longer than this is not dropped for its source's sake: after a power failure, a hall behind one address
#: connects at once, and its requests arrive within that time.
_GRACE = 1.0


@dataclass(slots=True)
class _Wait:
    source: str | None
    since: float
    deadline: float


class Waiting(Generic[Item]):
    """At most `most` items, and `most_of_one` of one source; an item of source None counts among all only."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._waits: dict[Item, _Wait] = {}
        self._of: defaultdict[str | None, dict[Item, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, item: Item) -> bool:
        return item in self._waits

    def add(self, item: Item, source: str | None, now: float, deadline: float) -> Item | None:
        """Let `item` wait; returns the item that must make place for it."""
        self._waits[item] = _Wait(source, now, deadline)
        self._of[source][item] = None
        own = self._of[source]
        oldest = next(iter(own))
        if source is not None and len(own) > self._most_of_one and now - self._waits[oldest].since > _GRACE:
            return oldest
        if len(self) > self._most:
            most = max(self._of, key=lambda source: len(self._of[source]))
            return next(iter(self._of[most]))
        return None

    def postpone(self, item: Item, deadline: float) -> None:
        self._waits[item].deadline = deadline

    def remove(self, item: Item) -> None:
        source = self._waits.pop(item).source
        del self._of[source][item]
        if not self._of[source]:
            del self._of[source]

    def cap(self, deadline: float) -> None:
        """Nobody waits beyond `deadline`."""
        for wait in self._waits.values():
            wait.deadline = min(wait.deadline, deadline)

    def late(self, now: float) -> list[Item]:
        return [item for item, wait in self._waits.items() if wait.deadline <= now]


def source_of(peer: str, trusted: Iterable[IPNetwork]) -> str | None:
    """Whom a connection counts for; None for a web server in front, which connects for everybody."""
    address = parse_ip(peer)
    if address is None or any(address in network for network in trusted):
        return None
    if isinstance(address, ipaddress.IPv6Address):
        # What one customer has.
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
