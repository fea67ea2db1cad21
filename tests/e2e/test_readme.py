"""README's commands, as they stand there."""

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

from tests.e2e.conftest import MakeSite
from tests.e2e.site import ROOT, ask, free_port

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text()


def blocks(command: str) -> list[str]:
    """The lines of README's shell examples that begin with `command`."""
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    return [line for line in shell.replace("\\\n", " ").splitlines() if line.startswith(command)]


def test_every_command_at_a_terminal_does_what_it_says(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(start=False)
    site.shell("from django.contrib.auth.models import User; User.objects.create_superuser('admin')")
    (tmp_path / "machines").symlink_to(ROOT / "machines")
    lines = [line.replace("--wait", "") for line in blocks(".venv/bin/python manage.py")]
    # Run by test_rescue_system.py, where what it builds is booted.
    lines.remove(".venv/bin/python manage.py build_rescue_image")
    # Need a worker and iPXE's source: test_rom_whole_way.py goes that way.
    lines = [line for line in lines if "build_rom" not in line and "flash_rom" not in line]
    assert len(lines) == 7
    # The furnished site has a machine of this name.
    for line in (line.replace("web01", "web77") for line in lines):
        _, script, *arguments = shlex.split(line)
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


def test_every_link_into_the_project_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert "docs/front-page.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is nothing to clone: this is not a checkout")
def test_make_run_serves_from_a_fresh_clone_and_prints_a_password_that_logs_in(tmp_path: Path) -> None:
    assert blocks("make run") == ["make run"]
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
    return "How things stand" in browser.open(url, form.encode()).read().decode()
