"""The pure parts of serving: what a head says, where it belongs, who may wait."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from machines.addresses import parse_network
from rescuesite.serving import sides
from rescuesite.serving.client import ClientSocket
from rescuesite.serving.handover import Handover
from rescuesite.serving.head import SMALL_BODY, Head
from rescuesite.serving.places import ANSWERS, FILES, PAGES, STATIC, UPLOADS, Pace, Place, Side, place_of
from rescuesite.serving.waiting import Waiting, source_of


def head(line: str, *fields: str) -> Head:
    read = Head.read("\r\n".join([line, *fields, "", ""]).encode())
    assert read
    return read


# Heads


@pytest.mark.parametrize("received", [b"", b"GET /boot", b"GET /boot HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n"])
def test_a_head_without_its_empty_line_is_incomplete(received: bytes) -> None:
    assert Head.read(received) is None


def test_a_head_is_found_wherever_its_end_is_cut() -> None:
    whole = b"GET /boot HTTP/1.1\r\nHost: x\r\n\r\n"
    for cut in range(len(whole)):
        assert Head.read(whole[:cut]) is None
        found = Head.read(whole, searched=cut)
        assert found
        assert found.size == len(whole)


def test_an_empty_line_before_a_request_is_no_end_of_a_head() -> None:
    found = Head.read(b"\r\nGET /boot HTTP/1.1\r\n\r\n")
    assert found
    assert (found.path, found.size) == (b"/boot", 24)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([], 0),
        (["Content-Length: 12"], 12),
        (["content-length:12 "], 12),
        (["Content-Length: 1e3"], None),
        (["Content-Length: " + "9" * 30], None),
        (["Transfer-Encoding: chunked"], None),
        (["Content-Length: 12", "Transfer-Encoding: chunked"], None),
        (["Content-Length: 12", "Content-Length: 900"], None),
    ],
)
def test_the_length_of_a_body_is_known_or_not(fields: list[str], body: int | None) -> None:
    assert head("POST /x HTTP/1.1", *fields).body == body


@pytest.mark.parametrize(
    ("length", "waits"), [(0, 0), (SMALL_BODY, SMALL_BODY), (SMALL_BODY + 1, 0)], ids=["none", "small", "large"]
)
def test_only_small_bodies_are_waited_for(length: int, waits: int) -> None:
    found = head("POST /x HTTP/1.1", f"Content-Length: {length}")
    assert found.awaited == found.size + waits


# Places


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("GET /boot?mac=x HTTP/1.1", ANSWERS),
        ("GET //boot?mac=x HTTP/1.1", ANSWERS),
        ("GET /%62oot?mac=x HTTP/1.1", ANSWERS),
        ("GET http://site/boot?mac=x HTTP/1.1", ANSWERS),
        ("GET /boot?url=http://site/admin/ HTTP/1.1", ANSWERS),
        ("GET /boot?product=Server 9 HTTP/1.1", ANSWERS),
        ("GET /rescue.php?mac=x HTTP/1.1", ANSWERS),
        ("GET /healthz HTTP/1.1", ANSWERS),
        ("GET", ANSWERS),
        ("POST /boot/token/up HTTP/1.1", ANSWERS),
        ("GET /boot/token/ready HTTP/1.1", ANSWERS),
        ("GET /boot/token/kernel HTTP/1.1", FILES),
        ("GET /boot/dhcp.ipxe HTTP/1.1", ANSWERS),
        ("GET /admin/ HTTP/1.1", PAGES),
        ("GET /admin/x://y/boot HTTP/1.1", PAGES),
        ("GET /api/machines/ HTTP/1.1", PAGES),
        ("GET /static/machines/icon.svg HTTP/1.1", STATIC),
    ],
)
def test_the_request_line_says_where_a_request_belongs(line: str, place: Place) -> None:
    assert place_of(head(line)) is place


@pytest.mark.parametrize("field", ["Content-Length: 65537", "Transfer-Encoding: chunked"])
def test_a_large_body_belongs_to_the_uploads_unless_a_card_sends_it(field: str) -> None:
    assert place_of(head("POST /admin/ HTTP/1.1", field)) is UPLOADS
    assert place_of(head("POST /boot HTTP/1.1", field)) is ANSWERS


def test_workers_are_for_boot_and_for_staff_by_turns_and_a_reload_starts_anew() -> None:
    workers: list[Any] = []

    def start() -> Side:
        worker: Any = SimpleNamespace(retiring=False)
        sides.assign(worker, workers)
        workers.append(worker)
        side: Side = worker.side
        return side

    assert [start() for _ in range(4)] == [Side.BOOT, Side.STAFF] * 2
    del workers[0]
    assert start() is Side.BOOT
    del workers[0]
    sides.Reload().begin(workers)
    assert [start() for _ in range(4)] == [Side.BOOT, Side.STAFF] * 2


def test_a_reload_is_done_once_all_that_it_started_can_answer() -> None:
    reload = sides.Reload()
    former, first, second = (SimpleNamespace(retiring=False) for _ in range(3))
    reload.enrol(former)  # type: ignore[arg-type]
    reload.ready(former)  # type: ignore[arg-type]
    assert not reload.has_begun_since(former.generation)
    reload.begin([former])  # type: ignore[list-item]
    assert reload.has_begun_since(former.generation)
    for worker in (first, second):
        reload.enrol(worker)  # type: ignore[arg-type]
    reload.ready(first)  # type: ignore[arg-type]
    assert not reload.is_done
    reload.ready(former)  # type: ignore[arg-type]
    assert not reload.is_done
    reload.ready(second)  # type: ignore[arg-type]
    assert reload.is_done


def test_a_successor_that_ended_is_waited_for_no_more() -> None:
    reload = sides.Reload()
    first, second = (SimpleNamespace(retiring=False) for _ in range(2))
    reload.begin([])
    for worker in (first, second):
        reload.enrol(worker)  # type: ignore[arg-type]
    reload.ready(first)  # type: ignore[arg-type]
    reload.ended(second)  # type: ignore[arg-type]
    assert reload.is_done


# Waiting


def test_whoever_waits_beyond_the_deadline_is_late() -> None:
    waiting = Waiting[str](most=9, most_of_one=9)
    waiting.add("a", "192.0.2.1", now=0, deadline=10)
    waiting.add("b", "192.0.2.1", now=0, deadline=10)
    waiting.postpone("b", 20)
    assert waiting.late(10) == ["a"]
    waiting.remove("a")
    assert waiting.late(30) == ["b"]
    waiting.cap(5)
    assert waiting.late(6) == ["b"]


def test_a_source_that_lets_too_many_wait_loses_its_oldest() -> None:
    waiting = Waiting[int](most=100, most_of_one=3)
    for n in range(3):
        assert waiting.add(n, "192.0.2.1", now=n, deadline=10) is None
    assert waiting.add(99, "192.0.2.2", now=3, deadline=10) is None
    assert waiting.add(4, "192.0.2.1", now=4, deadline=10) == 0


def test_a_hall_behind_one_address_that_connects_at_once_loses_nothing() -> None:
    waiting = Waiting[int](most=1000, most_of_one=3)
    assert {waiting.add(n, "192.0.2.1", now=n / 1000, deadline=10) for n in range(900)} == {None}


def test_where_too_many_wait_the_source_with_most_loses_its_oldest() -> None:
    waiting = Waiting[str](most=3, most_of_one=3)
    waiting.add("card", "192.0.2.1", now=0, deadline=10)
    waiting.add("first", "192.0.2.2", now=1, deadline=10)
    waiting.add("second", "192.0.2.2", now=1, deadline=10)
    assert waiting.add("another card", "192.0.2.3", now=1, deadline=10) == "first"


def test_a_web_server_in_front_is_no_source_that_is_limited() -> None:
    trusted = [parse_network("192.0.2.0/24")]
    assert source_of("192.0.2.9", trusted) is None
    assert source_of("", []) is None
    waiting = Waiting[int](most=1000, most_of_one=3)
    assert {waiting.add(n, None, now=n, deadline=9999) for n in range(900)} == {None}


def test_the_addresses_of_one_ipv6_network_are_one_source() -> None:
    assert source_of("2001:db8::1", []) == source_of("2001:db8::2:1", []) == "2001:db8::/64"
    assert source_of("::ffff:192.0.2.1", []) == source_of("192.0.2.1", []) == "192.0.2.1"


# Connections


@pytest.fixture
def connection() -> Iterator[tuple[ClientSocket, socket.socket]]:
    """Our end of a connection and the client's."""
    ours, theirs = socket.socketpair()
    with closing(ClientSocket.of(ours)) as client, closing(theirs):
        yield client, theirs


