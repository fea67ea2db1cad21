"""What strangers leave unfinished and what staff do, however slow: boot answers come in time."""

from __future__ import annotations

import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest

from tests.e2e.conftest import PASSWORD, MakeSite
from tests.e2e.site import Reply, Site, token_in
from tests.e2e.staff import Staff
from tests.e2e.vm import MAC

pytestmark = pytest.mark.e2e

BOOT = f"/boot?mac={MAC}"
#: What the contract allows a boot answer to take, in seconds.
CONTRACT = 2
#: What a site says that is asked more at once than its disk can record.
NOT_IN_TIME = "the database did not answer in time|Service Unavailable"
LONG = {"RESCUESITE_REQUEST_TIMEOUT": "120"}

WELL = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
HEAD = b"GET /boot?mac=52:54:00:12:34:56 HTTP/1.1\r\nHost: x\r\n"
LOGIN = b"POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\nusername=al"
REPORT = b"POST /boot/%s/up HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nboot_id=" % (b"t" * 32)
STATIC = b"GET /static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(site: Site, sent: bytes = b"", buffer: int = 4096) -> socket.socket:
    """A connection on which nothing is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", site.port))
    connection.sendall(sent)
    return connection


@contextmanager
def opened(site: Site, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """`count` connections on which `sent` was sent, and nothing else happens."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(connect(site, sent))) for _ in range(count)]


def assert_boots(replies: Iterable[Reply]) -> None:
    """Each is a script, in the time that the contract allows."""
    replies = list(replies)
    assert all(reply.status == 200 and reply.text.startswith("#!ipxe\nset rescuesite ") for reply in replies)
    assert max(reply.seconds for reply in replies) < CONTRACT, sorted(reply.seconds for reply in replies)


