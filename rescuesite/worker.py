"""gunicorn's threaded worker, for clients that are firmware."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from machines.boot import script
from machines.boot.decide import Reason


class BootWorker(ThreadWorker):
    """A threaded worker that tells every card what to do, and that no client can keep waiting."""

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer what cannot be read as HTTP with the script that boots the disk, instead of an error page.

        A card whose request is malformed (its product's name holds raw bytes, say) is told what every other is told
        that cannot be helped: boot your own disk.
        """
        unread = getattr(exc, "req", None)
        if req is not None or getattr(unread, "method", None) not in {None, "GET", "HEAD"}:
            super().handle_error(req, client, addr, exc)  # type: ignore[no-untyped-call]
            return
        self.log.debug("a request that is not HTTP from %s: %s", addr, exc)
        body = script.pass_through(Reason.BAD_MAC).encode()
        head = (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Close without waiting for the client, unless it still sends.

        gunicorn 27 waits up to two seconds for the client to close its side, in the thread that all other connections
        depend on. The wait keeps the end of an answer from being lost where the client has sent more than was read;
        that is done in another thread, and nothing where all has been read.
        """
        close = conn.close

        def close_soon(*, graceful: bool = False) -> None:
            if graceful and _still_sends(conn.sock):
                self.tpool.submit(close, graceful=True)  # type: ignore[union-attr]
            else:
                close()

        conn.close = close_soon
        try:
            super().finish_request(conn, fs)  # type: ignore[no-untyped-call]
        finally:
            conn.close = close


def _still_sends(connection: socket.socket) -> bool:
    """Whether there is something to read that nobody will read."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
