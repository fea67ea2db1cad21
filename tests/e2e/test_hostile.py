"""Hostile input through gunicorn's socket: whatever is sent, the answer is a valid script, and little is kept of it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.conftest import MakeSite
from tests.e2e.site import Site, token_in
from tests.e2e.vm import MAC

pytestmark = pytest.mark.e2e

MAX_REQUEST_LINE = 4094
OTHER_MAC = "52:54:00:00:00:09"
thorough = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What a valid script looks like

_LEAVE = ["iseq ${platform} efi && exit 1 ||", "exit 0"]
_FETCH = r"(?:kernel|initrd|imgfetch) --name ([A-Za-z0-9._-]+) --timeout 10000 /boot/[A-Za-z0-9_-]{20,64}/\1"
#: The lines of a script, but for those that hold data.
_LINE = re.compile(
    rf"{_FETCH} (?:&& goto got-\1 \|\||\|\| goto failed)|:failed|:got-[A-Za-z0-9._-]+|sleep [13]|imgfree|imgfree ready|"
    r"boot kernel \|\| goto failed|imgexec script\.ipxe \|\| goto failed"
)
_DATA = re.compile(r"echo [^ ].*|imgargs kernel .*BOOTIF=01(?:-[0-9a-f]{2}){6}(?: initrd=[A-Za-z0-9._-]+)+")


def is_valid(script: str) -> bool:
    """Whether iPXE would do nothing with the script but what the site means to say."""
    match = re.match(r"#!ipxe\nset rescuesite (local|refused|rescue)(?: \|\|)?\n", script)
    if not match or not script.endswith("\n".join(["", *_LEAVE, ""])):
        return False
    lines = script[match.end() :].removesuffix("\n".join([*_LEAVE, ""])).split("\n")[:-1]
    if match.group(1) != "rescue":
        return len(lines) <= 3 and all(re.fullmatch(r"echo [A-Za-z ,:_]+", line) for line in lines)
    return all(_LINE.fullmatch(line) or (_DATA.fullmatch(line) and is_harmless(line)) for line in lines)


def is_harmless(line: str) -> bool:
    """Whether iPXE takes all of the line for one command's words."""
    words = line.split()
    separate = {"||", "&&", ";"}.intersection(words) or any(word.startswith("#") for word in words)
    return line.isprintable() and "${" not in line and not line.endswith("\\") and not separate


def test_the_validator_of_these_tests_knows_bad_scripts_from_good_ones(site: Site) -> None:
    site.manage("rescue", "enable", "web01")
    good = site.get(f"/boot?mac={MAC}").text
    assert is_valid(good)
    for bad in (
        "",
        good.replace("#!ipxe", "#!ipxe ", 1),
        good.replace("console=ttyS0", "console=ttyS0 || shell"),
        good.replace("console=ttyS0", "${net0/mac}"),
        good.replace("imgfree ready", "shell"),
        good.replace("web01", "web01 ; shell"),
        good.replace("web01", "web01\nshell"),
        good.removesuffix("\n"),
    ):
        assert not is_valid(bad), bad


# Talking to the socket


def exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send one request as it is; returns status, headers and body."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            headers = {}
            while line := stream.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            return status, headers, stream.read()


def ask_raw(port: int, query: bytes, host: bytes = b"192.0.2.10", agent: bytes = b"iPXE/1.21.1") -> str:
    """Ask for a boot script; checks what the contract promises of every answer, and returns the script."""
    head = b"Host: " + host + b"\r\nUser-Agent: " + agent + b"\r\nConnection: close\r\n\r\n"
    status, headers, body = exchange(port, b"GET /boot?" + query + b" HTTP/1.1\r\n" + head)
    assert status == 200, body
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert int(headers["content-length"]) == len(body)
    assert not {"retry-after", "location", "content-encoding", "set-cookie"} & headers.keys()
    script = body.decode()
    assert is_valid(script), script
    return script


