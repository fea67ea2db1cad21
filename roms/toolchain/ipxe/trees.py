"""Build trees of iPXE: one for each commit, platform and set of features, so that builds do not disturb each other.

    locks/KEY.lock        only we can access it
    trees/KEY/            belongs to us
        state.json        the properties of the tree; the file time is the time of the last use
        started           exists while a build runs, and after a build that was interrupted
        support/          files that replace files of the host for the tree's programs
        headers/          the generated config/local headers, before they are copied into the tree
        embed/HASH/       the embedded script; each content has its own path
        tree/  tmp/       belong to the account that compiles

Only that account works inside `tree`, with relative paths. It needs no access to the folders above, and symbolic links
in the tree cannot give it access to our files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescuesite.files import locked
from roms.toolchain import runner
from roms.toolchain.ipxe.source import SourceTree, make_folder
from roms.toolchain.sandbox import Sandbox

#: Part of every key. Increase it to stop using the existing trees.
LAYOUT = 1
SCRIPT_NAME = "boot.ipxe"

#: A replacement for Perl's FindBin, which needs access to folders that the account may not enter.
_FIND_BIN = """\
package FindBin;
our ($Bin) = $0 =~ m{^(.*)/};
$Bin = '.' unless defined $Bin;
1;
"""
#: Settings for xorriso. Files in an ISO belong to root, so the bytes do not depend on the account. The working folder
#: is not resolved, because the account may not enter the folders above it.
_XORRISO = "-uid 0\n-gid 0\n-cdx /proc/self/cwd\n"

Say = Callable[[str], None]
ShouldStop = Callable[[], bool]


class TreeStoppedError(Exception):
    """Somebody cancelled the build while it waited for a tree or made one."""


@dataclass(frozen=True)
class TreeSpec:
    """The properties of a tree. Builds with the same properties use the same tree, one after the other."""

    commit: str
    bin_folder: str
    headers: Mapping[str, str]
    #: The versions of the compilers: one ROM must not mix objects of two compilers.
    tools: str

    @property
    def key(self) -> str:
        facts = [LAYOUT, self.commit, self.bin_folder, sorted(self.headers.items()), self.tools]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


@dataclass
class Tree:
    """A tree that exists, and that we have locked."""

    root: Path
    user: str | None
    #: The sandbox of the tree's programs; None without namespaces.
    sandbox: Sandbox | None
    objects: int = 0

    @property
    def src(self) -> Path:
        return self.root / "tree" / "src"

    @property
    def environment(self) -> dict[str, str]:
        """The environment for programs that run in src."""
        return {"TMPDIR": "../../tmp", "HOME": "../../support", "PERL5LIB": "../../support", "TZ": "UTC"}

    def embed(self, script: bytes) -> str:
        """Store the script for make, and return its path.

        make compares only the name and the time of an embedded file, so each content needs its own path.
        """
        name = hashlib.sha256(script).hexdigest()[:32]
        for other in (self.root / "embed").iterdir():
            if other.name != name:
                shutil.rmtree(other)
        folder = self.root / "embed" / name
        _folder(folder)
        if not (folder / SCRIPT_NAME).exists():
            _write(folder / SCRIPT_NAME, script)
        return f"../../embed/{name}/{SCRIPT_NAME}"

    @contextmanager
    def building(self, bin_folder: str) -> Iterator[Callable[[runner.Finished], None]]:
        """Mark the tree while make runs, and clean up if make was killed."""
        started = self.root / "started"
        if started.exists():
            self._remove_new_files(bin_folder)
        started.write_text("")

        def ended(finished: runner.Finished) -> None:
            # After SIGTERM, make removes incomplete files itself.
            if finished.returncode == -signal.SIGKILL:
                self._remove_new_files(bin_folder)
            started.unlink(missing_ok=True)

        yield ended

    def _remove_new_files(self, bin_folder: str) -> None:
        """Remove the files that are newer than the start of make: they may be incomplete."""
        places = [name for name in (bin_folder, "util") if (self.src / name).is_dir()]
        newer = ["find", *places, "-type", "f", "-newer", "../../started", "-delete"]
        # Also needed after a cancelled build, so it cannot be cancelled itself.
        if run(self.sandbox, newer, cwd=self.src, user=self.user).returncode:
            raise OSError(f"Cannot remove the files of an interrupted build in {self.src}.")

    def used(self, **facts: Any) -> None:
        """Store facts about the tree, and the time of its use."""
        path = self.root / "state.json"
        state = _state(self.root) | facts | {"size": size_of(self.root)}
        _write(path, json.dumps(state).encode())


@dataclass
class BuildTrees:
    """All build trees below one folder."""

    folder: Path
    source: SourceTree
    user: str | None
    limit: int
    #: Like the function `run` below, with the deadline and the cancellation of one build.
    run: Callable[..., runner.Finished]
    say: Say
    should_stop: ShouldStop | None = None
    #: The common settings of all sandboxes; None without namespaces.
    sandbox: Sandbox | None = None

    @contextmanager
    def tree(self, spec: TreeSpec) -> Iterator[Tree]:
        """Lock the tree with these properties, and make it if it does not exist."""
        _folder(self.folder)
        root = self.folder / spec.key
        with self._held(root):
            if not _is_usable(root):
                # The tree may be incomplete.
                shutil.rmtree(root, ignore_errors=True)
                self._make(root, spec)
            self._support(root / "support")
            yield Tree(root, self.user, self.sandbox_of(root), int(_state(root).get("objects", 0)))

    def lock_of(self, root: Path) -> Path:
        """The lock of a tree, in a folder that the compiling account cannot enter."""
        return self.folder.with_name("locks") / f"{root.name}.lock"

    def sandbox_of(self, root: Path, *others: Path) -> Sandbox | None:
        """The sandbox for the programs of a tree. They can also read the other trees."""
        return self.sandbox and self.sandbox.with_folders((root, *others), (root / "tree", root / "tmp"))

    def _make(self, root: Path, spec: TreeSpec) -> None:
        _folder(root)
        for name in ("embed", "headers"):
            _folder(root / name)
        make_folder(root / "tmp", self.user)
        objects = self._copy(root, spec)
        if objects is None:
            self.say("Unpacking the source tree.")
            self.source.export(spec.commit, root / "tree", user=self.user, should_stop=self.should_stop)
        self._configure(root, spec)
        facts = {"commit": spec.commit, "bin": spec.bin_folder, "tools": spec.tools, "account": _account(root / "tmp")}
        _write(root / "state.json", json.dumps(facts | {"objects": objects or 0}).encode())

    def _support(self, folder: Path) -> None:
        _folder(folder)
        _write(folder / "FindBin.pm", _FIND_BIN.encode())
        _write(folder / ".xorrisorc", _XORRISO.encode())

    def _copy(self, root: Path, spec: TreeSpec) -> int | None:
        """Copy a tree that differs only in its headers, so that make compiles only the affected files again.

        Returns the number of its objects; None if there is no such tree, or if it is in use.
        """
        for other in _by_use(self.folder):
            state = _state(other)
            same = (state.get("commit"), state.get("bin"), state.get("tools"), state.get("account")) == (
                *(spec.commit, spec.bin_folder, spec.tools),
                _account(root / "tmp"),
            )
            if not same or not state.get("built") or not _is_usable(other):
                continue
            with suppress(BlockingIOError), locked(self.lock_of(other), wait=False):
                if (other / "started").exists():
                    continue
                self.say("Copying the objects of another set of features. Only affected files are compiled again.")
                make_folder(root / "tree", self.user)
                # No hard links: a program may write into a file instead of replacing it.
                copy = ["cp", "-a", "--reflink=auto", f"../../{other.name}/tree/.", "."]
                finished = self.run(self.sandbox_of(root, other), copy, cwd=root / "tree", user=self.user)
                if finished.stopped:
                    raise TreeStoppedError
                if finished.returncode == 0:
                    return int(state.get("objects", 0))
                shutil.rmtree(root / "tree")
        return None

    def _configure(self, root: Path, spec: TreeSpec) -> None:
        """Write config/local. Unchanged headers keep their times, so make does not compile anything again for them.

        Headers without options are written too, as empty files. Otherwise make creates them, and finds all dependencies
        twice.
        """
        src = root / "tree" / "src"
        local = src / "config" / "local"
        changed = []
        for name in sorted(path.name for path in (src / "config").glob("*.h")):
            text = spec.headers.get(name, "").encode()
            present = local / name
            if not present.is_file() or present.read_bytes() != text:
                _write(root / "headers" / name, text)
                changed.append(name)
        if changed:
            files = [f"../../headers/{name}" for name in changed]
            command = ["cp", "--remove-destination", "--", *files, "config/local/"]
            self._do(command, src)
            self._remove_objects(src, spec.bin_folder, changed)

    def _remove_objects(self, src: Path, bin_folder: str, headers: Sequence[str]) -> None:
        """Remove the objects that depend on one of these headers.

        make finds them itself, except in one case: if the new options stop the preprocessor (#error), make finds no
        dependencies, and links the old object.
        """
        names = [f"config/local/{name}".encode() for name in headers]
        gone = []
        for path in (src / bin_folder / "deps").rglob("*.d"):
            words = path.read_bytes().split()
            if any(name in words or name + b":" in words for name in names):
                gone += [str(path.relative_to(src)), f"{bin_folder}/{path.name.partition('.')[0]}.o"]
        if gone:
            self._do(["rm", "-f", "--", *gone], src)

    def _do(self, command: Sequence[str], src: Path) -> None:
        finished = self.run(self.sandbox_of(src.parent.parent), command, cwd=src, user=self.user)
        if finished.stopped:
            raise TreeStoppedError
        if finished.returncode:
            said = finished.output.decode(errors="replace").strip()[-200:]
            raise OSError(f"Cannot write the options into {src}: {said}")

    @contextmanager
    def _held(self, root: Path) -> Iterator[None]:
        """Lock a tree, and wait for it if necessary. Raises TreeStoppedError."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.lock_of(root), wait=False))
            except BlockingIOError:
                self.say(_WAITING)
                held.enter_context(locked(self.lock_of(root), wait=self._ensure_wanted))
            yield

    def _ensure_wanted(self) -> None:
        if self.should_stop and self.should_stop():
            raise TreeStoppedError

    def prune(self) -> list[str]:
        """Remove the least recently used trees until the others are within the limit."""
        removed = []
        trees = _by_use(self.folder)
        # Incomplete trees, whose creation was interrupted.
        trees += [tree for tree in self.folder.iterdir() if tree.is_dir() and tree not in trees]
        sizes = {tree: int(_state(tree).get("size", 0)) for tree in trees}
        while trees and (sum(sizes[tree] for tree in trees) > self.limit or not _state(trees[-1])):
            oldest = trees.pop()
            with suppress(BlockingIOError), locked(self.lock_of(oldest), wait=False):
                shutil.rmtree(oldest, ignore_errors=True)
                self.lock_of(oldest).unlink(missing_ok=True)
                removed.append(oldest.name)
        return removed


def run(sandbox: Sandbox | None, command: Sequence[str], **arguments: Any) -> runner.Finished:
    """Run a program, in the sandbox if there is one."""
    return sandbox.run(command, **arguments) if sandbox else runner.run(command, **arguments)


_WAITING = "Waiting for another build with the same features."


def size_of(folder: Path) -> int:
    """The size of a folder on the disk, in bytes."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118
    return total


def _by_use(folder: Path) -> list[Path]:
    """The complete trees, most recently used first."""
    found = []
    for tree in folder.iterdir():
        with suppress(OSError):
            found.append(((tree / "state.json").stat().st_mtime, tree))
    return [tree for _, tree in sorted(found, reverse=True)]


def _state(root: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        state = json.loads((root / "state.json").read_text())
        return state if isinstance(state, dict) else {}
    return {}


def _is_usable(root: Path) -> bool:
    """Whether the tree is complete, and not from the future: make needs new files to be newer than old ones."""
    with suppress(OSError):
        return bool(_state(root)) and (root / "state.json").stat().st_mtime <= time.time()
    return False


def _account(path: Path) -> int:
    return path.stat().st_uid


def _folder(path: Path) -> None:
    """Make a folder that the compiling account may read."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def _write(path: Path, content: bytes) -> None:
    """Write a file that the compiling account may read. The file is either complete or missing."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    draft.chmod(0o644)
    draft.replace(path)


def with_usual_modes(command: Sequence[str]) -> list[str]:
    """The command with a fixed umask: an ISO stores the modes of its files."""
    return ["perl", "-e", "umask 022; exec { $ARGV[0] } @ARGV or die qq{$ARGV[0]: $!\\n}", "--", *command]
