"""Serving processes: no client ends them or makes them wait, and a reload or a stop leaves nobody without an answer."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeSite
from tests.e2e.site import Site
from tests.e2e.test_gunicorn import big_file, download, serve_big_file
from tests.e2e.test_isolation import BOOT, CONTRACT, assert_boots, connect, opened, twenty_boots

__all__ = ["big_file"]

pytestmark = pytest.mark.e2e

LOGIN = b"GET /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def wait_until(holds: Callable[[], bool], seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to hold"
        time.sleep(0.05)


def answers(site: Site) -> bool:
    try:
        return site.get("/healthz", timeout=5).status == 200
    except OSError:
        return False


def staff_processes(site: Site) -> list[int]:
    """They run with a lower priority than those that answer machines."""
    return [pid for pid in site.workers() if os.getpriority(os.PRIO_PROCESS, pid) == 5]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_connection_that_makes_place_just_as_it_speaks_ends_no_process(make_site: MakeSite) -> None:
    site = make_site({"RESCUESITE_PROCESSES": "1"})
    workers = site.workers()
    with opened(site, 700, b"") as waiting, ExitStack() as stack:
        # Beyond the grace in which a hall may connect at once.
        time.sleep(1.5)
        for turn in range(12):
            for _ in range(8):
                new = stack.enter_context(closing(socket.socket()))
                new.settimeout(0)
                with suppress(BlockingIOError):
                    new.connect(("127.0.0.1", site.port))
            for connection in waiting[turn * 8 : turn * 8 + 40]:
                with suppress(OSError):
                    connection.send(b"G")
        assert_boots(twenty_boots(site))
    assert site.workers() == workers


def test_the_event_loop_waits_for_no_client_that_does_not_read(make_site: MakeSite) -> None:
    site = make_site({"RESCUESITE_PROCESSES": "1"})
    asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    expects = b"POST /boot/x/up HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
    with ExitStack() as stack:
        # What fills the buffers differs: somewhere among these is the length that leaves no room for the last answer.
        for count in range(20, 400, 20):
            for last in (b"X" * 17_000, expects):
                stack.enter_context(closing(connect(site, asked * count + last, buffer=1)))
        assert_boots(twenty_boots(site))


@pytest.mark.parametrize("size", [1_000, 49_000, 60_000, 65_000])
def test_a_small_body_of_any_size_reaches_the_process_of_staff(running: Site, size: int) -> None:
    body = b"username=" + b"x" * (size - 9)
    reply = running.get("/admin/login/", method="POST", body=body)
    # Without a CSRF cookie.
    assert reply.status == 403


@pytest.fixture(scope="module")
def running(furnished_copy: MakeSite) -> Site:
    return furnished_copy("running")


def test_the_dhcp_script_and_boot_answers_wait_for_no_download(make_site: MakeSite, big_file: Path) -> None:
    site = make_site({"RESCUESITE_PROCESSES": "1", "RESCUESITE_THREADS": "8"})
    path = serve_big_file(site, big_file)
    asked = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    nonsense = b"GET /boot/" + b"n" * 32 + b"/kernel HTTP/1.1\r\nHost: x\r\n\r\n"
    with opened(site, 8, asked) as downloads:
        assert {connection.recv(1) for connection in downloads} == {b"H"}
        with opened(site, 300, nonsense) as waiting:
            # The last ones find no room, and are told so.
            assert waiting[-1].recv(100).startswith(b"HTTP/1.1 503 ")
            assert site.get("/boot/dhcp.ipxe").text.startswith("#!ipxe")
            assert_boots(twenty_boots(site))


def test_a_reload_ends_no_process_before_its_successor_answers(make_site: MakeSite) -> None:
    site = make_site()
    former = set(site.workers())
    assert site._process
    os.kill(site._process.pid, signal.SIGHUP)
    replies = []

    def replaced() -> bool:
        replies.append(site.get(BOOT))
        return not former & set(site.workers())

    wait_until(replaced)
    assert_boots(replies)
    assert len(site.workers()) == len(former)


def test_a_site_that_stops_during_a_download_refuses_connections_at_once(make_site: MakeSite, big_file: Path) -> None:
    site = make_site()
    path = serve_big_file(site, big_file)
    with download(site.port, path) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert site._process
        site._process.terminate()
        began = time.monotonic()
        refused = False
        while not refused and time.monotonic() - began < 10:
            try:
                site.get(BOOT, timeout=5)
            except ConnectionRefusedError:
                refused = True
            except (OSError, EOFError):
                # It had connected just before.
                continue
        assert refused
        # The download goes on.
        assert connection.recv(1000)


def test_a_site_whose_master_was_killed_can_be_started_again_at_once(make_site: MakeSite, big_file: Path) -> None:
    site = make_site()
    path = serve_big_file(site, big_file)
    orphans = site.workers()
    with download(site.port, path) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert site._process
        os.kill(site._process.pid, signal.SIGKILL)
        site._process.wait()
        site._process = None
        try:
            wait_until(lambda: not answers(site))
            site.start()
            assert_boots(twenty_boots(site))
        finally:
            for pid in orphans:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_proxy_asks_staffs_process_for_one_thing_per_connection(make_site: MakeSite) -> None:
    """Or what it asks for next, a boot answer maybe, would wait for staff."""
    site = make_site({"RESCUESITE_TRUSTED_PROXIES": "127.0.0.1"})
    with closing(connect(site, LOGIN)) as connection:
        head = connection.makefile("rb").read().partition(b"\r\n\r\n")[0].lower()
    assert b"connection: close" in head


def test_a_page_of_staff_is_no_boot_request_whatever_its_path_holds(running: Site) -> None:
    with stopped(staff_processes(running)):
        for path in (b"/admin/x://y/boot", b"/api/machines/x://y/boot/"):
            asked = b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            with closing(connect(running, asked)) as connection:
                connection.settimeout(CONTRACT)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
    assert running.get("/admin/login/").status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /boot?mac=x HTTP/1.1\nHost: x\n\n",
        b"GET /boot?mac=x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 900\r\n\r\n",
    ],
    ids=["TLS", "line feeds", "two lengths"],
)
def test_what_never_becomes_a_request_is_told_to_boot_the_disk(make_site: MakeSite, sent: bytes) -> None:
    site = make_site({"RESCUESITE_REQUEST_TIMEOUT": "1"})
    with closing(connect(site, sent)) as connection:
        assert b"\r\n\r\n#!ipxe\n" in connection.makefile("rb").read()
