"""Run a command with a throw-away PostgreSQL: python -m tests.with_postgres COMMAND [ARG…].

The server listens on a Unix socket in a temporary directory only; DATABASE_URL names it. It is stopped and removed
when the command ends, however it ends, and the command's exit status becomes ours. PostgreSQL refuses to run as
root, so root runs it as user postgres.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

INSTALLED = Path("/usr/lib/postgresql")
#: How long an interrupted command may take to end by itself.
GRACE = 20.0
#: Nothing here outlives a crash, so nothing needs to reach the disk.
SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
    "max_connections=200",
)


class PostgresError(Exception):
    """There is no server to be had; the message says why."""


class StoppedError(BaseException):
    """We have been told to end; the argument is the signal's number."""


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with postgres() as url:
            return run(arguments, {**os.environ, "DATABASE_URL": url})
    except PostgresError as error:
        print(f"with_postgres: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except StoppedError as stopped:
        return 128 + int(stopped.args[0])


@contextmanager
def postgres() -> Iterator[str]:
    """A running cluster; yields the address of its database `postgres`. Raises PostgresError."""
    binaries = newest_binaries(INSTALLED)
    # Not below $TMPDIR: the path of a Unix socket has 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="rescuesite-pg-", dir="/tmp"))
    try:
        account = _account()
        if account:
            shutil.chown(directory, account["user"], account["group"])
        data, log = directory / "data", directory / "log"
        options = " ".join(f"-c {setting}" for setting in (*SETTINGS, f"unix_socket_directories={directory}"))
        control = [str(binaries / "pg_ctl"), f"--pgdata={data}", "--silent", "--wait"]
        # A server that a Ctrl-C at the terminal reached first would end under the tests' hands.
        common: dict[str, Any] = {"cwd": directory, "start_new_session": True, **account}
        initdb = [str(binaries / "initdb"), f"--pgdata={data}", "--auth=trust", "--username=postgres", "--no-sync"]
        _checked([*initdb, "--encoding=UTF8", "--locale=C.UTF-8"], **common)
        try:
            _checked([*control, f"--log={log}", f"--options={options}", "start"], log=log, **common)
            yield f"postgres://postgres@/{directory}/postgres"
        finally:
            subprocess.run([*control, "--mode=immediate", "stop"], stderr=subprocess.DEVNULL, check=False, **common)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run `command` and return its status as a shell would; a signal that we get ends it."""
    try:
        child = subprocess.Popen(command, env=environment)
    except OSError as error:
        print(f"with_postgres: cannot run {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    try:
        status = child.wait()
    except StoppedError as stopped:
        # At a terminal Ctrl-C has reached the command too, and a second one would cut its own tidying short.
        if stopped.args[0] != signal.SIGINT:
            child.send_signal(stopped.args[0])
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        raise
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    return 128 - status if status < 0 else status


def newest_binaries(installed: Path) -> Path:
    """The directory of the newest server's programs. Raises PostgresError where there is none."""
    found = [path for path in installed.glob("*/bin") if (path / "initdb").exists()]
    if not found:
        raise PostgresError(f"no PostgreSQL server below {installed}; install Debian's package postgresql.")
    return max(found, key=lambda path: [int(part) for part in path.parent.name.split(".") if part.isdigit()])


def _account() -> dict[str, Any]:
    """As whom the server runs, in subprocess's words; empty: as we do. Raises PostgresError."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresError("we are root, PostgreSQL refuses to be, and there is no user postgres.") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _checked(command: Sequence[str], log: Path | None = None, **options: Any) -> None:
    # Into a file: a pipe would be inherited by the server and never end.
    with tempfile.TemporaryFile() as output:
        status = subprocess.run(command, stdout=output, stderr=output, check=False, **options).returncode
        if status:
            output.seek(0)
            said = output.read().decode(errors="replace") + (log.read_text() if log and log.exists() else "")
            raise PostgresError(f"{Path(command[0]).name} failed: {said}")


def _stop(number: int, frame: FrameType | None) -> None:
    # The first one is enough: a second must not interrupt the tidying.
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise StoppedError(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
