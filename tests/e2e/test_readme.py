"""The commands of README and docs/, as they stand there: tests/pages.py says which test runs which."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests import pages
from tests.e2e.conftest import MakeSite
from tests.e2e.site import ROOT, ask, free_port

pytestmark = pytest.mark.e2e

STAND_IN = ROOT / "tests" / "roms" / "stand_in"


# Each command is a process of its own.
@pytest.mark.timeout(900)
def test_every_command_at_a_terminal_does_what_it_says(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site({"RESCUESITE_IPXE_SOURCE": str(STAND_IN)}, start=False)
    site.shell("from django.contrib.auth.models import User; User.objects.create_superuser('admin')")
    (tmp_path / "machines").symlink_to(ROOT / "machines")
    (table,) = (block.text for block in pages.blocks() if block.language == "csv")
    (tmp_path / "machines.csv").write_text(table)
    # The furnished site has a machine of the first name; the others are not waited for, or not without end.
    changes = {"web01": "web77", "/srv/tftp": str(tmp_path / "tftp"), " --wait": "", " --watch": ""}
    (tmp_path / "tftp").mkdir()
    # Machines and images before what is done with them.
    lines = sorted(pages.lines_of(pages.TERMINAL), key=lambda line: not re.search(r" (image|machine) add ", line))
    assert len(lines) >= 17
    for line in lines:
        _, script, *arguments = shlex.split(re.sub("|".join(changes), lambda match: changes[match[0]], line))
        for option, argument in pairwise(arguments):
            if option in {"--kernel", "--initrd", "--file"}:
                path = tmp_path / argument.rpartition("=")[2]
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_bytes(b"content")
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *arguments], cwd=tmp_path, env=site.environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    assert site.rescue("web77")["state"] == "armed"
    assert site.rescue("web77")["image"] == "grml"
    assert "web02" in (tmp_path / "exported.csv").read_text()
    assert {"dhcp.ipxe", "MAC-0002b39d948e.ipxe"} <= {path.name for path in (tmp_path / "tftp").iterdir()}


def test_a_person_can_ask_as_a_card_does(make_site: MakeSite) -> None:
    site = make_site()
    (line,) = pages.lines_of(f"{pages.README_TEST}::test_a_person_can_ask_as_a_card_does")
    program, address = shlex.split(line.replace("http://192.0.2.10:8000", site.url))
    done = subprocess.run([program, "--silent", address], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("#!ipxe\n")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is nothing to clone: this is not a checkout")
def test_make_run_serves_from_a_fresh_clone_and_prints_a_password_that_logs_in(tmp_path: Path) -> None:
    assert "make run" in pages.lines_of(pages.MAKE_RUN)
    clone, port = tmp_path / "clone", free_port()
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(clone)], check=True)
    kept = ("PATH", "HOME", "PIP_", "SSL_", "REQUESTS_", "CURL_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    environment["RESCUESITE_BIND"] = f"127.0.0.1:{port}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _await(port, process, log)
        match = re.search(r"password: (\S+)", log.read_text())
        assert match, log.read_text()
        assert _log_in(port, match.group(1)), "the printed password does not log in"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            if ask(port, "/readyz", timeout=5).status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"make run does not serve:\n{log.read_text()}")


def _log_in(port: int, password: str) -> bool:
    browser, url = build_opener(HTTPCookieProcessor()), f"http://127.0.0.1:{port}/admin/login/?next=/admin/"
    page = browser.open(url).read().decode()
    match = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert match
    form = f"csrfmiddlewaretoken={match.group(1)}&username=admin&password={password}"
    return "Overview" in browser.open(url, form.encode()).read().decode()
