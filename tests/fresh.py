"""What README and docs/ tell a newcomer, done on a bare Debian 12: python -m tests.fresh, or `make test-fresh`.

Makes a root directory that holds Debian, git, python3 and make, clones this checkout into it, and runs there
`make run`, the pages' packages for ROMs, one build of the stand-in tree, and, in a second root, `make test-fast`.
The host's apt and pip configuration and certificates are taken along, as a newcomer's host has its own. Every step runs
in mount and process namespaces of its own: its mounts and processes are gone when it ends, however it ends. Needs root.
"""

# ruff: noqa: T201
from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests import pages

PROJECT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"
#: All that README asks for.
PACKAGES = "git,python3,make"
HOME = "/root"
CLONE = f"{HOME}/rescuesite"
#: What a host's way to packages may consist of, besides what the environment and pip's configuration name.
TAKEN = (
    *("/etc/apt", "/usr/share/keyrings", "/etc/pip.conf", "/etc/xdg/pip", "/root/.config/pip", "/root/.pip"),
    *("/etc/ssl/certs", "/usr/local/share/ca-certificates", "/etc/resolv.conf", "/etc/hosts"),
)
VARIABLES = re.compile(r"PIP_\w+|SSL_\w+|REQUESTS_\w+|CURL_\w+|GIT_SSL\w+|(https?|no|all)_proxy", re.IGNORECASE)
#: Seconds.
STARTED_WITHIN = 600.0
STOPPED_WITHIN = 30.0
#: In a mount namespace: $1 becomes the root of everything, $2 is a list of what is bound into it.
ENTER = """\
set -eu
root=$1; binds=$2; shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs -o ro sysfs "$root/sys"
for path in $binds; do
    mkdir -p "$root$path"
    mount --bind -o ro "$path" "$root$path"
done
cd "$root"
pivot_root . .
umount -l .
cd "$CLONE_OR_ROOT"
# Not exec: process 1 cannot end itself by a signal, as make does on Ctrl-C.
status=0
"$@" || status=$?
exit $status
"""


class FreshError(Exception):
    """A step failed; the message names it."""


@dataclass
class Root:
    """A directory that is a whole Debian, and how programs run in it."""

    path: Path
    binds: Sequence[Path]
    seconds: dict[str, float] = field(default_factory=dict)

    def start(self, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        inside = self.path / CLONE.lstrip("/")
        variables = {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
        variables |= {"HOME": HOME, "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        variables |= {"CLONE_OR_ROOT": CLONE if inside.exists() else "/", "DEBIAN_FRONTEND": "noninteractive"}
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--", "/bin/sh", "-c", ENTER, "enter"]
        return subprocess.Popen(
            # Should we be killed, so is the step.
            ["setpriv", "--pdeathsig", "KILL", "--", *enter, str(self.path), " ".join(map(str, self.binds)), *command],
            env=variables | environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, title: str, command: Sequence[str], **environment: str) -> None:
        """Run one step to its end. Raises FreshError where it fails."""
        print(f"\n== {title}: {shlex.join(command)}", flush=True)
        began = time.monotonic()
        with self.start(command, **environment) as process:
            try:
                status = process.wait()
            except BaseException:
                process.kill()
                raise
        self.seconds[title] = time.monotonic() - began
        if status:
            raise FreshError(f"{title} failed with status {status}.")

    @contextlib.contextmanager
    def serving(self, **environment: str) -> Iterator[None]:
        """`make run` in its background, from the moment that it answers."""
        port = free_port()
        title = "make run, until /healthz answers"
        print(f"\n== {title}", flush=True)
        began = time.monotonic()
        process = self.start(["make", "run"], RESCUESITE_BIND=f"127.0.0.1:{port}", **environment)
        try:
            await_site(port, process)
            self.seconds[title] = time.monotonic() - began
            yield
            os.killpg(process.pid, signal.SIGINT)
            process.wait(STOPPED_WITHIN)
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def await_site(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(URLError, OSError), urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    status = process.poll()
    raise FreshError(
        f"make run ended with status {status}."
        if status is not None
        else f"make run does not answer within {STARTED_WITHIN:.0f} s."
    )


def main() -> int:
    if os.geteuid() != 0:
        print("A root directory is made and entered: call this as root.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    # Not /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix="rescuesite-fresh-", dir="/var/tmp") as folder:
        roots: list[Root] = []
        try:
            newcomer(Path(folder), roots)
        except FreshError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
        finally:
            for root in roots:
                for title, seconds in root.seconds.items():
                    print(f"{seconds:7.0f} s  {title}")
            print(f"{time.monotonic() - began:7.0f} s  in all")
    return 0


def newcomer(folder: Path, roots: list[Root]) -> None:
    """All steps. Raises FreshError."""
    first = Root(debian(folder / "first"), [path for path in named_by_pip() if path.is_dir()])
    roots.append(first)
    second = Root(folder / "second", first.binds)
    subprocess.run(["cp", "-a", "--reflink=auto", str(first.path), str(second.path)], check=True)
    roots.append(second)

    with first.serving(RESCUESITE_IPXE_SOURCE=f"{CLONE}/tests/roms/stand_in"):
        # As docs/roms.md has it; `yes` is the newcomer, who also knows that a new system has no lists of packages.
        first.run("the packages for ROMs", ["sh", "-c", f"apt-get update -qq && yes | {rom_packages()}"])
        order = [".venv/bin/python", "manage.py", "build_rom", "8086:1229", "--site", "http://192.0.2.10:8000"]
        first.run("a ROM of the stand-in tree", [*order, "--profile", "minimal", "--wait"])
    second.run("make test-fast", ["make", "test-fast"])


def debian(path: Path) -> Path:
    """A bare Debian with the host's way to packages, and a clone of this checkout's last commit."""
    include = f"--include={PACKAGES}"
    subprocess.run(["mmdebstrap", "--variant=minbase", "--quiet", include, SUITE, str(path)], check=True)
    # The host's list of sources instead of mmdebstrap's.
    (path / "etc" / "apt" / "sources.list").unlink(missing_ok=True)
    for taken in (*map(Path, TAKEN), *filter(Path.is_file, named_by_pip())):
        take(taken, path)
    for name, value in os.environ.items():
        if VARIABLES.fullmatch(name) and value.startswith("/") and Path(value).is_file():
            take(Path(value), path)
    (path / CLONE.lstrip("/")).parent.mkdir(exist_ok=True)
    clone = ["git", "clone", "--quiet", "--depth=1", f"file://{PROJECT}", str(path / CLONE.lstrip("/"))]
    subprocess.run(clone, check=True)
    return path


def take(source: Path, root: Path) -> None:
    """Copy a file or folder of the host's to its place below `root`."""
    target = root / str(source).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        # As files: what links lead to may not be there.
        shutil.copytree(source, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    elif source.is_file():
        shutil.copyfile(source, target)


def named_by_pip() -> list[Path]:
    """The host's files and folders that pip's configuration names: packages may lie there.

    An index (`…/simple`, PEP 503) names files that lie beside it, so what is taken is the folder of both.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = re.findall(r"(?:file://)?(/[^\s'\",]+)", listed)
    found = {path.parent if path.name == "simple" else path for path in map(Path, words)}
    return sorted(path for path in found if path.exists())


def rom_packages() -> str:
    """The pages' line that installs what building and flashing ROMs needs."""
    (line,) = {line for line in pages.lines_of(pages.PACKAGES) if "flashrom" in line.split()}
    return line


if __name__ == "__main__":
    sys.exit(main())
