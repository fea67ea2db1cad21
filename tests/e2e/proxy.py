"""A small HTTP proxy that stands between a virtual server and the site, and makes trouble on request."""

from __future__ import annotations

import contextlib
import http.client
import re
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """Forwards to the site on loopback, so that the source address stays the same. Use as context manager."""

    def __init__(
        self, site_port: int, *, missing: str = "", held: str = "", silent: str = "", slow: str = "", pause: float = 0
    ) -> None:
        """Paths that `missing` matches are answered 404; of the first that `held` matches only a part is sent.

        Of those that `silent` matches nothing follows the first part, however often they are asked for. With `slow`,
        each half of what is left comes after `pause` seconds of silence, four times.
        """
        self._silent, self._slow, self._pause = silent, slow, pause
        self.requests: list[str] = []
        #: When each was asked for, by time.monotonic.
        self.times: list[float] = []
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
                    proxy._pass_on(self, response, first=first)

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

    def _pass_on(self, handler: BaseHTTPRequestHandler, response: http.client.HTTPResponse, *, first: bool) -> None:
        if first:
            handler.wfile.write(response.read(200_000))
            self._note("HOLDING", "")
            # The other end is switched off, and nobody tells this connection.
            self._closing.wait(300)
            handler.close_connection = True
        elif self._silent and re.search(self._silent, handler.path):
            handler.wfile.write(response.read(200_000))
            self._wait_until_it_gives_up(handler)
        else:
            for _ in range(4 if self._slow and re.search(self._slow, handler.path) else 0):
                handler.wfile.write(response.read((response.length or 0) // 2))
                self._closing.wait(self._pause)
            while chunk := response.read(1 << 16):
                handler.wfile.write(chunk)

    def _wait_until_it_gives_up(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        while not self._closing.wait(0.2):
            readable = select.select([handler.connection], [], [], 0)[0]
            if readable and not handler.connection.recv(1, socket.MSG_PEEK):
                return

    def count(self, pattern: str) -> int:
        """How many requests, such as `GET /boot?mac=…`, hold `pattern`."""
        with self._news:
            return sum(re.search(pattern, request) is not None for request in self.requests)

    def seconds_since(self, pattern: str) -> float:
        """How long ago the first request that holds `pattern` came."""
        with self._news:
            first = next(n for n, request in enumerate(self.requests) if re.search(pattern, request))
            return time.monotonic() - self.times[first]

    def wait_for_held(self, timeout: float = 60) -> None:
        """Return once a download is under way and stuck."""
        with self._news:
            assert self._news.wait_for(lambda: "HOLDING" in self.requests, timeout), self.requests

    def _note(self, request: str, held: str) -> bool:
        """Remember a request; returns whether it is the first that `held` matches."""
        with self._news:
            first = bool(held and re.search(held, request) and "HOLDING" not in self.requests)
            self.requests.append(request)
            self.times.append(time.monotonic())
            self._news.notify_all()
            return first