def test_what_was_read_ahead_comes_first(connection: tuple[ClientSocket, socket.socket]) -> None:
    client, theirs = connection
    theirs.sendall(b"one")
    assert client.read_ahead() == 3
    assert client.read_ahead() is None
    theirs.sendall(b"two")
    assert [client.recv(2), client.recv(9), client.recv(9)] == [b"on", b"e", b"two"]


@pytest.mark.parametrize("what", ["recv", "sendall", "sendfile"])
def test_a_client_that_does_nothing_is_given_up(connection: tuple[ClientSocket, socket.socket], what: str) -> None:
    client, _ = connection
    client.keep_to(Pace(0.05))
    with tempfile.TemporaryFile() as file:
        file.truncate(10_000_000)
        given: Any = {"recv": [1], "sendall": [bytes(10_000_000)], "sendfile": [file, 0, 10_000_000]}[what]
        with pytest.raises(ConnectionResetError) as caught:
            getattr(client, what)(*given)
    # What gunicorn takes for a client that has left.
    assert caught.value.errno == errno.ECONNRESET


def test_a_client_that_keeps_the_pace_gets_all(connection: tuple[ClientSocket, socket.socket]) -> None:
    client, theirs = connection
    client.keep_to(Pace(30, 1000))
    received = bytearray()

    def read() -> None:
        while len(received) < 4_000_000:
            received.extend(theirs.recv(1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(2_000_000))
        file.flush()
        client.sendall(bytes(2_000_000))
        assert client.sendfile(file, 0, 2_000_000) == 2_000_000
        reader.join(60)
        file.seek(0)
        assert received == bytes(2_000_000) + file.read()


# Handing over


def test_a_connection_is_handed_over_with_what_was_read_of_it(connection: tuple[ClientSocket, socket.socket]) -> None:
    client, theirs = connection
    with closing(Handover()) as handover:
        theirs.sendall(b"GET / HT")
        client.read_ahead()
        assert handover.hand_over(client)
        client.close()
        taken, _ = handover.accept()
        with closing(taken):
            theirs.sendall(b"TP/1.1")
            assert [taken.recv(99), taken.recv(99)] == [b"GET / HT", b"TP/1.1"]
            taken.sendall(b"hello")
            assert theirs.recv(9) == b"hello"


def test_a_head_of_any_size_is_handed_over_whole(connection: tuple[ClientSocket, socket.socket]) -> None:
    client, _ = connection
    client.ahead += os.urandom(96 * 1024)
    with closing(Handover()) as handover:
        assert handover.hand_over(client)
        taken, _ = handover.accept()
        with closing(taken):
            assert taken.ahead == client.ahead
        with pytest.raises(BlockingIOError):
            handover.accept()


def test_handing_over_says_when_there_is_no_room(connection: tuple[ClientSocket, socket.socket]) -> None:
    client, _ = connection
    with closing(Handover()) as handover:
        queued = 0
        while handover.hand_over(client):
            queued += 1
            assert queued < 100_000
        assert queued > 50
        taken, _ = handover.accept()
        taken.close()
        assert handover.hand_over(client)
