"""Builds one file from an iPXE source tree. The same inputs give the same bytes.

For this, the environment is clean, file times and the version come from the commit, and paths are mapped to “.”. The
build runs under an account without rights, in a build tree for its set of features.
"""

from __future__ import annotations

import enum
import errno
import functools
import hashlib
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from roms.toolchain import runner, sandbox
from roms.toolchain.ipxe import cards as ipxe_cards
from roms.toolchain.ipxe import options as ipxe_options
from roms.toolchain.ipxe import trees as ipxe_trees
from roms.toolchain.ipxe.cards import CatalogueCard
from roms.toolchain.ipxe.host_tools import missing_tools, tools_message
from roms.toolchain.ipxe.make_output import ErrorKind, Listener, MakeOutput, Phase, explain
from roms.toolchain.ipxe.option_headers import Option, Value, read_options
from roms.toolchain.ipxe.source import SourceError, SourceStoppedError, SourceTree
from roms.toolchain.ipxe.trees import BuildTrees, Tree, TreeSpec, TreeStoppedError, with_usual_modes
from roms.toolchain.sandbox import Sandbox

#: The largest size of all build trees together, in bytes.
TREES_LIMIT = 3 << 30
#: The free space that a build needs, in bytes. The largest tree, for UEFI with all drivers, takes a third of it.
SPACE = 400 << 20
#: Seconds.
TIMEOUT = 3600.0
#: How much of the progress bar getting the source takes.
_SOURCE_SHARE = 0.05

_BIOS, _UEFI = "bin", "bin-x86_64-efi"
#: The paths that define options and cards.
_READ_PATHS = ("src/config", "src/hci", "src/drivers", "src/arch", "src/util/parserom.pl")


class Target(enum.StrEnum):
    """A build target; see https://ipxe.org/appnote/buildtargets."""

    ROM = "rom"
    MROM = "mrom"
    EFIROM = "efirom"
    COMBINED = "combined"
    ISO = "iso"
    USB = "usb"
    LKRN = "lkrn"
    EFI = "efi"

    @property
    def label(self) -> str:
        return _LABELS[self]

    @property
    def needs_card(self) -> bool:
        """Whether the target is for one card. The others have all drivers."""
        return self in {Target.ROM, Target.MROM, Target.EFIROM, Target.COMBINED}

    @property
    def parts(self) -> tuple[Part, ...]:
        return _PARTS[self]

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of its parts."""
        return tuple("efi" if part.bin_folder == _UEFI else "pcbios" for part in self.parts)


class Part(NamedTuple):
    """One call of make."""

    bin_folder: str
    media: str


_LABELS: Mapping[Target, str] = {
    Target.ROM: "ROM for BIOS (.rom)",
    Target.MROM: "ROM for BIOS, larger than its window (.mrom)",
    Target.EFIROM: "ROM for UEFI (.efirom)",
    Target.COMBINED: "ROM for BIOS and UEFI",
    Target.ISO: "CD image (.iso)",
    Target.USB: "USB stick image (.usb)",
    Target.LKRN: "program for a boot loader on BIOS (.lkrn)",
    Target.EFI: "program for UEFI (.efi)",
}
_PARTS: Mapping[Target, tuple[Part, ...]] = {
    Target.ROM: (Part(_BIOS, "rom"),),
    Target.MROM: (Part(_BIOS, "mrom"),),
    Target.EFIROM: (Part(_UEFI, "efirom"),),
    Target.COMBINED: (Part(_BIOS, "rom"), Part(_UEFI, "efirom")),
    Target.ISO: (Part(_BIOS, "lkrn"), Part(_UEFI, "efi")),
    Target.USB: (Part(_BIOS, "lkrn"), Part(_UEFI, "efi")),
    Target.LKRN: (Part(_BIOS, "lkrn"),),
    Target.EFI: (Part(_UEFI, "efi"),),
}


class BuildError(Exception):
    """There is no ROM. The message says why, and what to do."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class BuildRequest:
    """The order for one build."""

    target: Target
    script: bytes
    #: For example 8086:1229; empty for targets with all drivers.
    card: str = ""
    #: Only if the tree has several drivers for the card.
    driver: str = ""
    profile: str = ipxe_options.DEFAULT_PROFILE
    #: Changes to the profile.
    options: Mapping[str, Value] = field(default_factory=dict)
    #: Whether the ROM may run images other than scripts and kernels, if the options allow it.
    foreign_images: bool = False
    #: How long the ROM waits at its prompt, in tenths of a second; None for iPXE's default.
    banner: int | None = None

    @property
    def file_name(self) -> str:
        media = {Target.COMBINED: "combined.rom"}.get(self.target, str(self.target))
        return f"{self.card.replace(':', '') or 'ipxe'}.{media}"