def readable(connections: list[socket.socket]) -> list[socket.socket]:
    """Wait until something arrives; returns where it did."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(30) if isinstance(key.fileobj, socket.socket)]


def twenty_boots(site: Site) -> list[Reply]:
    return [site.get(BOOT) for _ in range(20)]


# Strangers


@pytest.mark.parametrize(
    ("count", "sent"),
    [
        (300, b""),
        (300, HEAD),
        (300, LOGIN % 300),
        (300, LOGIN % 100_000),
        (300, REPORT),
        # An answer, and the beginning of a next request.
        (300, WELL + b"\r\n" + HEAD),
        # A body that nobody reads.
        (300, HEAD + b"Content-Length: 900\r\n\r\n"),
        (300, WELL + b"Transfer-Encoding: chunked\r\n\r\n"),
        # Answers that nobody reads.
        (200, STATIC * 3),
        (100, (WELL + b"\r\n") * 50),
    ],
    ids=[
        "silent connections",
        "half-sent heads",
        "unfinished log-ins",
        "large unfinished log-ins",
        "unfinished reports",
        "half-sent second requests",
        "unfinished bodies nobody reads",
        "endless bodies nobody reads",
        "unread static files",
        "unread answers",
    ],
)
def test_what_strangers_leave_unfinished_delays_neither_boot_answers_nor_log_ins(
    patient: Site, count: int, sent: bytes
) -> None:
    with opened(patient, count, sent) as connections:
        if sent.startswith(WELL):
            # Those that are answered first are not what this is about.
            assert {connection.recv(1) for connection in connections} == {b"H"}
        assert_boots(twenty_boots(patient))
        Staff(patient.url, PASSWORD)


@pytest.fixture(scope="module")
def patient(furnished_copy: MakeSite) -> Site:
    """A site that waits long for unfinished requests: the worst case for everybody else."""
    return furnished_copy("patient", LONG)


def test_more_slow_downloads_than_threads_leave_places_for_boot_answers(site: Site) -> None:
    kernel = site.data_dir.with_name("kernel")
    kernel.write_bytes(os.urandom(8_000_000))
    site.manage("image", "add", "big", "--kernel", str(kernel))
    site.manage("rescue", "enable", "web01", "--image", "big")
    site.expect_in_log(NOT_IN_TIME)
    token = token_in(site.get(BOOT).text)
    download = f"GET /boot/{token}/kernel HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(6):
            # They have begun.
            assert {connection.recv(1) for connection in stack.enter_context(opened(site, 20, download))} == {b"H"}
        stack.enter_context(opened(site, 80, download))
        assert_boots(twenty_boots(site))
        # What a rescue waits for is not behind them either.
        assert site.get(f"/boot/{token}/ready").status == 200


def seconds_until_closed(connection: socket.socket) -> float:
    started = time.monotonic()
    while connection.recv(65536):
        pass
    return time.monotonic() - started


@pytest.mark.parametrize("sent", [b"", HEAD, LOGIN % 300, REPORT], ids=["silent", "head", "log-in", "report"])
def test_an_unfinished_request_is_dropped_after_the_deadline(impatient: Site, sent: bytes) -> None:
    with opened(impatient, 20, sent) as connections:
        for connection in connections:
            assert seconds_until_closed(connection) < 30


def test_a_head_that_trickles_in_is_dropped_after_the_deadline(impatient: Site) -> None:
    with closing(connect(impatient, HEAD)) as connection:
        connection.settimeout(0.2)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                connection.sendall(b"X")
                if not connection.recv(100):
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    raise AssertionError("it is still there")


def test_a_request_in_pieces_that_come_in_time_is_answered(impatient: Site) -> None:
    with closing(connect(impatient)) as connection:
        for piece in (b"GET /boot?mac=1", b"2 HTTP/1.1\r\nHo", b"st: x\r\nConnection: close\r\n\r", b"\n"):
            connection.sendall(piece)
            time.sleep(0.05)
        assert b"\r\n\r\n#!ipxe\n" in connection.makefile("rb").read()


def test_pipelined_requests_are_answered_in_order_by_whoever_answers_them(impatient: Site) -> None:
    asked = (b"/healthz", b"/boot?mac=1", b"/admin/login/", b"/healthz")
    requests = [b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" for path in asked]
    with closing(connect(impatient, b"\r\n".join(requests) + b"Connection: close\r\n\r\n")) as connection:
        answers = connection.makefile("rb").read()
    parts = [rb"ok\n", rb"#!ipxe\n", rb"csrfmiddlewaretoken", rb"ok\n"]
    assert re.search(b".*".join(parts), answers, re.DOTALL)
    assert answers.count(b"HTTP/1.1 200 OK") == 4


def test_a_client_that_waits_to_be_told_sends_its_small_body(impatient: Site) -> None:
    head = b"POST /boot/%s/up HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n" % (b"t" * 32)
    with closing(connect(impatient, head + b"Content-Length: 9\r\n\r\n")) as connection:
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"boot_id=1")
        assert b"HTTP/1.1 404 Not Found" in connection.makefile("rb").read()


def test_a_head_without_end_is_answered_with_the_disk(impatient: Site) -> None:
    with closing(connect(impatient, HEAD + b"X: " + b"x" * 30_000)) as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n#!ipxe\nset rescuesite local\n" in answer


@pytest.fixture(scope="module")
def impatient(furnished_copy: MakeSite) -> Site:
    return furnished_copy("impatient", {"RESCUESITE_REQUEST_TIMEOUT": "1"})


def test_300_boot_requests_at_once_from_one_address_are_all_answered(patient: Site) -> None:
    patient.expect_in_log(NOT_IN_TIME)
    connections = [connect(patient, HEAD) for _ in range(300)]
    with ExitStack() as stack:
        for connection in connections:
            stack.enter_context(closing(connection))
        for connection in connections:
            connection.sendall(b"Connection: close\r\n\r\n")
        answers = [connection.makefile("rb").read() for connection in connections]
    assert all(answer.startswith(b"HTTP/1.1 200 OK") and b"\r\n\r\n#!ipxe\n" in answer for answer in answers)


# Staff


@contextmanager
def at_work(works: Iterable[Callable[[], object]]) -> Iterator[list[Future[object]]]:
    """Staff do all of this at once; raises what any of it raised."""
    works = list(works)
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
        yield futures
    for future in futures:
        future.result()


@pytest.fixture(scope="module")
def busy(furnished_copy: MakeSite) -> Site:
    """A site with one process for staff, and pages that keep it from doing anything else."""
    return furnished_copy(
        "busy", {"DJANGO_SETTINGS_MODULE": "tests.e2e.staff_settings", "RESCUESITE_PROCESSES": "1", **LONG}
    )


def test_requests_of_staff_that_hold_pythons_lock_delay_no_boot_answer(busy: Site) -> None:
    with at_work([lambda: busy.get("/hold/?seconds=15", timeout=120)]) as [holding]:
        # From the first moment on.
        assert_boots(twenty_boots(busy))
        assert not holding.done(), "it did not hold long enough to tell"
    assert "Log in" in busy.get("/admin/login/").text


def test_many_requests_of_staff_that_compute_delay_no_boot_answer(busy: Site) -> None:
    with at_work([lambda: busy.get("/compute/?seconds=15", timeout=120)] * 24) as computing:
        assert_boots(twenty_boots(busy))
        assert not any(future.done() for future in computing)


def test_where_staff_s_processes_do_not_answer_staff_are_told_and_machines_boot(busy: Site) -> None:
    asked = b"GET /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with at_work([lambda: busy.get("/hold/?seconds=15", timeout=120)]), ExitStack() as stack:
        asking = [stack.enter_context(closing(connect(busy, asked))) for _ in range(1500)]
        assert any(connection.recv(100).startswith(b"HTTP/1.1 503 ") for connection in readable(asking))
        assert_boots(twenty_boots(busy))
    # Once it has taken those that wait.
    until = time.monotonic() + 60
    while "Log in" not in busy.get("/admin/login/").text:
        assert time.monotonic() < until
        time.sleep(0.1)


MACHINES = """
from machines.models import Machine, MACAddress
machines = Machine.objects.bulk_create(Machine(name=f"m{n}") for n in range(10_000))
MACAddress.objects.bulk_create(
    MACAddress(machine=machine, address=f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}") for n, machine in enumerate(machines)
)
"""


def test_the_largest_imports_uploads_exports_and_lists_delay_no_boot_answer(make_site: MakeSite) -> None:
    site = make_site()
    site.shell(MACHINES)
    comments = b"<?php\n" + b"/*" * 300_000
    table = "".join(f"n{n},04:00:00:00:{n >> 8:02x}:{n & 255:02x}\n" for n in range(10_000))
    staff = [Staff(site.url, PASSWORD) for _ in range(5)]
    image = {"name": "large", "architecture": "x86_64", "files-TOTAL_FORMS": "1", "files-INITIAL_FORMS": "0"}
    image |= {"files-0-kind": "kernel", "files-0-position": "0"}
    works: list[Callable[[], object]] = [
        lambda: staff[0].upload("/admin/machines/machine/import/", "file", comments),
        lambda: staff[1].upload("/admin/machines/machine/import/", "file", f"name,macs\n{table}".encode()),
        lambda: staff[2].upload("/admin/machines/rescueimage/add/", "files-0-upload", os.urandom(150_000_000), image),
        lambda: staff[3].get("/admin/machines/machine/export/"),
        lambda: [staff[4].get("/admin/machines/machine/?all=") for _ in range(3)],
    ]
    replies: list[Reply] = []
    with at_work(works) as working:
        while not all(work.done() for work in working) or len(replies) < 20:
            replies.append(site.get(BOOT))
            threading.Event().wait(0.02)
    assert_boots(replies)
    assert any(image["name"] == "large" for image in site.manage("image", "list", "--json"))


FLEET = MACHINES.replace("10_000", "600")
PRUNED = """
from datetime import timedelta
from django.utils import timezone
from machines.models import AuditEntry
long_ago = timezone.now() - timedelta(days=900)
AuditEntry.objects.bulk_create(AuditEntry(action="test", at=long_ago) for n in range(60_000))
"""


def test_an_armed_machine_boots_its_rescue_while_many_machines_are_armed_and_deleted_and_the_audit_log_is_pruned(
    make_site: MakeSite,
) -> None:
    """Each boot answer is recorded before it leaves; long transactions of others would keep it from that."""
    site = make_site()
    site.shell(FLEET + PRUNED)
    site.manage("rescue", "enable", "web01", "--lifetime", "persistent")
    fleet = [str(row["id"]) for row in site.rows("SELECT id FROM machines_machine WHERE name <> 'web01'")]
    staff = Staff(site.url, PASSWORD), Staff(site.url, PASSWORD)
    works: list[Callable[[], object]] = [
        lambda: staff[0].post(
            "/admin/machines/machine/rescue/enable/", ids=fleet[:300], lifetime="one-boot", reason="a test"
        ),
        lambda: staff[1].delete("/admin/machines/machine/", fleet[300:]),
        lambda: site.manage("prune_audit"),
    ]
    replies: list[Reply] = []
    with at_work(works) as working:
        while not all(work.done() for work in working) or len(replies) < 20:
            replies.append(site.get(BOOT))
            threading.Event().wait(0.02)
    assert_boots(replies)
    assert all("set rescuesite rescue" in reply.text for reply in replies)
    assert site.rows("SELECT count(*) AS rows FROM machines_machine") == [{"rows": 301}]
    assert site.rows("SELECT count(*) AS rows FROM machines_rescue") == [{"rows": 301}]
    assert site.rows("SELECT count(*) AS rows FROM machines_auditentry WHERE action = 'test'") == [{"rows": 0}]
