"""The site under gunicorn as `make run` starts it: slow downloads, floods, and a database that is not there."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, cluster
from tests.e2e.conftest import MakeSite
from tests.e2e.site import ROOT, Reply, Site, ask, free_port, percentile, token_in
from tests.e2e.vm import MAC

pytestmark = pytest.mark.e2e

BIG = 20_000_000
BOOT = f"/boot?mac={MAC}"
PASS_THROUGH = "echo No rescue mode requested, exiting"
NO_DATABASE = "The rescue site cannot read its database"
#: What the site may log while its database does not answer; never a traceback.
DATABASE_TROUBLE = r"without the database|was not recorded|Service Unavailable: /readyz"


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "kernel"
    path.write_bytes(os.urandom(BIG))
    return path


def serve_big_file(site: Site, big_file: Path) -> str:
    """Enable a rescue with a large kernel for web01; returns the kernel's path."""
    site.manage("image", "add", "big", "--kernel", str(big_file))
    site.manage("rescue", "enable", "web01", "--image", "big")
    return f"/boot/{token_in(site.get(BOOT).text)}/kernel"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Downloads


@contextmanager
def download(port: int, path: str) -> Iterator[socket.socket]:
    """A download under way, with a receive buffer so small that the server has to wait for its reader."""
    with closing(socket.socket()) as connection:
        connection.settimeout(60)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.connect(("127.0.0.1", port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode())
        yield connection


def read_slowly(port: int, path: str, seconds: float, abandoned: threading.Event) -> tuple[str, float]:
    """Read a large file evenly over `seconds`; returns its SHA-256, and how long it took."""
    started = time.monotonic()
    digest, received = hashlib.sha256(), 0
    with download(port, path) as connection, connection.makefile("rb") as stream:
        while stream.readline() not in {b"\r\n", b""}:
            pass
        while chunk := stream.read(min(1 << 16, BIG - received)):
            digest.update(chunk)
            received += len(chunk)
            abandoned.wait(max(0.0, started + seconds * received / BIG - time.monotonic()))
    return digest.hexdigest(), time.monotonic() - started


def test_boot_answers_stay_under_a_second_while_twenty_downloads_take_90_seconds_and_finish(
    site: Site, big_file: Path
) -> None:
    path = serve_big_file(site, big_file)
    abandoned = threading.Event()
    replies: dict[float, Reply] = {}
    with ThreadPoolExecutor(20) as pool:
        try:
            readers = [pool.submit(read_slowly, site.port, path, 90, abandoned) for _ in range(20)]
            started = time.monotonic()
            while not all(reader.done() for reader in readers):
                replies[time.monotonic() - started] = site.get(BOOT)
                abandoned.wait(0.2)
        finally:
            abandoned.set()
    finished = [reader.result() for reader in readers]
    assert {digest for digest, _ in finished} == {sha256(big_file)}
    assert min(seconds for _, seconds in finished) > 85
    assert len(replies) > 200
    assert {reply.status for reply in replies.values()} == {200}
    assert {at: reply.seconds for at, reply in replies.items() if reply.seconds >= 1} == {}


def test_clients_that_do_not_close_their_connection_do_not_delay_boot_answers(site: Site) -> None:
    """A machine that is switched off, or is slow to read the end of a file, leaves its connection half closed."""
    with ExitStack() as stack:
        for _ in range(20):
            idle = stack.enter_context(closing(socket.create_connection(("127.0.0.1", site.port), timeout=20)))
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert idle.recv(100).startswith(b"HTTP/1.1 200")
        assert max(site.get(BOOT).seconds for _ in range(20)) < 1


# Behind nginx


@contextmanager
def nginx(site: Site, folder: Path) -> Iterator[int]:
    """nginx in front of the site, configured by deploy/nginx.conf, with workers that are not root; yields its port."""
    folder.mkdir()
    port = free_port()
    config = folder / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder / kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder / 'pid'}; error_log {folder / 'error.log'};\n"
        f"{'user www-data;' if os.geteuid() == 0 else ''}\nevents {{}}\n"
        f"http {{ access_log off; {temporary}\n{deployed(site, port, folder)} }}\n"
    )
    process = subprocess.Popen(
        ["/usr/sbin/nginx", "-e", str(folder / "error.log"), "-c", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 20
        while True:
            with suppress(OSError):
                ask(port, "/healthz")
                break
            assert process.poll() is None
            assert time.monotonic() < until, (folder / "error.log").read_text()
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def deployed(site: Site, port: int, folder: Path) -> str:
    """deploy/nginx.conf for this site: other addresses, paths and certificate, and nothing else."""
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=rescue.example.net"]
    keys = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run([*certificate, *keys], check=True, stderr=subprocess.DEVNULL)
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for ours, theirs in {
        "listen 80 default_server;": f"listen 127.0.0.1:{port} default_server;",
        "listen [::]:80 default_server;": "",
        "listen 443 ssl;": f"listen 127.0.0.1:{free_port()} ssl;",
        "listen [::]:443 ssl;": "",
        "unix:/run/rescuesite/site.sock": f"127.0.0.1:{site.port}",
        "/var/lib/rescuesite/": f"{site.data_dir}/",
        "/etc/ssl/rescuesite/": f"{folder}/",
    }.items():
        assert ours in text
        text = text.replace(ours, theirs)
    return text


BEHIND = {"RESCUESITE_ACCEL_PREFIX": "/rescue-files/", "RESCUESITE_TRUSTED_PROXIES": "127.0.0.1"}


@pytest.fixture
def behind(furnished: Path, tmp_path: Path) -> Iterator[tuple[Site, int]]:
    """A site behind nginx, whose user is in the site's group; and nginx's port."""
    # pytest's own folders are closed to nginx's user.
    with tempfile.TemporaryDirectory(prefix="rescuesite-nginx-", dir="/tmp") as base:
        Path(base).chmod(0o755)
        data_dir = Path(base) / "data"
        shutil.copytree(furnished, data_dir)
        if os.geteuid() == 0:
            for path in [data_dir, data_dir / "tmp", *data_dir.glob("files/**/")]:
                shutil.chown(path, group="www-data")
                path.chmod(path.stat().st_mode | stat.S_ISGID)
        with Site(data_dir, BEHIND) as site:
            site.start()
            with nginx(site, tmp_path / "nginx") as port:
                yield site, port
        site.check_log()


def test_nginx_sends_the_files_that_the_site_hands_over(behind: tuple[Site, int], big_file: Path) -> None:
    site, port = behind
    path = serve_big_file(site, big_file)
    reply = ask(port, path)
    assert hashlib.sha256(reply.body).hexdigest() == sha256(big_file)
    assert reply.headers["Content-Length"] == str(BIG)
    # It was nginx that sent it, not the site.
    assert site.get(path).body == b""


def test_nginx_sends_a_part_of_a_file(behind: tuple[Site, int], big_file: Path) -> None:
    site, port = behind
    reply = ask(port, serve_big_file(site, big_file), Range="bytes=1000000-1000099")
    assert (reply.status, reply.headers["Content-Range"]) == (206, f"bytes 1000000-1000099/{BIG}")
    assert reply.body == big_file.read_bytes()[1_000_000:1_000_100]


def test_nginx_answers_a_card_that_asks_by_address(behind: tuple[Site, int]) -> None:
    _, port = behind
    assert ask(port, f"/boot?mac={MAC}", Host="192.0.2.10").text.startswith("#!ipxe\nset rescuesite local\n")
    assert ask(port, f"//boot?mac={MAC}").text.startswith("#!ipxe\n")


def test_nobody_gets_a_file_from_nginx_without_the_site(behind: tuple[Site, int], big_file: Path) -> None:
    site, port = behind
    digest = sha256(big_file)
    serve_big_file(site, big_file)
    assert ask(port, f"/rescue-files/{digest[:2]}/{digest}").status == 404


def test_behind_nginx_the_address_rule_is_about_the_client(behind: tuple[Site, int]) -> None:
    site, port = behind
    site.manage("machine", "add", "web02", "--mac", "52:54:00:00:00:02", "--network", "127.0.0.2")
    site.manage("rescue", "enable", "web02")
    told = {}
    for client in ("127.0.0.2", "127.0.0.3"):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(client, 0))) as nic:
            # What the client claims to have been forwarded for stands to the left of what nginx saw.
            nic.request("GET", "/boot?mac=52:54:00:00:00:02", headers={"X-Forwarded-For": "127.0.0.2"})
            told[client] = re.findall(r"set rescuesite (\w+)", nic.getresponse().read().decode())
    assert told == {"127.0.0.2": ["rescue"], "127.0.0.3": ["refused"]}


