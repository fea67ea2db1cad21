"""Runs a program in its own namespaces with bubblewrap; see bwrap(1).

The program has no network. It sees only the system's programs and the folders that it needs. When it ends, all of its
processes end, also those in other sessions.
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
#: On most systems these are symbolic links into /usr.
_SYSTEM: tuple[str, ...] = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: The files in /etc that the system's programs need. Other files are not visible.
_SETTINGS = ("alternatives", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "passwd")
#: bwrap returns these exit statuses for programs that a signal killed, as shells do.
_SIGNALLED = range(129, 129 + 64)


@dataclass(frozen=True)
class Sandbox:
    """The folders that a program sees besides the system's programs, under their own paths."""

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    #: Folders that the program must not see, even inside other visible folders.
    hidden: tuple[Path, ...] = ()

    def with_folders(self, readable: tuple[Path, ...], writable: tuple[Path, ...]) -> Sandbox:
        """A copy with these visible folders."""
        return replace(self, readable=readable, writable=writable)

    def run(self, command: Sequence[str], *, cwd: Path | None = None, **arguments: Any) -> runner.Finished:
        """Like runner.run. Raises ProgramMissingError, AccountMissingError."""

        def inside(whole: list[str]) -> list[str]:
            return [*self._outside(cwd), *whole]

        finished = runner.run(command, inside=inside, **arguments)
        code = finished.returncode
        return replace(finished, returncode=128 - code) if code in _SIGNALLED else finished

    def _outside(self, cwd: Path | None) -> list[str]:
        """The command line before the program."""
        # SIGTERM goes to the whole process group. Only the program must handle it: it cleans up, then bwrap ends.
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
    """Bind a folder under its own path, and create its parents."""
    parents = [argument for parent in reversed(path.parents) for argument in _folder(parent)]
    return [*parents, option, str(path), str(path)]


def _folder(path: Path) -> list[str]:
    """Create an empty folder that everybody may read, whatever our umask is."""
    return ["--perms", "0755", "--dir", str(path)] if path.name else []


def problem(user: str | None = None) -> str:
    """Try a sandbox. Returns why it does not work, empty if it works. Raises AccountMissingError."""
    try:
        finished = Sandbox().run(["true"], user=user, timeout=_TRIAL)
    except runner.ProgramMissingError as error:
        return f"{error} Install it: apt-get install {PACKAGE}"
    if finished.returncode == 0:
        return ""
    lines = finished.output.decode(errors="replace").strip().splitlines()
    return f"This host does not allow namespaces ({lines[-1][:200] if lines else f'status {finished.returncode}'})."
