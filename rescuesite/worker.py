"""gunicorn's threaded worker, for clients that are firmware."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from machines.boot import script
from machines.boot.decide import Reason


class BootWorker(ThreadWorker):
    """Answers what cannot be read as HTTP with the script that boots the disk, instead of an error page.

    A card whose request is malformed (its product's name holds raw bytes, say) is told what every other is told that
    cannot be helped: boot your own disk.
    """

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        if req is not None:
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