@pytest.mark.parametrize(
    ("path", "answers"),
    [
        ("/admin/login/", "nginx"),
        ("/admin/machines/machine/add/", "nginx"),
        ("/api/machines/", "nginx"),
        ("/admin/machines/rescueimage/add/", "site"),
        ("/admin/machines/rescueimage/7/change/", "site"),
        ("/api/images/", "site"),
        ("/api/images/debian/", "site"),
    ],
)
def test_nginx_passes_on_much_only_where_images_are_uploaded(
    behind: tuple[Site, int], tmp_path: Path, path: str, answers: str
) -> None:
    """Without waiting for the body: the site says at once that it does not know who asks."""
    port = re.findall(r"127.0.0.1:(\d+) ssl", (tmp_path / "nginx" / "nginx.conf").read_text())[0]
    context = ssl._create_unverified_context()
    with closing(http.client.HTTPSConnection("127.0.0.1", int(port), timeout=20, context=context)) as staff:
        staff.putrequest("POST", path)
        staff.putheader("Content-Length", str(3 << 30))
        staff.endheaders()
        response = staff.getresponse()
        said = response.read().decode()
    assert (response.status, "site" if "Log in first" in said else "nginx") == (413, answers)


# A database that does not answer


@pytest.fixture
def on_postgres(make_site: MakeSite) -> Iterator[tuple[Site, Cluster]]:
    """A running site on a PostgreSQL of its own, with web01 armed."""
    with cluster() as server:
        site = make_site({"DATABASE_URL": server.url}, start=False)
        site.manage("migrate", "--verbosity", "0")
        kernel = site.data_dir.with_name("kernel")
        kernel.write_bytes(b"kernel")
        site.manage("image", "add", "tiny", "--kernel", str(kernel), "--default")
        site.manage("machine", "add", "web01", "--mac", MAC, "--network", "127.0.0.1")
        site.manage("rescue", "enable", "web01")
        site.start()
        for _ in range(20):
            assert "set rescuesite rescue" in site.get(BOOT).text
        site.expect_in_log(DATABASE_TROUBLE)
        yield site, server


