"""A small HTTP proxy that stands between a virtual server and the site, and makes trouble on request."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """Forwards to the site on loopback, so that the source address stays the same. Use as context manager."""

    def __init__(self, site_port: int, *, missing: str = "", held: str = "") -> None:
        """Paths that `missing` matches are answered 404; of the first that `held` matches only a part is sent."""
        self.requests: list[str] = []
        self._news = threading.Condition()
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_GET(self) -> None:
                self._forward()

            def do_POST(self) -> None:
                self._forward()

            def _forward(self) -> None:
                first = proxy._note(f"{self.command} {self.path}", held)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if missing and re.search(missing, self.path):
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", site_port, timeout=30)) as site:
                    site.request(self.command, self.path, body or None, dict(self.headers.items()))
                    response = site.getresponse()
                    self.send_response_only(response.status, response.reason)
                    for name, value in response.getheaders():
                        if name.lower() != "connection":
                            self.send_header(name, value)
                    self.end_headers()
                    if first:
                        self.wfile.write(response.read(200_000))
                        proxy._note("HOLDING", "")
                        # The other end is switched off, and nobody tells this connection.
                        proxy._closing.wait(300)
                        self.close_connection = True
                        return
                    while chunk := response.read(1 << 16):
                        self.wfile.write(chunk)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def count(self, pattern: str) -> int:
        """How many requests, such as `GET /boot?mac=…`, hold `pattern`."""
        with self._news:
            return sum(re.search(pattern, request) is not None for request in self.requests)

    def wait_for_held(self, timeout: float = 60) -> None:
        """Return once a download is under way and stuck."""
        with self._news:
            assert self._news.wait_for(lambda: "HOLDING" in self.requests, timeout), self.requests

    def _note(self, request: str, held: str) -> bool:
        """Remember a request; returns whether it is the first that `held` matches."""
        with self._news:
            first = bool(held and re.search(held, request) and "HOLDING" not in self.requests)
            self.requests.append(request)
            self._news.notify_all()
            return first
