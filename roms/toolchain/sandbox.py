"""Namespaces of its own for a program that runs what somebody else wrote: bubblewrap, see bwrap(1).

It has no network, sees of the host's files no more than the system's programs and the folders that it is given, and
when it ends, so does everything that it has started, in whatever session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roms.toolchain import runner

PROGRAM = "bwrap"
PACKAGE = "bubblewrap"
#: Seconds.
_TRIAL = 30.0
_NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
#: Symbolic links into /usr, on most systems.
_SYSTEM: tuple[str, ...] = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: What the system's programs read, and nothing else of /etc.
_SETTINGS = ("alternatives", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "passwd")
#: A shell's way to tell of a signal, which bwrap has from it.
_SIGNALLED = range(129, 129 + 64)


@dataclass(frozen=True)
class Sandbox:
    """What a program sees of the host besides the system's programs; folders, under their own paths."""

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    #: Folders that it must not see, should they lie among the system's programs.
    hidden: tuple[Path, ...] = ()

    def with_folders(self, readable: tuple[Path, ...], writable: tuple[Path, ...]) -> Sandbox:
        """This one, with folders of the host's in it."""
        return replace(self, readable=readable, writable=writable)

    def run(self, command: Sequence[str], *, cwd: Path | None = None, **arguments: Any) -> runner.Finished:
        """As runner.run. Raises ProgramMissingError, AccountMissingError."""

        def inside(whole: list[str]) -> list[str]:
            return [*self._outside(cwd), *whole]

        finished = runner.run(command, inside=inside, **arguments)
        code = finished.returncode
        return replace(finished, returncode=128 - code) if code in _SIGNALLED else finished

    def _outside(self, cwd: Path | None) -> list[str]:
        """The command that a program's own is put behind."""
        # SIGTERM reaches the whole group, and is for the program alone: it cleans up, and the namespaces end with it.
        env = runner.program_path("env")
        outside = [env, "--ignore-signal=TERM", runner.program_path(PROGRAM), "--die-with-parent", *_NAMESPACES]
        outside += [*_system(), "--proc", "/proc", "--dev", "/dev"]
        for folder in self.hidden:
            outside += ["--tmpfs", str(folder.resolve())]
        for option, folders in (("--ro-bind", self.readable), ("--bind", self.writable)):
            for folder in folders:
                outside += _bound(option, folder.resolve())
        outside += ["--chdir", str(cwd.resolve()) if cwd else "/"]
        return [*outside, "--", env, "--default-signal=TERM"]


def _system() -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            arguments += _bound("--ro-bind", path)
    arguments += _folder(Path("/etc"))
    for name in _SETTINGS:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return arguments


def _bound(option: str, path: Path) -> list[str]:
    """A folder of the host's under its own path, and empty ones on the way to it."""
    way = [argument for parent in reversed(path.parents) for argument in _folder(parent)]
    return [*way, option, str(path), str(path)]


def _folder(path: Path) -> list[str]:
    """An empty folder on the way to others; made by the way, it would be root's alone where our umask says so."""
    return ["--perms", "0755", "--dir", str(path)] if path.name else []


def problem(user: str | None = None) -> str:
    """Why there can be no namespaces here, as tried out; empty where there can. Raises AccountMissingError."""
    try:
        finished = Sandbox().run(["true"], user=user, timeout=_TRIAL)
    except runner.ProgramMissingError as error:
        return f"{error} Install it: apt-get install {PACKAGE}"
    if finished.returncode == 0:
        return ""
    lines = finished.output.decode(errors="replace").strip().splitlines()
    return f"This host forbids it ({lines[-1][:200] if lines else f'status {finished.returncode}'})."