def assert_booted_without_database(site: Site) -> None:
    """One request, and then thirty at once, get a pass-through within two seconds each."""
    with ThreadPoolExecutor(30) as pool:
        first = site.get(BOOT)
        replies = [first, *pool.map(lambda _: site.get(BOOT), range(30))]
    for reply in replies:
        assert reply.status == 200
        assert reply.text.startswith("#!ipxe\nset rescuesite local")
        assert PASS_THROUGH in reply.text
        assert NO_DATABASE in reply.text
    assert max(reply.seconds for reply in replies) < 2


def assert_recovers(site: Site, timeout: float = 30) -> None:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if site.get("/readyz").status == 200 and "set rescuesite rescue" in site.get(BOOT).text:
            return
    raise AssertionError(f"no recovery within {timeout} s:\n{site.log}")


def test_a_frozen_postgresql_delays_a_pass_through_by_two_seconds_at_most(on_postgres: tuple[Site, Cluster]) -> None:
    site, server = on_postgres
    server.freeze()
    assert_booted_without_database(site)
    assert (site.get("/readyz").status, site.get("/healthz").status) == (503, 200)
    server.thaw()
    assert_recovers(site)


def test_a_stopped_postgresql_delays_a_pass_through_by_two_seconds_at_most(on_postgres: tuple[Site, Cluster]) -> None:
    site, server = on_postgres
    server.stop()
    assert_booted_without_database(site)
    assert (site.get("/readyz").status, site.get("/healthz").status) == (503, 200)
    server.start()
    assert_recovers(site)


