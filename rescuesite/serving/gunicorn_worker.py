"""gunicorn's threaded worker, for clients that are firmware and among strangers.

The event loop reads each request until it is complete, and closes connections that do not get that far in time. Only
then does a thread take it: one of the threads kept for this kind of request, or of a staff process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from selectors import EVENT_READ
from typing import Any

from django.conf import settings
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from machines.boot import script
from machines.boot.reasons import Reason
from rescuesite.serving.client import ClientSocket
from rescuesite.serving.handover import Handover
from rescuesite.serving.head import MAX_HEAD, Head
from rescuesite.serving.places import Place, Side, place_of
from rescuesite.serving.sides import Reload
from rescuesite.serving.waiting import Waiting, source_of

#: How long a connection is read on after the answer, where the client still sends: it would lose the answer's end.
_LINGER = 2.0
_SWEEP = 0.25
#: So long a worker goes on that a reload has replaced, where its successors cannot start.
_RELOAD = 30.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n\r\n"
    b"The site has too much to do; try again later\n"
)


class Connection(TConn):
    """A client's connection and what is known of its next request."""

    sock: ClientSocket
    parser: Any
    head: Head | None = None
    #: Whether the next request has begun to arrive.
    begun = False
    #: Whether all is answered, and only read on.
    answered = False
    _searched = 0

    def has_request(self) -> bool:
        """Whether a request is complete, as far as it is waited for."""
        ahead = self.sock.ahead
        if self.head is None:
            self.head = Head.read(ahead, self._searched)
            self._searched = len(ahead)
        return self.head is not None and len(ahead) >= self.head.awaited

    def next_request(self) -> None:
        """Be ready for the next request, of which the parser may hold the beginning."""
        self.sock.ahead[:0] = self.parser.unreader.take_buffered()
        self.head, self.begun, self._searched = None, False, 0