@pytest.fixture(scope="module")
def target(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site for all property tests of this module; its log must stay clean, and its database small."""
    data_dir = tmp_path_factory.mktemp("hostile") / "site"
    shutil.copytree(furnished, data_dir)
    with Site(data_dir) as site:
        site.manage(
            "machine", "add", "web09", "--mac", OTHER_MAC, "--identity", "serial=SN ${9}", "--identity", "asset=#"
        )
        site.manage("rescue", "enable", "web09")
        site.start()
        yield site
    site.check_log()


def assert_little_is_kept(site: Site) -> None:
    """Nothing that a stranger sends is stored unbounded."""
    for table, column, longest, most in (
        ("auditentry", "details", 10_000, 600),
        ("sighting", "said", 10_000, 500),
        ("lastcontact", "said", 10_000, 2),
    ):
        rows = site.rows(f"SELECT * FROM machines_{table}")
        assert len(rows) <= most, table
        for row in rows:
            assert len(json.dumps(json.loads(row.pop(column)), ensure_ascii=False)) <= longest, table
            assert all(len(value) <= 500 for value in row.values() if isinstance(value, str)), row
            assert all(value.isprintable() for value in row.values() if isinstance(value, str)), row


# What is hardly HTTP


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /boot?mac=\xe4\xff HTTP/1.1",
        b"GET /boot?product=Server 9 HTTP/1.1",
        b"GET /boot?a=\x01\x7f HTTP/1.1",
        b"GET",
    ],
)
@pytest.mark.parametrize("headers", [b"Host: x\r\nHost: y\r\n", b"H\xc3\xa4: x\r\n", b"Host: x\r\n"])
def test_what_cannot_be_read_as_http_is_told_to_boot_its_disk(
    target: Site, request_line: bytes, headers: bytes
) -> None:
    status, _, body = exchange(target.port, request_line + b"\r\n" + headers + b"\r\n")
    assert status == 200
    assert is_valid(body.decode())


# Queries

#: Any byte may stand in a request line but those that end it or its parts.
raw_bytes = st.lists(st.integers(0x21, 0xFF).filter(lambda n: n != 0x7F), max_size=300).map(bytes)
tricks = st.sampled_from(
    [
        b"${",
        b"||",
        b"&&",
        b";",
        b"%0a",
        b"%0D%0Ashell",
        b"%00",
        b"%ff%fe",
        b"%c0%80",
        b"%",
        b"%%",
        b"%u0041",
        b"%2500",
        b"#",
        b"\\",
        b"%5c",
        b"%E2%80%A8",
        b"%ED%A0%80",
        b"%F4%90%80%80",
        b"+",
        b"%20%7C%7C%20shell",
        b"&",
        b"=",
        b"a" * 900,
    ]
)
names = st.sampled_from(
    [b"mac", b"ip", b"uuid", b"serial", b"hostname", b"platform", b"buildarch", b"mac%00", b"", b"x" * 99]
)
macs = st.sampled_from([MAC, OTHER_MAC, "5254.0012.3456", "52-54-00-12-34-56", "0" * 4000, "zz"]).map(str.encode)
values = st.lists(
    raw_bytes | tricks | macs | st.binary(max_size=60).map(lambda b: quote_from_bytes(b).encode()), max_size=6
)
pairs = st.tuples(names | raw_bytes, values.map(b"".join)).map(b"=".join)
queries = st.lists(pairs, max_size=40).map(b"&".join)


def fitted(query: bytes) -> bytes:
    """The query, cut to what a request line has room for."""
    return query[: MAX_REQUEST_LINE - len(b"GET /boot? HTTP/1.1\r\n")]


@thorough
@given(query=queries)
def test_every_query_is_answered_with_a_valid_script(target: Site, query: bytes) -> None:
    ask_raw(target.port, fitted(query))


@thorough
@given(query=queries, mac=macs)
def test_every_query_of_a_known_machine_is_answered_with_a_valid_script(target: Site, query: bytes, mac: bytes) -> None:
    ask_raw(target.port, fitted(b"mac=" + mac + b"&" + query))


@thorough
@given(
    host=st.lists(st.integers(0x20, 0xFF).filter(lambda n: n != 0x7F), max_size=300).map(bytes) | tricks,
    agent=st.lists(st.integers(0x20, 0xFF).filter(lambda n: n != 0x7F), max_size=2000).map(bytes) | tricks,
)
def test_every_host_and_user_agent_is_answered_with_a_valid_script(target: Site, host: bytes, agent: bytes) -> None:
    ask_raw(target.port, b"mac=" + MAC.encode(), host, agent)


@pytest.mark.parametrize("filler", [b"a", b"&", b"=", b"%", b"%41", b"${x}", b"\xff", b"a=b&", b"mac=1&"])
def test_a_request_line_of_4094_bytes_is_answered(target: Site, filler: bytes) -> None:
    query = fitted(b"mac=" + MAC.encode() + b"&" + filler * 4096)
    assert len(b"GET /boot?" + query + b" HTTP/1.1\r\n") == MAX_REQUEST_LINE
    assert "No rescue mode requested" in ask_raw(target.port, query) or filler == b"mac=1&"


def test_of_hostile_queries_little_is_kept(site: Site) -> None:
    words = [b"%F0%9F%92%A3", b"%ff", b"%01", b"x", b"%22", b"%5C"]
    for n, word in enumerate(words * 4):
        pairs = [b"%d%s=%s" % (n + i, word * 20, word * 60) for i in range(200)]
        for mac in (MAC.encode(), b"02:00:00:00:00:%02x" % n, word * 40):
            ask_raw(
                site.port, fitted(b"mac=" + mac + b"&serial=" + word * 200 + b"&uuid=" + word * 200), agent=word * 300
            )
            ask_raw(site.port, fitted(b"mac=" + mac + b"&" + b"&".join(pairs)))
    assert_little_is_kept(site)


# Rendered scripts

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
nasty = st.lists(
    texts
    | st.sampled_from(
        ["${", "}", "\n", "\r", "\\", " || ", " && ", " ; ", " #", "\0", "\u2028", "\x1b[2J", "shell", "'"]
    ),
    max_size=8,
).map("".join)


@thorough
@given(command_line=nasty, name=nasty)
def test_no_text_in_the_database_makes_a_script_that_is_not_valid(armed: Site, command_line: str, name: str) -> None:
    """Past every form and its checks: even so the machine boots, into the rescue or from its disk."""
    with closing(sqlite3.connect(armed.database, timeout=10)) as database, database:
        database.execute("UPDATE machines_rescue SET command_line = ? WHERE state <> 'ended'", [command_line])
        database.execute("UPDATE machines_machine SET name = ?", [name])
    ask_raw(armed.port, b"mac=" + MAC.encode())


@pytest.fixture
def armed(make_site: MakeSite) -> Site:
    site = make_site()
    site.manage("rescue", "enable", "web01", "--lifetime", "persistent")
    site.expect_in_log("handler: rescue of ")
    return site


def cpio(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """The members of a newc archive: path -> mode, contents."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        start = at + (110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        at = start + (size + 3) // 4 * 4


@pytest.mark.parametrize(
    "reason", ["$(reboot) `id` ; shell", "a\nb\r\nc", "\x1b[2J\x07", "${net0/mac} || shell", "x" * 500, "TRAILER!!!"]
)
def test_a_hostile_reason_stays_one_line_of_one_file(site: Site, reason: str) -> None:
    site.manage("rescue", "enable", "web01")
    # Past the checks of every form and command.
    with closing(sqlite3.connect(site.database, timeout=10)) as database, database:
        database.execute("UPDATE machines_rescue SET reason = ?", [reason])
    script = ask_raw(site.port, b"mac=" + MAC.encode())
    assert reason not in script
    members = cpio(site.get(f"/boot/{token_in(script)}/rescue.cpio").body)
    settings_files = {"machine", "image", "reason", "enabled_by", "enabled_at", "lifetime", "expires_at", "report_url"}
    assert {path.rpartition("/")[2] for path in members if path.startswith("etc/rescuesite/")} == settings_files
    kept = members["etc/rescuesite/reason"][1].decode()
    assert kept.endswith("\n")
    assert kept[:-1].isprintable()


# Reports

TYPES = st.sampled_from(
    [
        "application/json",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "text/plain",
        "",
        "x",
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencoded; charset=idna",
        "multipart/form-data; boundary=\xff",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["address", "hostname", "boot_id", "host_keys"]
reports = st.dictionaries(st.sampled_from(FIELDS), json_values)
parts = st.binary(max_size=200).map(
    lambda b: b'--b\r\nContent-Disposition: form-data; name="boot_id"\r\n\r\n' + b + b"\r\n--b--\r\n"
)
bodies = (
    reports.map(lambda report: json.dumps(report).encode())
    | st.binary(max_size=500)
    | st.lists(st.tuples(st.sampled_from(FIELDS), st.binary(max_size=300).map(quote_from_bytes)), max_size=9).map(
        lambda pairs: "&".join("=".join(pair) for pair in pairs).encode()
    )
    | parts
    | st.sampled_from(
        [b"[" * 60_000, b'{"boot_id":' * 5000, b"9" * 60_000, b"a=b&" * 16_000, b"&" * 65_536, b'{"a":NaN}']
    )
)


def post_up(site: Site, token: str, body: bytes, content_type: str = "application/json") -> int:
    head = f"POST /boot/{token}/up HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return exchange(site.port, (head + kind + "\r\n").encode("latin-1") + body)[0]


def boot_to_ready(site: Site) -> str:
    """Ask for the script as the machine would and fetch `ready`; returns the token."""
    token = token_in(ask_raw(site.port, b"mac=" + MAC.encode()))
    assert site.get(f"/boot/{token}/ready").status == 200
    return token


@thorough
@given(body=bodies, content_type=TYPES)
def test_every_report_is_answered_and_little_is_kept_of_it(armed: Site, body: bytes, content_type: str) -> None:
    status = post_up(armed, boot_to_ready(armed), body, content_type)
    assert status in {200, 400, 409, 413}
    [rescue] = armed.rows("SELECT * FROM machines_rescue WHERE state <> 'ended'")
    assert rescue["state"] == ("up" if status == 200 else "booting")
    assert len(rescue["hostname"]) <= 253
    assert len(rescue["boot_id"]) <= 64
    assert (rescue["hostname"] + rescue["boot_id"]).isprintable()
    assert len(rescue["host_keys"]) < 8 * 2000


@pytest.mark.parametrize("length", ["65537", "99999999999999999999", "1e3"])
def test_a_report_that_says_it_is_huge_is_refused_before_it_is_read(armed: Site, length: str) -> None:
    token = boot_to_ready(armed)
    head = f"POST /boot/{token}/up HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    assert exchange(armed.port, head.encode())[0] in {400, 413}


def test_a_report_with_bogus_host_keys_keeps_only_the_real_one(armed: Site) -> None:
    real = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBgpRzGy3PmIlAPBu0zy1RkqmzwzlwqdtnBDCsQMnnCI"
    bogus = [
        "ssh-ed25519 AAAA",
        f'command="reboot" {real}',
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "x" * 10_000,
        "\x1b[2J",
        "",
    ]
    body = json.dumps({"boot_id": "1", "host_keys": [*bogus, f"{real} root@rescue <script>", 7, None, ["x"]]}).encode()
    assert post_up(armed, boot_to_ready(armed), body) == 200
    assert armed.rescue()["host_keys"] == [real]


def test_a_report_that_breaks_off_does_no_harm(armed: Site) -> None:
    token = boot_to_ready(armed)
    with closing(socket.create_connection(("127.0.0.1", armed.port), timeout=20)) as connection:
        head = f"POST /boot/{token}/up HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        connection.sendall(head.encode() + b'{"boot_id": "1"}')
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)
    assert armed.rescue()["state"] in {"booting", "up"}


# Other addresses


@thorough
@given(path=st.lists(st.integers(0x21, 0x7E).filter(lambda n: n != ord("?")), max_size=300).map(bytes))
def test_no_path_below_boot_fails_or_tells_tokens_apart(target: Site, path: bytes) -> None:
    head = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    status, _, body = exchange(target.port, b"GET /boot/x" + path.replace(b"#", b"") + head)
    assert (status, body) == (404, b"Not found.\n")
