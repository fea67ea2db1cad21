"""A program that is told what happens: it takes what is posted to it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class Receiver:
    """An HTTP server on loopback. `answers` are the statuses to come, 200 after them; `headers` go with each."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self._news = threading.Condition()
        self._server = _Server(("127.0.0.1", port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/s3cret"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(sent) for _, _, sent in self.requests]

    @property
    def types(self) -> list[str]:
        return [told["type"] for told in self.told]

    def wait_for(self, what: Callable[[Receiver], object], timeout: float = 60) -> None:
        """Return once `what` holds, which is looked at after each request."""
        with self._news:
            assert self._news.wait_for(lambda: what(self), timeout), f"only {self.types} came"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver._news:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    receiver.requests.append((self.path, headers, sent))
                    receiver._news.notify_all()
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                for name, value in {"Content-Length": "0", **receiver.headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
