"""Private build trees of iPXE: one for each commit, platform and feature set, so that no build disturbs another.

    locks/KEY.lock        ours alone
    trees/KEY/            ours
        state.json        what it was made for; its time is when it was last used
        started           a build is running, or was when we died
        support/          what the tree's programs read from us instead of from the host
        headers/          the generated config/local headers, to be copied into the tree
        embed/HASH/       the embedded script, under a path of its own for each content
        tree/  tmp/       the account's that compiles

All that happens inside `tree` is done by that account, with paths relative to it: it needs no way through the folders
above, and a tree that plays tricks with symbolic links reaches nothing of ours.
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

#: Part of every key: to be counted up when trees of before must not be used any more.
LAYOUT = 1
SCRIPT_NAME = "boot.ipxe"

#: Perl's own FindBin resolves the path of the program through folders that the account may not enter.
_FIND_BIN = """\
package FindBin;
our ($Bin) = $0 =~ m{^(.*)/};
$Bin = '.' unless defined $Bin;
1;
"""
#: For xorriso: an ISO's files belong to root, so whichever account made it, the bytes are the same; and it finds its
#: files below the folder that it runs in without resolving the way there.
_XORRISO = "-uid 0\n-gid 0\n-cdx /proc/self/cwd\n"

Say = Callable[[str], None]
ShouldStop = Callable[[], bool]


class TreeStoppedError(Exception):
    """Waiting for a tree, or making one, was cancelled."""


@dataclass(frozen=True)
class TreeSpec:
    """What a tree is for. Two builds with the same one share it, one after the other."""

    commit: str
    bin_folder: str
    headers: Mapping[str, str]
    #: What compiles: after an upgrade, objects of both compilers must not meet in one ROM.
    tools: str

    @property
    def key(self) -> str:
        facts = [LAYOUT, self.commit, self.bin_folder, sorted(self.headers.items()), self.tools]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


@dataclass
class Tree:
    """A tree that is there, and locked by us."""

    root: Path
    user: str | None
    #: What the tree's programs see of the host; None: they run without namespaces.
    sandbox: Sandbox | None
    is_fresh: bool = False
    objects: int = 0

    @property
    def src(self) -> Path:
        return self.root / "tree" / "src"

    @property
    def environment(self) -> dict[str, str]:
        """For every program that runs in src."""
        return {"TMPDIR": "../../tmp", "HOME": "../../support", "PERL5LIB": "../../support", "TZ": "UTC"}

    def embed(self, script: bytes) -> str:
        """Put the script where make takes it from, and return that path.

        make knows an embedded file by its name and time alone: another content gets another path.
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
        """Around make: notes that it runs, and cleans up after one that was killed and could not clean up itself."""
        started = self.root / "started"
        if started.exists():
            self._distrust(bin_folder)
        started.write_text("")

        def ended(finished: runner.Finished) -> None:
            # On SIGTERM, make removes what is half written.
            if finished.returncode == -signal.SIGKILL:
                self._distrust(bin_folder)
            started.unlink(missing_ok=True)

        yield ended

    def _distrust(self, bin_folder: str) -> None:
        """Remove what has been compiled since make was started: some of it may be half a file."""
        places = [name for name in (bin_folder, "util") if (self.src / name).is_dir()]
        newer = ["find", *places, "-type", "f", "-newer", "../../started", "-delete"]
        # Without a question whether to stop: this is done after a build was cancelled too.
        if run(self.sandbox, newer, cwd=self.src, user=self.user).returncode:
            raise OSError(f"What an interrupted build left in {self.src} cannot be removed.")

    def used(self, **facts: Any) -> None:
        """Note what became of the tree, and that it was used now."""
        path = self.root / "state.json"
        state = _state(self.root) | facts | {"size": size_of(self.root)}
        _write(path, json.dumps(state).encode())