@dataclass(frozen=True)
class BuildResult:
    """The result of a build."""

    artifact: Path
    size: int
    sha256: str
    commit: str
    #: The options that differ from the tree's defaults.
    options: Mapping[str, Value]
    commands: tuple[str, ...]
    tool_versions: Mapping[str, str]
    #: The number of compiled source files.
    objects_compiled: int


#: How a build is isolated from the host.
IN_NAMESPACES = "The build runs in its own namespaces, without network or the site's files. Its processes end with it."
_WITHOUT_NAMESPACES = (
    "The build runs without its own namespaces, under the account {account}: it can use the network, and read the "
    "files of that account. {problem}"
)


class _Known(NamedTuple):
    """The facts about a commit."""

    options: dict[str, Option]
    catalogue: list[CatalogueCard]
    time: int


@dataclass
class Builder:
    """Builds from one source, with build trees below `folder`, as `user` if we are root."""

    source: SourceTree
    folder: Path
    user: str | None = "nobody"
    #: The site's data directory, which a build must not see.
    hidden: Path | None = None
    trees_limit: int = TREES_LIMIT
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    _known: dict[str, _Known] = field(init=False, default_factory=dict)

    @functools.cached_property
    def problem(self) -> str:
        """Why this host has no namespaces for builds; empty if it has. Raises AccountMissingError."""
        return sandbox.problem(self.user)

    @property
    def box(self) -> Sandbox | None:
        """The sandbox for the programs of a tree; None without namespaces."""
        return None if self.problem else Sandbox(hidden=(self.hidden,) if self.hidden else ())

    @property
    def isolation(self) -> str:
        """How builds are isolated from the host, in a sentence."""
        if not self.problem:
            return IN_NAMESPACES
        account = self.user if self.user and os.geteuid() == 0 else "of the site"
        return _WITHOUT_NAMESPACES.format(account=account, problem=self.problem)

    def options(self, commit: str) -> dict[str, Option]:
        """The options of the tree at a commit. Raises SourceError, CardError."""
        return self._facts(commit).options

    def catalogue(self, commit: str) -> list[CatalogueCard]:
        """The cards that the tree supports at a commit. Raises SourceError, CardError."""
        return self._facts(commit).catalogue

    def _facts(self, commit: str) -> _Known:
        if commit not in self._known:
            with self.source.exported(commit, _READ_PATHS, self.user) as tree:
                options, catalogue = read_options(tree), ipxe_cards.catalogue(tree, self.user, self.box)
            self._known[commit] = _Known(options, catalogue, self.source.commit_time(commit))
        return self._known[commit]

    def build(
        self,
        request: BuildRequest,
        into: Path,
        listener: Listener | None = None,
        should_stop: Callable[[], bool] | None = None,
        timeout: float = TIMEOUT,
    ) -> BuildResult:
        """Build one file into the folder `into`. Raises BuildError."""
        build = _Build(self, request, into, listener or Listener(), should_stop, time.monotonic() + timeout)
        try:
            return build.result()
        except (SourceStoppedError, TreeStoppedError) as error:
            raise build.stopped() from error
        except tuple(_ERROR_KINDS) as error:
            kind = next(kind for cause, kind in _ERROR_KINDS.items() if isinstance(error, cause))
            raise BuildError(kind, str(error)) from error
        except OSError as error:
            kind = ErrorKind.DISK_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else ErrorKind.FAILED
            raise BuildError(kind, f"The build cannot use {self.folder}: {error}") from error


_ERROR_KINDS: Mapping[type[Exception], ErrorKind] = {
    SourceError: ErrorKind.SOURCE,
    ipxe_options.OptionError: ErrorKind.OPTIONS,
    ipxe_cards.CardError: ErrorKind.UNKNOWN_CARD,
    runner.ProgramMissingError: ErrorKind.MISSING_TOOL,
    runner.AccountMissingError: ErrorKind.FAILED,
}