class SiteWorker(ThreadWorker):
    """A threaded worker of one side. `side` and `handover` are set before it is forked."""

    side: Side = Side.BOOT
    handover: Handover
    poller: Any
    method_queue: Any
    reload: Reload
    #: The reload that started it.
    generation = 0
    place = 0
    #: In the master: whether a reload has started its successors.
    retiring = False
    #: When it stops at the latest, though its successors are not ready.
    _leaves_at: float | None = None

    def init_process(self) -> None:
        self._pools = {place: _threads(place, self.cfg.threads) for place in self.side.places}
        self._taken = dict.fromkeys(self.side.places, 0)
        if self.side is Side.STAFF:
            # Boot answers go first.
            os.nice(5)
            for listener in self.sockets:
                listener.close()
            self.sockets = [self.handover]
        super().init_process()  # type: ignore[no-untyped-call]

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return self._pools[self.side.places[-1]]

    def run(self) -> None:
        self._waiting: Waiting[Connection] = Waiting(self.worker_connections // 2, self.worker_connections // 8)
        self._swept = 0.0
        super().run()  # type: ignore[no-untyped-call]

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop; where a reload has started successors, once they can answer: nobody is to wait for them."""
        if self.alive and self.reload.has_begun_since(self.generation) and not self.reload.is_done:
            self._leaves_at = self._leaves_at or time.monotonic() + _RELOAD
        else:
            super().handle_exit(sig, frame)  # type: ignore[no-untyped-call]

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)  # type: ignore[no-untyped-call]
        if not self.alive or self.ppid != os.getppid():
            # Whoever connects from now on is another process's, or refused at once.
            for listener in self.sockets:
                listener.close()
            self.sockets = []

    # Waiting for a request

    def accept(self, listener: Any) -> None:
        try:
            client, address = listener.accept()
            client = client if isinstance(client, ClientSocket) else ClientSocket.of(client)
            conn = Connection(self.cfg, client, address, client.getsockname())  # type: ignore[no-untyped-call]
        except OSError:
            # Another process was faster, or the client has left.
            return
        self.nr_conns += 1
        self._await(conn, settings.RESCUESITE_REQUEST_TIMEOUT)

    def _await(self, conn: Connection, seconds: float) -> None:
        """Go on with the connection as soon as there is something to do; it waits `seconds` at most."""
        # The event loop never waits: a thread leaves the socket blocking, and with its client's pace.
        conn.sock.settimeout(0)
        conn.sock.keep_to(None)
        if proceed := self._step(conn):
            proceed(conn)
            return
        conn.begun = conn.begun or bool(conn.sock.ahead)
        self.poller.register(conn.sock, EVENT_READ, partial(self._on_readable, conn))
        now = time.monotonic()
        if surplus := self._waiting.add(conn, self._source(conn), now, now + seconds):
            self._drop(surplus)

    @staticmethod
    def _source(conn: Connection) -> str | None:
        """Whom the connection counts for; None for a web server in front."""
        peer = conn.client[0] if isinstance(conn.client, tuple) else ""
        return source_of(peer, settings.RESCUESITE_TRUSTED_PROXIES)

    def _on_readable(self, conn: Connection, _: ClientSocket) -> None:
        if conn not in self._waiting:
            # Dropped since epoll told of it.
            return
        if proceed := self._step(conn):
            self._stop_waiting(conn)
            proceed(conn)
        elif not conn.begun:
            # Its time counts from the first byte on.
            conn.begun = True
            self._waiting.postpone(conn, time.monotonic() + settings.RESCUESITE_REQUEST_TIMEOUT)

    def _step(self, conn: Connection) -> Callable[[Connection], None] | None:
        """Read what is there; returns what is to be done with the connection, None to wait."""
        if conn.answered:
            return self._close if conn.sock.discard() == 0 else None
        if conn.has_request():
            return self._proceed
        arrived = conn.sock.read_ahead()
        if arrived == 0:
            return self._close
        if conn.has_request():
            return self._proceed
        if conn.head is None and len(conn.sock.ahead) > MAX_HEAD:
            return self._refuse
        if conn.head and conn.head.expects_continue and len(conn.sock.ahead) == conn.head.size:
            with contextlib.suppress(OSError):
                conn.sock.send(_CONTINUE)
        return None

    def _stop_waiting(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        self._waiting.remove(conn)

    def _drop(self, conn: Connection) -> None:
        self._stop_waiting(conn)
        self._close(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Drop what has waited too long. A request that has begun, and is HTTP of no kind, is told to boot the disk."""
        now = time.monotonic()
        if force or now - self._swept > _SWEEP:
            self._swept = now
            for conn in self._waiting.late(float("inf") if force else now):
                if conn.begun and conn.head is None and not force:
                    self._say_pass_through(conn.sock)
                self._drop(conn)
            if self._leaves_at is not None and (self.reload.is_done or now > self._leaves_at):
                super().handle_exit(signal.SIGTERM, None)  # type: ignore[no-untyped-call]

    def _cap_keepalive(self, deadline: float) -> None:
        self._waiting.cap(deadline)

    # What becomes of it

    def _proceed(self, conn: Connection) -> None:
        assert conn.head
        place = place_of(conn.head)
        if place in self._pools or self.side is Side.STAFF:
            self._submit(conn, place if place in self._pools else self.side.places[-1])
        elif self.handover.hand_over(conn.sock):
            self._close(conn)
        else:
            self._say(conn, _NO_ROOM)

    def _submit(self, conn: Connection, place: Place) -> None:
        threads = place.threads or self.cfg.threads
        if place.queue is not None and self._taken[place] >= threads + place.queue:
            self._say(conn, _NO_ROOM)
            return
        self._taken[place] += 1
        conn.sock.keep_to(place.pace)
        conn.data_ready = True
        done = self._pools[place].submit(self.handle, conn)
        done.add_done_callback(lambda future: self.method_queue.defer(self._handled, conn, place, future))

    def _handled(self, conn: Connection, place: Place, future: Future[Any]) -> None:
        self._taken[place] -= 1
        self.finish_request(conn, future)

    def handle_request(self, req: Any, conn: Connection) -> Any:
        if self.side is Side.STAFF and self._source(conn) is None:
            # The web server in front would ask for something else next, a boot answer maybe, and wait for us.
            req.force_close()
        return super().handle_request(req, conn)  # type: ignore[no-untyped-call]

    def _refuse(self, conn: Connection) -> None:
        self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders("the head is too long"))  # type: ignore[no-untyped-call]
        self._finish(conn)

    def _say(self, conn: Connection, answer: bytes) -> None:
        with contextlib.suppress(OSError):
            conn.sock.send(answer)
        self._finish(conn)

    def _keepalive_after(self, conn: Connection, keepalive: Any) -> bool:
        """Whether the connection is used again: not where a thread would have to wait for the rest of a body."""
        if not keepalive or not (conn.head and conn.head.has_small_body):
            return False
        return bool(conn.parser.finish_body(deadline=time.monotonic() + _LINGER))

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        if fs.cancelled() or fs.exception() or not fs.result():
            self._finish(conn)
            return
        conn.next_request()
        self._await(conn, self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)

    def _finish(self, conn: Connection) -> None:
        """Close, or read on for a while where the client still sends."""
        unread = conn.head is None or not conn.head.has_small_body
        if not unread and not conn.sock.still_sends():
            self._close(conn)
            return
        conn.answered = conn.begun = True
        try:
            conn.sock.shutdown(1)
        except OSError:
            self._close(conn)
        else:
            self._await(conn, _LINGER)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()  # type: ignore[no-untyped-call]

    def handle_error(self, req: Any, client: ClientSocket, addr: Any, exc: BaseException) -> None:
        """Answer what cannot be read as HTTP with the script that boots the disk, instead of an error page.

        A card whose request is malformed (its product's name holds raw bytes, say) is told what every other is told
        that cannot be helped: boot your own disk.
        """
        unread = getattr(exc, "req", None)
        if req is not None or getattr(unread, "method", None) not in {None, "GET", "HEAD"}:
            super().handle_error(req, client, addr, exc)  # type: ignore[no-untyped-call]
            return
        self.log.debug("a request that is not HTTP from %s: %s", addr, exc)
        self._say_pass_through(client)

    @staticmethod
    def _say_pass_through(client: ClientSocket) -> None:
        body = script.pass_through(Reason.BAD_MAC).encode()
        head = (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)


def _threads(place: Place, configured: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(place.threads or configured, thread_name_prefix=place.name)
