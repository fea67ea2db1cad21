"""A throw-away PostgreSQL that can be frozen, stopped and brought back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.site import children
from tests.with_postgres import INSTALLED, SETTINGS, newest_binaries, postgres


class Cluster:
    """The server behind `url`, as tests.with_postgres starts one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._directory = Path(url.removeprefix("postgres://postgres@").removesuffix("/postgres"))
        self._data = self._directory / "data"
        self._frozen: list[int] = []

    def freeze(self) -> None:
        """Stop all its processes where they stand: it neither answers nor refuses."""
        server = int((self._data / "postmaster.pid").read_text().split("\n")[0])
        self._frozen = [server, *children(server)]
        for pid in self._frozen:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        while self._frozen:
            os.kill(self._frozen.pop(), signal.SIGCONT)

    def stop(self) -> None:
        """Let it refuse connections."""
        self._control("--mode=immediate", "stop")

    def start(self) -> None:
        options = " ".join(f"-c {setting}" for setting in (*SETTINGS, f"unix_socket_directories={self._directory}"))
        self._control(f"--log={self._directory / 'log'}", f"--options={options}", "start")

    def _control(self, *args: str) -> None:
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_postgres, str(newest_binaries(INSTALLED) / "pg_ctl"), f"--pgdata={self._data}", "--wait", *args],
            check=True,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    with postgres() as url:
        made = Cluster(url)
        try:
            yield made
        finally:
            # What is stopped cannot be told to end.
            made.thaw()
