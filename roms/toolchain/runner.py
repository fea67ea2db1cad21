"""Runs one program: clean environment, output to a file that is followed, cancel, time-out, not as root.

A killable program dies with us, its children too, even where we are killed with -9; and what it has left behind when it
ends, in whatever session, is killed. One that is not killable is left
alone by everything here and survives us: its output goes to a file, so nobody has to be there to read it.
"""

from __future__ import annotations

import enum
import fcntl
import logging
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: How much of the output comes back; all of it went to the log.
TAIL = 64 << 10
#: Seconds: between looks at the output, between questions whether to stop, from SIGTERM to SIGKILL.
LOOK = 0.1
ASK = 1.0
GRACE = 5.0

LIFELINE = Path(__file__).with_name("lifeline.py")


class Stopped(enum.StrEnum):
    """Why we ended a program."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class ProgramMissingError(Exception):
    """The program is not installed; the message names it."""


class AccountMissingError(Exception):
    """The account that the program is to run under does not exist; the message names it."""


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    returncode: int  # negative: killed by that signal
    stopped: Stopped | None  # why we ended it, None where it ended by itself
    seconds: float
    output: bytes  # the end of stdout and stderr, merged in their order


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    log: Callable[[bytes], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    timeout: float | None = None,
    killable: bool = True,
    overdue: Callable[[], None] | None = None,
    keep_fds: Sequence[int] = (),
    user: str | None = None,
    output: Path | None = None,
    inside: Callable[[list[str]], list[str]] | None = None,
) -> Finished:
    """Run a program to its end and tell how it ended. Raises ProgramMissingError, AccountMissingError.

    `log` hears the output as it comes, unterminated lines too; `output` is a file that the program appends it to (and
    nobody else may: what is written there is taken for the program's). `should_stop` is asked about once a second.
    `inside` gets the whole command and returns the one that runs it.

    A program that is not `killable` is never signalled: where it should stop or its time is up, `overdue` is called,
    once, and the wait goes on. A callback that fails is logged then, and does not end the wait either.
    """
    variables = clean_environment(environment)
    arguments = [program_path(command[0], variables["PATH"]), *command[1:]]
    if user is not None and os.geteuid() == 0:
        arguments = [*_as_user(user, variables["PATH"]), *arguments]
    if inside is not None:
        arguments = inside(arguments)
    with ExitStack() as stack:
        if output is None:
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0)).fileno()
            fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
        else:
            file = os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            stack.callback(os.close, file)
        fds = list(keep_fds)
        ours: BinaryIO | None = None
        if killable:
            lifeline, end = os.pipe()
            ours = stack.enter_context(os.fdopen(end, "wb", buffering=0))
            fds.append(lifeline)
            # -I, -S: nothing of the current folder, the environment or site-packages gets a say.
            arguments = [sys.executable, "-I", "-S", str(LIFELINE), str(lifeline), *arguments]
        start, began = os.fstat(file).st_size, time.monotonic()
        try:
            process = subprocess.Popen(
                arguments,
                cwd=cwd,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=fds,
                start_new_session=True,
            )
        finally:
            if killable:
                os.close(lifeline)
        watch = _Watch(process, file, start, began, killable, log, should_stop, timeout, overdue, ours)
        return watch.to_the_end()


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs get instead of our own environment, with its secrets and its language."""
    variables = {"PATH": SAFE_PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    if "TMPDIR" in os.environ:
        variables["TMPDIR"] = os.environ["TMPDIR"]
    return variables | dict(more or {})


def program_path(program: str, path: str = SAFE_PATH) -> str:
    """Where a program lies. Raises ProgramMissingError."""
    found = shutil.which(program, path=path)
    if found is None:
        where = "is not an executable file" if "/" in program else f"is not installed (looked in {path})"
        raise ProgramMissingError(f"The program {program} {where}.")
    return found


def _as_user(user: str, path: str) -> list[str]:
    """What comes before a command to drop root's rights for good: no groups, and no setuid program gives them back."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise AccountMissingError(
            f"There is no account {user} on this host: make it (adduser --system --group {user})."
        ) from None
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
    return [program_path("setpriv", path), *ids, "--clear-groups", "--no-new-privs", "--"]


@dataclass
class _Watch:
    """Follows a started program to its end."""

    process: subprocess.Popen[bytes]
    file: int
    offset: int
    began: float
    killable: bool
    log: Callable[[bytes], None] | None
    should_stop: Callable[[], bool] | None
    timeout: float | None
    overdue: Callable[[], None] | None
    #: Our end of the lifeline.
    lifeline: BinaryIO | None
    stopped: Stopped | None = None
    _next_ask: float = 0.0
    _kill_at: float | None = None
    _is_overdue: bool = False
    _tail: bytearray = field(default_factory=bytearray)

    def to_the_end(self) -> Finished:
        try:
            self._wait()
        except OSError:
            # Out of descriptors, perhaps. What must not be stopped must not be left alone either.
            if self.killable:
                raise
            logger.exception("%s cannot be followed; waiting for its end.", self.process.args)
        finally:
            if self.killable:
                # What it left behind, before its number can be another's: as long as it is not reaped, it is not.
                self._signal(signal.SIGKILL)
                self.process.wait()
        code = self.process.wait()
        seconds = time.monotonic() - self.began
        self._follow()
        return Finished(code, self.stopped, seconds, bytes(self._tail))

    def _wait(self) -> None:
        ended = os.pidfd_open(self.process.pid)
        try:
            poller = select.poll()
            poller.register(ended, select.POLLIN)
            while not poller.poll(LOOK * 1000):
                self._follow()
                self._check()
        finally:
            os.close(ended)

    def _follow(self) -> None:
        """Pass on what the program has said since the last look."""
        while chunk := os.pread(self.file, TAIL, self.offset):
            self.offset += len(chunk)
            self._tail += chunk
            del self._tail[:-TAIL]
            if self.log:
                self._call(self.log, chunk)

    def _check(self) -> None:
        """Stop the program, or say that it is overdue, where it is time to."""
        if self.stopped:
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill()
            return
        if self._is_overdue:
            return
        reason = self._reason_to_stop()
        if reason is None:
            return
        if self.killable:
            self.stopped = reason
            self._signal(signal.SIGTERM)
            self._kill_at = time.monotonic() + GRACE
        else:
            self._is_overdue = True
            if self.overdue:
                self._call(self.overdue)

    def _kill(self) -> None:
        """Have the lifeline kill all that the program has started, in whatever session; if that fails, the group."""
        if self.lifeline and not self.lifeline.closed:
            self.lifeline.close()
            self._kill_at = time.monotonic() + GRACE
        else:
            self._signal(signal.SIGKILL)
            self._kill_at = None

    def _reason_to_stop(self) -> Stopped | None:
        now = time.monotonic()
        if self.timeout is not None and now - self.began >= self.timeout:
            return Stopped.TIMED_OUT
        if self.should_stop and now >= self._next_ask:
            self._next_ask = now + ASK
            if self._call(self.should_stop):
                return Stopped.CANCELLED
        return None

    def _call(self, callback: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return callback(*args, **kwargs)
        except Exception:
            if self.killable:
                raise
            # A database that is down must not leave a half-written chip unattended.
            logger.exception("A callback failed while %s was running; waiting on.", self.process.args)
            return None

    def _signal(self, number: signal.Signals) -> None:
        # Its number is its own until it is reaped.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