def test_a_site_that_starts_before_its_postgresql_answers_and_then_recovers(on_postgres: tuple[Site, Cluster]) -> None:
    site, server = on_postgres
    site.stop()
    server.stop()
    site.launch()
    until = time.monotonic() + 30
    while True:
        with suppress(OSError):
            site.get("/healthz")
            break
        assert time.monotonic() < until, site.log
    assert_booted_without_database(site)
    server.start()
    assert_recovers(site)


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Another process holds the database's write lock."""
    with closing(sqlite3.connect(site.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_locked_sqlite_delays_a_pass_through_by_two_seconds_at_most(site: Site) -> None:
    site.manage("rescue", "enable", "web01")
    site.expect_in_log(DATABASE_TROUBLE)
    # Long enough for Python to collect the garbage of failed statements, which may need a connection's lock.
    with locked(site):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            assert_booted_without_database(site)
    assert_recovers(site)


# Strangers


def ask_as_strangers(port: int, first: int, count: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for n in range(first, first + count):
            mac = (0x020000000000 + n).to_bytes(6, "big").hex()
            connection.request("GET", f"/boot?mac={mac}&serial={n}&product={'x' * 300}")
            response = connection.getresponse()
            assert PASS_THROUGH.encode() in response.read()


def test_a_flood_of_unknown_cards_neither_fills_the_database_nor_delays_known_machines(site: Site) -> None:
    known = []
    with ThreadPoolExecutor(8) as pool:
        floods = [pool.submit(ask_as_strangers, site.port, n * 375, 375) for n in range(8)]
        while not all(flood.done() for flood in floods):
            known.append(site.get(BOOT).seconds)
    for flood in floods:
        flood.result()
    # All inside the two seconds of the contract, nearly all far inside: SQLite's one write lock is not fair.
    assert percentile(known, 0.95) < 0.5
    assert max(known) < 2
    [sightings] = site.rows("SELECT count(*) AS rows, max(length(said)) AS longest FROM machines_sighting")
    assert sightings["rows"] <= 500
    assert sightings["longest"] < 2000
    [strangers] = site.rows("SELECT count(*) AS rows FROM machines_auditentry WHERE reason = 'unknown_mac'")
    # One row a minute.
    assert 1 <= strangers["rows"] <= 3


# Processes that die


def worker_serving(site: Site, connection: socket.socket) -> int:
    """The process id of the worker at the other end of a connection."""
    local, remote = (f":{end[1]:04X}" for end in (connection.getsockname(), connection.getpeername()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {line[9] for line in lines if line[1].endswith(remote) and line[2].endswith(local)}
    for pid in site.workers():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()) in {f"socket:[{inode}]" for inode in inodes}:
                    return pid
    raise AssertionError("no worker has it")


def test_the_site_goes_on_after_a_worker_was_killed_in_the_middle_of_a_request(site: Site, big_file: Path) -> None:
    path = serve_big_file(site, big_file)
    site.expect_in_log("was sent SIGKILL")
    with download(site.port, path) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        killed = worker_serving(site, connection)
        os.kill(killed, signal.SIGKILL)
        assert [site.get(BOOT).status for _ in range(20)] == [200] * 20
    until = time.monotonic() + 20
    while killed in (workers := site.workers()) or len(workers) < 2:
        assert time.monotonic() < until, site.log
    assert hashlib.sha256(site.get(path).body).hexdigest() == sha256(big_file)
