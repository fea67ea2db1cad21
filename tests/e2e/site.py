"""A site of its own, served by gunicorn as `make run` serves it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: What a log holds when something went wrong that nobody expected.
_TROUBLE = re.compile(r"Traceback|\bERROR\b|\bCRITICAL\b|Exception|Error:")


@dataclass(frozen=True)
class Reply:
    """What the site answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode()


class Site:
    """One data directory and the gunicorn that serves it. Use as context manager; it is started by `start`."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = ("RESCUESITE_", "DATABASE_URL", "DJANGO_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(own)} | {
            "RESCUESITE_DATA_DIR": str(data_dir),
            "RESCUESITE_BIND": f"127.0.0.1:{self.port}",
            "RESCUESITE_ADMIN_PASSWORD": "e2e-password",
            "DJANGO_SETTINGS_MODULE": "rescuesite.settings",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._log = data_dir.with_name(f"{data_dir.name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._expected: list[str] = []

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # Running

    def start(self, timeout: float = 60) -> None:
        """Start gunicorn, and return once it is ready."""
        self.launch()
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            assert self._process
            assert self._process.poll() is None, f"gunicorn ended at once:\n{self.log}"
            with contextlib.suppress(OSError):
                if self.get("/readyz", timeout=5).status == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(f"the site is not ready after {timeout} s:\n{self.log}")

    def launch(self) -> None:
        """Start gunicorn without waiting for it."""
        assert self._process is None, "it runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "rescuesite" / "gunicorn_conf.py")],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, timeout: float = 15) -> None:
        """Let gunicorn end in its own way; kill what is left after `timeout` seconds."""
        if self._process:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End gunicorn and its workers at once."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def workers(self) -> list[int]:
        """The process ids of gunicorn's workers."""
        assert self._process
        return children(self._process.pid)

    # The log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def expect_in_log(self, pattern: str) -> None:
        """Lines that `pattern` is found in are no trouble to `check_log`."""
        self._expected.append(pattern)

    def check_log(self) -> None:
        """Raise AssertionError where an error or exception was logged that the test does not expect."""
        trouble = [
            line
            for line in self.log.splitlines()
            if _TROUBLE.search(line) and not any(re.search(expected, line) for expected in self._expected)
        ]
        assert not trouble, f"the site logged {trouble[:5]} in:\n{self.log[-20_000:]}"

    # Asking

    def get(
        self, path: str, *, method: str = "GET", timeout: float = 30, body: bytes | None = None, **headers: str
    ) -> Reply:
        """Ask for `path`; an underscore in a header's name stands for a hyphen."""
        return ask(self.port, path, method=method, timeout=timeout, body=body, **headers)

    # Its data

    def manage(self, *args: str, timeout: float = 120) -> Any:
        """Run manage.py; returns what it prints, parsed where --json is among `args`."""
        printed = self._python(str(ROOT / "manage.py"), *args, timeout=timeout)
        return json.loads(printed) if "--json" in args else printed

    def shell(self, code: str, timeout: float = 120) -> str:
        """Run `code` with Django set up; returns what it prints."""
        return self._python("-c", f"import django\ndjango.setup()\n{code}", timeout=timeout)

    def _python(self, *args: str, timeout: float = 120) -> str:
        ran = subprocess.run(
            [sys.executable, *args], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert ran.returncode == 0, f"{args} failed:\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Read from the SQLite database."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, parameters)]

    @property
    def database(self) -> Path:
        return self.data_dir / "db.sqlite3"

    def rescue(self, machine: str = "web01") -> dict[str, Any]:
        """The machine's latest rescue, as `rescue status --json` tells it."""
        shown: dict[str, Any] = self.manage("rescue", "status", machine, "--json")
        return shown


def ask(
    port: int, path: str, *, method: str = "GET", timeout: float = 30, body: bytes | None = None, **headers: str
) -> Reply:
    """Ask a server on loopback for `path` on a connection of its own."""
    started = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Reply(response.status, dict(response.headers), response.read(), time.monotonic() - started)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def children(pid: int) -> list[int]:
    """The process ids of a process's children; one that has ended has none."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def token_in(script: str) -> str:
    """The token in a script that boots a rescue. Raises AssertionError where there is none."""
    match = re.search(r"/boot/([A-Za-z0-9_-]{20,})/", script)
    assert match, f"no rescue in {script}"
    return match.group(1)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]