@dataclass
class Forest:
    """All trees below one folder."""

    folder: Path
    source: SourceTree
    user: str | None
    limit: int
    #: As the function `run` here, with the deadline and the questions of the one build that this is for.
    run: Callable[..., runner.Finished]
    say: Say
    should_stop: ShouldStop | None = None
    #: What all sandboxes have in common; None: there are no namespaces to be had.
    sandbox: Sandbox | None = None

    @contextmanager
    def tree(self, spec: TreeSpec) -> Iterator[Tree]:
        """The tree of a feature set, made where there is none; nobody else uses it meanwhile."""
        _folder(self.folder)
        root = self.folder / spec.key
        with self._held(root):
            is_fresh = not _is_usable(root)
            if is_fresh:
                # What was left of a tree whose making was interrupted, for example.
                shutil.rmtree(root, ignore_errors=True)
                self._make(root, spec)
            self._support(root / "support")
            yield Tree(root, self.user, self.sandbox_of(root), is_fresh, int(_state(root).get("objects", 0)))

    def lock_of(self, root: Path) -> Path:
        """A tree's lock: in a folder that the account which compiles cannot enter."""
        return self.folder.with_name("locks") / f"{root.name}.lock"

    def sandbox_of(self, root: Path, *others: Path) -> Sandbox | None:
        """What is seen of the host by the programs of a tree, which may read others."""
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
        """Start from a tree that differs in its headers alone: make then compiles again only what reads those.

        Returns the number of its objects, None where there is no such tree, or it is in use.
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
                self.say("Copying the objects of another feature set; only what differs is compiled again.")
                make_folder(root / "tree", self.user)
                # Not hard links: who knows which program writes into a file instead of replacing it.
                copy = ["cp", "-a", "--reflink=auto", f"../../{other.name}/tree/.", "."]
                finished = self.run(self.sandbox_of(root, other), copy, cwd=root / "tree", user=self.user)
                if finished.stopped:
                    raise TreeStoppedError
                if finished.returncode == 0:
                    return int(state.get("objects", 0))
                shutil.rmtree(root / "tree")
        return None

    def _configure(self, root: Path, spec: TreeSpec) -> None:
        """Write config/local. A header that stays as it is keeps its time, and nothing is compiled again for it.

        Those without a change exist too, empty: where make has to make them, it works out all dependencies twice.
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
            self._forget(src, spec.bin_folder, changed)

    def _forget(self, src: Path, bin_folder: str, headers: Sequence[str]) -> None:
        """Remove the objects that read one of these headers, where the tree is a copy.

        make would find them by itself, but for one case: where the new options stop the preprocessor (#error), it gets
        no dependencies, takes the old object for a current one, and links it.
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
            raise OSError(f"The options cannot be written into {src}: {said}")

    @contextmanager
    def _held(self, root: Path) -> Iterator[None]:
        """Hold a tree, and wait for it. Raises TreeStoppedError."""
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
        """Remove the trees that were not used for longest, until the rest takes no more than the limit."""
        removed = []
        trees = _by_use(self.folder)
        # Their making was interrupted, and nobody has asked for them since.
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
    """runner.run, in namespaces where there is a sandbox."""
    return sandbox.run(command, **arguments) if sandbox else runner.run(command, **arguments)


_WAITING = "Another build with the same features is running; waiting for it."


def size_of(folder: Path) -> int:
    """Bytes that a folder takes on the disk."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118
    return total


def _by_use(folder: Path) -> list[Path]:
    """Trees, the one used last first."""
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
    """Whether a tree is there, and what is written into it now is newer than all in it: make goes by that alone."""
    with suppress(OSError):
        return bool(_state(root)) and (root / "state.json").stat().st_mtime <= time.time()
    return False


def _account(path: Path) -> int:
    return path.stat().st_uid


def _folder(path: Path) -> None:
    """A folder of ours that the account may pass through and read."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def _write(path: Path, content: bytes) -> None:
    """A file of ours that the account may read, whole or not there."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    draft.chmod(0o644)
    draft.replace(path)


def with_usual_modes(command: Sequence[str]) -> list[str]:
    """A command whose files get the same modes whatever our umask is: an ISO holds them."""
    return ["perl", "-e", "umask 022; exec { $ARGV[0] } @ARGV or die qq{$ARGV[0]: $!\\n}", "--", *command]
