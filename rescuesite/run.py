"""The last step of `make run`: migrate, make the first account, and run the server and one worker."""

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
#: The longest pause in seconds before a worker that has ended is started again.
_LONGEST_PAUSE = 30.0
#: Seconds to wait for the end of the worker. A worker that is writing to a chip may continue after that.
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
        sys.exit(f"Cannot use the database: {error}\nCheck DATABASE_URL or the data directory.")
    password = make_first_admin()
    if password:
        print(f"First account: admin, password: {password}  (shown only once; change it in the admin)")
    from machines.models import StoredFile
    from roms.models import Card

    Card.objects.load_curated()
    # Remove the remains of interrupted uploads.
    StoredFile.objects.discard_unused()
    print(_where(settings.RESCUESITE_BIND), flush=True)
    # An empty RESCUESITE_STATION means that a separate worker, which may run as root, flashes the cards. See deploy/.
    no_flash = ["--no-flash"] if os.environ.get("RESCUESITE_STATION") == "" else []
    sys.exit(Supervisor(worker=[*WORKER, *no_flash]).run())


class Supervisor:
    """Runs the server and the worker until the server ends. A worker that fails does not stop the server."""

    def __init__(self, server: Sequence[str] = SERVER, worker: Sequence[str] = WORKER) -> None:
        self._commands = (server, worker)
        self._stopping = False
        self._pause = 1.0
        self._start_at = 0.0

    def run(self) -> int:
        """Run until the server ends. Return its exit status."""
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
            print(f"The worker has ended ({self._worker.returncode}). Restarting it.", file=sys.stderr, flush=True)
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
                print(
                    "The worker is still writing to a chip. It continues until it is done.", file=sys.stderr, flush=True
                )


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program that gets SIGTERM if this process is killed.

    Its own process group keeps Ctrl-C from it. Otherwise Ctrl-C would end gunicorn's workers, and gunicorn would start
    new ones.
    """
    wrapper = [setpriv, "--pdeathsig", "TERM", "--"] if (setpriv := shutil.which("setpriv")) else []
    return subprocess.Popen([*wrapper, *command], stdin=subprocess.DEVNULL, process_group=0)


def _where(bound: str) -> str:
    """Return the URLs for browsers and for network cards."""
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
    """Make the account `admin` if there are no accounts. Return its password if it was generated."""
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
