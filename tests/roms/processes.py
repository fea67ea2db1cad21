"""Watching processes in tests: waits are on events, each with a limit."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 20.0


def ends(pid: int, within: float = LIMIT) -> bool:
    """Wait for a process, not necessarily a child of ours, to end."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(within * 1000))
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def is_freed(path: Path, within: float = LIMIT) -> bool:
    """Wait for a lock to be free."""
    freed = threading.Event()

    def wait() -> None:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        freed.set()

    threading.Thread(target=wait, daemon=True).start()
    return freed.wait(within)


@contextmanager
def worker(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another Python process that runs this program text, to be killed; what it prints can be read."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-u", "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a worker prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def heard(process: subprocess.Popen[str], text: str) -> bool:
    """Read what a worker prints up to a line with this text; False where it ends without one."""
    assert process.stdout
    return any(text in said for said in iter(process.stdout.readline, ""))
