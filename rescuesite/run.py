"""What `make run` does once the environment is there: migrate, make the first account, serve, run one worker."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

SERVER = (sys.executable, "-m", "gunicorn", "-c", "python:rescuesite.gunicorn_conf")
WORKER = (sys.executable, str(Path(__file__).resolve().parent.parent / "manage.py"), "worker")
#: A worker that ends by itself is started again, after so many seconds at most.
_LONGEST_PAUSE = 30.0
#: How long a worker may take to stop what it does; a chip that is being written is not waited for beyond that.
_PATIENCE = 60.0


def main() -> NoReturn:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rescuesite.settings")
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.db import Error

    call_command("check", fail_level="ERROR", stdout=io.StringIO())
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except Error as error:
        sys.exit(f"The database cannot be used: {error}\nCheck DATABASE_URL, or the data directory.")
    password = make_first_admin()
    if password:
        print(f"First account: admin, password: {password}  (shown this once; change it in the admin)")
    from machines.models import StoredFile
    from roms.models import Card

    Card.objects.load_curated()
    # What uploads left behind that a kill ended.
    StoredFile.objects.discard_unused()
    print(_where(settings.RESCUESITE_BIND), flush=True)
    # A station whose cards need root has a worker of its own; see deploy/.
    no_flash = ["--no-flash"] if os.environ.get("RESCUESITE_STATION") == "" else []
    sys.exit(Supervisor(worker=[*WORKER, *no_flash]).run())


class Supervisor:
    """The server and the worker, for as long as the server runs. A worker that fails does not take it along."""

    def __init__(self, server: Sequence[str] = SERVER, worker: Sequence[str] = WORKER) -> None:
        self._commands = (server, worker)
        self._stopping = False
        self._pause = 1.0
        self._start_at = 0.0

    def run(self) -> int:
        """Returns the server's exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        self._server = _start(self._commands[0])
        self._worker: subprocess.Popen[bytes] | None = None
        while (status := self._server.poll()) is None:
            self._keep_worker()
            try:
                self._server.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        self._end_worker()
        return status

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for process in (self._server, self._worker):
            if process and process.poll() is None:
                process.terminate()

    def _keep_worker(self) -> None:
        if self._stopping or (self._worker and self._worker.poll() is None):
            return
        now = time.monotonic()
        if self._worker:
            print(f"The worker ended ({self._worker.returncode}); it is started again.", file=sys.stderr, flush=True)
            self._start_at, self._pause = now + self._pause, min(self._pause * 2, _LONGEST_PAUSE)
            self._worker = None
        if now >= self._start_at:
            self._worker = _start(self._commands[1])

    def _end_worker(self) -> None:
        if self._worker and self._worker.poll() is None:
            self._worker.terminate()
            try:
                self._worker.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                print("The worker is still writing to a chip; it is left to finish.", file=sys.stderr, flush=True)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program that is told to end should we be killed.

    Ctrl-C reaches us alone: gunicorn takes a worker that it ends for one that has failed, and starts another just then.
    """
    tell = [setpriv, "--pdeathsig", "TERM", "--"] if (setpriv := shutil.which("setpriv")) else []
    return subprocess.Popen([*tell, *command], stdin=subprocess.DEVNULL, process_group=0)


def _where(bound: str) -> str:
    """What to type into a browser, and what NICs are to ask, for the bound address."""
    if bound.startswith("unix:"):
        return f"Serving {bound} for the web server in front. Stop: Ctrl-C"
    host, _, port = bound.rpartition(":")
    if host in {"0.0.0.0", "[::]"}:  # noqa: S104 - compared
        return (
            f"Serving every address of this host on port {port}. Stop: Ctrl-C\n"
            f"NICs ask http://ADDRESS:{port}/boot; to open the admin by a name or address other than localhost, "
            "list it in RESCUESITE_ALLOWED_HOSTS."
        )
    return f"Admin: http://{bound}/admin/   NICs ask: http://{bound}/boot   Stop: Ctrl-C"


def make_first_admin() -> str | None:
    """Make the account `admin` where there is no account at all; return its password if it was made up here."""
    from django.contrib.auth import get_user_model
    from django.db import transaction

    from machines.models import Actor, AuditEntry

    users = get_user_model()._default_manager
    if users.exists():
        return None
    given = os.environ.get("RESCUESITE_ADMIN_PASSWORD")
    password = given or secrets.token_urlsafe(12)
    with transaction.atomic():
        users.create_superuser("admin", password=password)
        AuditEntry.objects.record("user_added", actor=Actor("console:make run"), subject="admin")
    return None if given else password


if __name__ == "__main__":
    main()
