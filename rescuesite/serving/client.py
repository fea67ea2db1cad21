"""A client's connection."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import Any

from rescuesite.serving.places import Pace

_CHUNK = 16 * 1024


class ClientSocket(socket.socket):
    """A socket that gives out first what the event loop has read ahead, and that keeps its client to a pace.

    It speaks as a blocking socket does to gunicorn, which parses requests and sends answers with it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ahead = bytearray()
        self._pace: Pace | None = None
        self._moved, self._waited = 0, 0.0

    @classmethod
    def of(cls, plain: socket.socket) -> ClientSocket:
        """Takes the connection over from `plain`."""
        return cls(plain.family, plain.type, plain.proto, fileno=plain.detach())

    # In the event loop, which never waits

    def read_ahead(self) -> int | None:
        """Read what has arrived; returns how many bytes, 0 where nothing will come any more, None where none did."""
        try:
            data = super().recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self.ahead += data
        return len(data)

    def discard(self) -> int | None:
        """As `read_ahead`, for what nobody wants."""
        self.ahead.clear()
        return self.read_ahead()

    def still_sends(self) -> bool:
        """Whether there is something to read that nobody will read."""
        try:
            return bool(super().recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    # In a thread

    def keep_to(self, pace: Pace | None) -> None:
        """A request begins: count anew."""
        self._pace = pace
        self._moved, self._waited = 0, 0.0

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self.ahead:
            data = bytes(self.ahead[:size])
            del self.ahead[:size]
            return data
        if self._pace is None:
            return super().recv(size, flags)
        while True:
            try:
                data = super().recv(size, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._wait(select.POLLIN)
            else:
                self._moved += len(data)
                return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        if self._pace is None:
            super().sendall(data, flags)
            return
        left = memoryview(data)
        while left:
            try:
                sent = self.send(left, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._wait(select.POLLOUT)
            else:
                self._moved += sent
                left = left[sent:]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        if self._pace is None or count is None:
            return super().sendfile(file, offset, count)
        self.settimeout(0)
        sent = 0
        while sent < count:
            try:
                step = os.sendfile(self.fileno(), file.fileno(), offset + sent, count - sent)
            except BlockingIOError:
                self._wait(select.POLLOUT)
                continue
            if not step:
                break
            sent += step
            self._moved += step
        self.settimeout(None)
        return sent

    def _wait(self, event: int) -> None:
        """Wait until the client has read or sent. Raises ConnectionResetError where it is too slow."""
        assert self._pace
        left = self._pace.grace + self._moved / self._pace.rate - self._waited
        poller = select.poll()
        poller.register(self, event)
        began = time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise ConnectionResetError(errno.ECONNRESET, "the client is too slow")
        self._waited += time.monotonic() - began
