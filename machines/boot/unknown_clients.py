"""Bounds what those can make us write whom we do not know.

A flood of requests with unknown MAC addresses costs one look-up each, and so many writes a second as are allowed
here; the others are counted in memory, and the next write carries their number.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable

#: Writes a second, and at once, for one process.
RATE, BURST = 20.0, 200.0


class UnknownClientLimiter:
    """A token bucket for writes, with a count of what found it empty."""

    def __init__(self, rate: float = RATE, burst: float = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._filled_at = burst, clock()
        self._unwritten: Counter[str] = Counter()
        self._lock = threading.Lock()

    def acquire(self, reason: str) -> int:
        """Ask to write for one request. Returns how many requests the write must count, 0 where it may not be made."""
        with self._lock:
            self._unwritten[reason] += 1
        return self.flush(reason)

    def flush(self, reason: str) -> int:
        """Ask to write for requests that are not counted yet. Returns their number, 0 where it may not be made."""
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._filled_at) * self._rate)
            self._filled_at = now
            if self._left < 1 or not self._unwritten[reason]:
                return 0
            self._left -= 1
            return self._unwritten.pop(reason)

    def restore(self, reason: str, count: int) -> None:
        """The write failed: its requests are counted by a later one."""
        with self._lock:
            self._unwritten[reason] += count

    def unwritten(self) -> list[str]:
        """The reasons for which requests wait to be counted."""
        with self._lock:
            return [reason for reason, count in self._unwritten.items() if count]
