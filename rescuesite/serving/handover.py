"""Handing a connection over from a boot process to a staff process, with what has been read of its request."""

from __future__ import annotations

import contextlib
import os
import socket

from rescuesite.serving.client import ClientSocket
from rescuesite.serving.head import MAX_HEAD, SMALL_BODY

#: The most that is read ahead of a request that is handed over: a head with its small body, and what came with it.
_MESSAGE = 3 * MAX_HEAD + SMALL_BODY


class Handover:
    """A queue of connections between processes: made before they are forked, and outlives each of them.

    To a worker it is a listener: `accept` takes the next connection.
    """

    def __init__(self) -> None:
        self._end, self._start = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._start.settimeout(0)
        self._end.settimeout(0)
        with contextlib.suppress(OSError):
            self._start.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)

    def hand_over(self, client: ClientSocket) -> bool:
        """Queue a copy of the connection; returns whether there was room. The caller closes its own."""
        try:
            socket.send_fds(self._start, [bytes(client.ahead)], [client.fileno()])
        except OSError:
            return False
        return True

    def accept(self) -> tuple[ClientSocket, object]:
        """Take the next connection. Raises OSError where there is none, or its client has left."""
        ahead, descriptors, _, _ = socket.recv_fds(self._end, _MESSAGE, 1)
        if not descriptors:
            raise BlockingIOError
        os.set_inheritable(descriptors[0], False)  # noqa: FBT003
        client = ClientSocket(fileno=descriptors[0])
        client.ahead += ahead
        try:
            return client, client.getpeername()
        except OSError:
            client.close()
            raise

    def fileno(self) -> int:
        return self._end.fileno()

    def setblocking(self, flag: object) -> None:
        """It never blocks."""

    def close(self) -> None:
        self._start.close()
        self._end.close()