@dataclass
class _Build:
    """One build."""

    builder: Builder
    request: BuildRequest
    into: Path
    listener: Listener
    asked: Callable[[], bool] | None
    deadline: float
    began: float = field(default_factory=time.monotonic)
    commands: list[str] = field(default_factory=list)
    compiled: int = 0

    def result(self) -> BuildResult:
        source, request = self.builder.source, self.request
        self.listener.phase(Phase.SOURCE)
        commit = source.obtain(
            self.listener.log, self.should_stop, lambda done: self.listener.progress(round(_SOURCE_SHARE * done, 2))
        )
        if missing := missing_tools(str(request.target)):
            raise BuildError(ErrorKind.MISSING_TOOL, tools_message(missing))
        self._tell_isolation()
        options = self.builder.options(commit)
        chosen = ipxe_options.chosen(
            options, request.profile, request.options, request.banner, foreign_images=request.foreign_images
        )
        headers = ipxe_options.config_headers(options, chosen)
        card = self._card(commit)
        self._check_space()
        versions = self._versions()
        with ExitStack() as held:
            # Every build locks its trees in the same order, so two builds cannot deadlock.
            built = []
            for number, part in enumerate(request.target.parts):
                self.listener.phase(Phase.TREE)
                compilers = "\n".join(versions[name] for name in ("gcc", "ld"))
                tree = held.enter_context(self._trees().tree(TreeSpec(commit, part.bin_folder, headers, compilers)))
                built.append((tree, self._make(tree, part, card, commit, number)))
            self.listener.phase(Phase.FINISHING)
            artifact = self._finish(built, commit)
        self._trees().prune()
        self.listener.progress(1.0)
        content = artifact.read_bytes()
        return BuildResult(
            artifact=artifact,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            commit=commit,
            options=ipxe_options.effective(options, chosen),
            commands=tuple(self.commands),
            tool_versions=versions,
            objects_compiled=self.compiled,
        )

    # Checks before the build

    def _tell_isolation(self) -> None:
        self.listener.isolation(self.builder.isolation)
        self._say(self.builder.isolation)

    def _card(self, commit: str) -> CatalogueCard | None:
        """The card in the tree. Raises BuildError now, because make reports an unknown card late and unclearly."""
        if not self.request.target.needs_card:
            return None
        wanted = ipxe_cards.pci_id(self.request.card)
        found = next((card for card in self.builder.catalogue(commit) if card.id == wanted), None)
        if found is None:
            raise BuildError(ErrorKind.UNKNOWN_CARD, f"This iPXE has no driver for the card {wanted}.")
        if self.request.driver and self.request.driver not in found.drivers:
            raise BuildError(
                ErrorKind.UNKNOWN_CARD,
                f"This iPXE drives {wanted} with {' or '.join(found.drivers)}, not with {self.request.driver[:40]}.",
            )
        return found

    def _check_space(self) -> None:
        self.builder.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        free = shutil.disk_usage(self.builder.folder).free
        if free < SPACE:
            raise BuildError(
                ErrorKind.DISK_FULL,
                f"{self.builder.folder} has {free >> 20} MB free, but a build needs {SPACE >> 20} MB.",
            )

    def _versions(self) -> dict[str, str]:
        """The versions of the tools, one line each."""
        asked = {"gcc": ["gcc", "--version"], "ld": ["ld", "--version"], "make": ["make", "--version"]}
        asked["perl"] = ["perl", "-e", "print qq{perl $^V\n}"]
        if self.request.target in {Target.ISO, Target.USB}:
            asked["mtools"] = ["mformat", "--version"]
        if self.request.target is Target.ISO:
            asked["xorriso"] = ["xorriso", "--version"]
        return {name: _first_line(self._run(None, command).output) for name, command in asked.items()}

    # The build

    def _trees(self) -> BuildTrees:
        builder = self.builder
        return BuildTrees(
            *(
                builder.folder / "trees",
                builder.source,
                builder.user,
                builder.trees_limit,
                self._run,
                self._say,
                self.should_stop,
            ),
            sandbox=builder.box,
        )

    def _make(self, tree: Tree, part: Part, card: CatalogueCard | None, commit: str, number: int) -> str:
        """Call make, and return the path of the result, relative to the tree's src."""
        made = f"{part.bin_folder}/{card.rom_name if card else 'ipxe'}.{part.media}"
        variables = {"GITVERSION": commit, "EXTRA_CFLAGS": _for_make(f"-ffile-prefix-map={tree.src.resolve()}=.")}
        if self.request.script:
            variables["EMBED"] = tree.embed(self.request.script)
        if card and card.is_ambiguous:
            # make does not notice that the driver has changed since the last build.
            self._in_tree(tree, ["rm", "-f", "--", made, f"{made}.tmp"])
            if self.request.driver:
                variables[f"DRIVER_{card.rom_name}"] = self.request.driver
        arguments = [f"{name}={value}" for name, value in sorted(variables.items())]
        command = ["nice", "make", f"-j{self.builder.jobs}", made, *arguments]
        share = (1 - _SOURCE_SHARE) / len(self.request.target.parts)
        start = _SOURCE_SHARE + number * share
        follow = MakeOutput(self.listener, start, share, tree.objects or _sources(tree.src))
        environment = tree.environment | {"SOURCE_DATE_EPOCH": str(self.builder._facts(commit).time)}
        with tree.building(part.bin_folder) as ended:
            finished = self._run_in(tree, command, environment, follow.receive)
            ended(finished)
        self.compiled += follow.compiled
        if finished.stopped or finished.returncode:
            tree.used()
            raise self._failure(finished)
        tree.used(built=True, objects=max(tree.objects, follow.compiled))
        return made

    def _finish(self, built: Sequence[tuple[Tree, str]], commit: str) -> Path:
        """Join the parts, and copy the result out of the tree."""
        (tree, made), *others = built
        # The last steps also read the other trees.
        tree = replace(tree, sandbox=self._trees().sandbox_of(tree.root, *(other.root for other, _ in others)))
        further = [f"../../../{other.root.name}/tree/src/{name}" for other, name in others]
        artifact = self.into / self.request.file_name
        epoch = {"SOURCE_DATE_EPOCH": str(self.builder._facts(commit).time)}
        if self.request.target is Target.COMBINED:
            self._collect(tree, ["perl", "util/catrom.pl", made, *further], artifact)
            parts = sum((part.src / name).stat().st_size for part, name in built)
            if artifact.stat().st_size != parts:
                raise BuildError(ErrorKind.FAILED, "The parts for BIOS and UEFI could not be joined.")
            return artifact
        if self.request.target in {Target.ISO, Target.USB}:
            image = f"{_BIOS}/ipxe.{self.request.target}"
            command = with_usual_modes(["util/genfsimg", "-o", image, made, *further])
            finished = self._run_in(tree, command, tree.environment | epoch, self.listener.log)
            if finished.stopped or finished.returncode:
                # Remove its temporary files: genfsimg leaves them after an error.
                left = ["find", _BIOS, "-path", f"{image}.*", "-delete"]
                ipxe_trees.run(tree.sandbox, left, cwd=tree.src, user=self.builder.user)
                raise self._failure(finished)
            made = image
        self._collect(tree, ["cat", "--", made], artifact, recorded=False)
        return artifact

    def _collect(self, tree: Tree, command: Sequence[str], artifact: Path, *, recorded: bool = True) -> None:
        """Write the output of a program to a file. The program cannot read our files: it runs as another account."""
        if recorded:
            self.commands.append(shlex.join(command))
        with artifact.open("wb") as file:
            finished = self._in_tree(tree, command, environment=tree.environment, log=file.write)
        if finished.stopped or finished.returncode:
            artifact.unlink()
            raise self._failure(finished)

    def _run_in(
        self, tree: Tree, command: Sequence[str], environment: Mapping[str, str], log: Callable[[bytes], None]
    ) -> runner.Finished:
        """Run a program in a tree, and record the command line."""
        line = shlex.join(command)
        self.commands.append(line)
        self._say(line)
        return self._in_tree(tree, command, environment=environment, log=log)

    def _in_tree(self, tree: Tree, command: Sequence[str], **arguments: Any) -> runner.Finished:
        return self._run(tree.sandbox, command, cwd=tree.src, user=self.builder.user, **arguments)

    def _run(self, box: Sandbox | None, command: Sequence[str], **arguments: Any) -> runner.Finished:
        """Run a program in a sandbox, with the deadline of this build. Cancelling the build stops it."""
        timeout = max(0.1, self.deadline - time.monotonic())
        return ipxe_trees.run(box, command, should_stop=self.should_stop, timeout=timeout, **arguments)

    def _say(self, line: str) -> None:
        self.listener.log(line.encode() + b"\n")

    # Errors

    def should_stop(self) -> bool:
        return time.monotonic() > self.deadline or bool(self.asked and self.asked())

    def stopped(self, *, timed_out: bool = False) -> BuildError:
        """The error for a build that was stopped."""
        if timed_out or time.monotonic() > self.deadline:
            return BuildError(ErrorKind.TIMED_OUT, f"The build took longer than {self.deadline - self.began:.0f} s.")
        return BuildError(ErrorKind.CANCELLED, "The build was cancelled.")

    def _failure(self, finished: runner.Finished) -> BuildError:
        """The error for a program that failed or was stopped."""
        if finished.stopped:
            return self.stopped(timed_out=finished.stopped is runner.Stopped.TIMED_OUT)
        return BuildError(*explain(finished.output.decode(errors="replace"), finished.returncode))


def _sources(src: Path) -> int:
    return sum(1 for path in src.rglob("*.[cS]") if path.is_file())


def _for_make(argument: str) -> str:
    """Quote an argument for a variable of make and for the shell that make starts."""
    return shlex.quote(argument).replace("$", "$$")


def _first_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[0].strip() if lines else ""
