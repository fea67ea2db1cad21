"""A small HTTP proxy that stands between a virtual server and the site, and makes trouble on request."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Trouble:
    """What becomes of each request in whose path `path` is found: `answered`, `silent`, `cut`, `slow` make them."""

    path: str
    #: Sent in place of what the site answers, status line and all.
    answer: bytes = b""
    #: Bytes of the site's body that are sent; none: not even a head.
    after: int = 0
    #: The connection ends there; otherwise it stays open, and nothing more comes.
    ends: bool = False
    #: Only the first such request meets it.
    once: bool = False
    #: All comes, but after each of four times so many seconds of silence, half of what is left.
    pause: float = 0


def answered(path: str, status: int, body: bytes = b"", *, head: str = "") -> Trouble:
    """Another server answers: `head` is further lines of its head."""
    lines = f"HTTP/1.1 {status} Trouble\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{head}\r\n"
    return Trouble(path, lines.encode() + body)


def silent(path: str, after: int = 0, *, once: bool = False) -> Trouble:
    """Nothing more comes after so many bytes of the body, and nobody says so."""
    return Trouble(path, after=after, once=once)


def cut(path: str, after: int) -> Trouble:
    """The connection is closed after so many bytes of the body."""
    return Trouble(path, after=after, ends=True)


def slow(path: str, pause: float) -> Trouble:
    """All of it comes, with four pauses of so many seconds."""
    return Trouble(path, pause=pause, ends=True)


class Proxy:
    """Forwards to the site on loopback, so that the source address stays the same. Use as context manager."""

    def __init__(self, site_port: int, *troubles: Trouble, port: int = 0) -> None:
        """The first of the troubles that fits a request is what it meets; `port` is any that is free, by default."""
        self.site_port = site_port
        self.requests: list[str] = []
        #: When each came, by time.monotonic.
        self.times: list[float] = []
        self.met: list[Trouble] = []
        self._troubles = troubles
        self._news = threading.Condition()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def count(self, pattern: str) -> int:
        """How many requests, such as `GET /boot?mac=…`, hold `pattern`."""
        with self._news:
            return sum(re.search(pattern, request) is not None for request in self.requests)

    def seconds_since(self, pattern: str) -> float:
        """How long ago the first request that holds `pattern` came."""
        with self._news:
            first = next(n for n, request in enumerate(self.requests) if re.search(pattern, request))
            return time.monotonic() - self.times[first]

    def wait_for_trouble(self, timeout: float = 60) -> None:
        """Return once a request meets trouble."""
        with self._news:
            assert self._news.wait_for(lambda: self.met, timeout), self.requests

    def note(self, request: str) -> Trouble | None:
        """Remember a request, and return what it meets."""
        with self._news:
            self.requests.append(request)
            self.times.append(time.monotonic())
            fitting = (trouble for trouble in self._troubles if re.search(trouble.path, request))
            found = next((trouble for trouble in fitting if not (trouble.once and trouble in self.met)), None)
            if found:
                self.met.append(found)
            self._news.notify_all()
            return found


class _Handler(BaseHTTPRequestHandler):
    """One connection of a proxy's."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def __init__(self, proxy: Proxy, *args: Any) -> None:
        self._proxy = proxy
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        trouble = self._proxy.note(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not trouble:
            self._pass_on(body, Trouble(self.path))
            return
        self.close_connection = True
        if trouble.answer:
            self.wfile.write(trouble.answer)
            return
        if trouble.after or trouble.pause:
            self._pass_on(body, trouble)
        if not trouble.ends:
            # The other end may be switched off, and nobody tells this connection.
            self._proxy.closing.wait(600)

    def _pass_on(self, body: bytes, trouble: Trouble) -> None:
        """Send the site's answer, or what the trouble leaves of it."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._proxy.site_port, timeout=30)) as site:
            site.request(self.command, self.path, body or None, dict(self.headers.items()))
            response = site.getresponse()
            self.send_response_only(response.status, response.reason)
            for name, value in response.getheaders():
                if name.lower() != "connection":
                    self.send_header(name, value)
            self.end_headers()
            for _ in range(4 if trouble.pause else 0):
                self.wfile.write(response.read((response.length or 0) // 2))
                self._proxy.closing.wait(trouble.pause)
            for chunk in _chunks(response, trouble.after or None):
                self.wfile.write(chunk)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def _chunks(response: http.client.HTTPResponse, size: int | None) -> Iterator[bytes]:
    """The body, as it comes; its first `size` bytes, or all of it."""
    if size is not None:
        yield response.read(size)
    else:
        while chunk := response.read(1 << 16):
            yield chunk
