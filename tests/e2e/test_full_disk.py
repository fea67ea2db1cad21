"""A disk that strangers and staff fill: what they may not send is not taken, and an armed machine is rescued."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.e2e.site import Site, token_in
from tests.e2e.vm import MAC

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")]

BOOT = f"/boot?mac={MAC}"
SIZE = 320 << 20
#: Long, or random contents hold it now and then: it ends a part wherever it stands.
BOUNDARY = "boundary-of-a-form-that-no-random-bytes-hold"


@pytest.fixture
def site(furnished: Path, tmp_path: Path) -> Iterator[Site]:
    """A furnished site whose data directory is a file system of its own, a small one; web01 is armed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "rescuesite-test", disk], check=True)
    try:
        shutil.copytree(furnished, disk / "data")
        with Site(disk / "data") as site:
            site.manage("rescue", "enable", "web01")
            site.token = site.manage("token", "add", "alice", "uploads", "--json")["token"]  # type: ignore[attr-defined]
            site.start()
            yield site
        site.check_log()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def free(site: Site) -> int:
    return shutil.disk_usage(site.data_dir).free


def fill(site: Site, left: int) -> None:
    """Let something else take all but `left` bytes of the disk."""
    with (site.data_dir / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(site) - left)


def form(name: str, contents: int) -> bytes:
    """A form with a file that is like no other."""
    fields = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="name"\r\n\r\n{name}\r\n'
    head = f'{fields}--{BOUNDARY}\r\nContent-Disposition: form-data; name="kernel"; filename="k"\r\n\r\n'
    return head.encode() + os.urandom(contents) + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(site: Site, path: str, body: bytes, **headers: str) -> int:
    """The status that a body gets; also where the site hangs up before it has all of it."""
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)) as connection:
        connection.putrequest("POST", path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.send(body)
        return connection.getresponse().status


def upload(site: Site, name: str, contents: int) -> int:
    return send(site, "/api/images/", form(name, contents), Authorization=f"Token {site.token}")  # type: ignore[attr-defined]


def test_strangers_put_nothing_on_the_disk(site: Site) -> None:
    before, body = free(site), form("x", 20 << 20)
    told = {send(site, "/admin/login/", body, Cookie=f"csrftoken={'x' * 32}") for _ in range(8)}
    assert told == {413}
    assert before - free(site) < 2 << 20


def test_a_machine_is_rescued_while_the_disk_is_too_full_for_uploads(site: Site) -> None:
    assert upload(site, "small", 1 << 20) == 201
    # A fifth stays free.
    fill(site, SIZE // 5 + (8 << 20))
    site.expect_in_log("Insufficient Storage")
    assert [upload(site, f"image{n}", 6 << 20) for n in range(3)] == [507] * 3
    assert [upload(site, f"tiny{n}", 1 << 20) for n in range(12)].count(400) >= 2
    assert free(site) > SIZE // 6
    script = site.get(BOOT).text
    assert "set rescuesite rescue" in script
    assert site.get(f"/boot/{token_in(script)}/kernel").status == 200
    assert site.get(f"/boot/{token_in(script)}/ready").status == 200
