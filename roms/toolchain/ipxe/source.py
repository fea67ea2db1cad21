"""The iPXE source tree: got from a Git URL or a directory, kept as a bare repository, unpacked at one commit.

Git itself runs as we do: it fetches data, and runs nothing of what it fetched. Whatever runs programs of the tree
(make, its Perl scripts) is given another account.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import pwd
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rescuesite.files import locked
from roms.toolchain import runner

DEFAULT_REF = "v2.0.0"

Log = Callable[[bytes], None]
ShouldStop = Callable[[], bool]
Progress = Callable[[float], None]

#: What every tree that we can build has.
MARKS = ("src/Makefile", "src/config/general.h", "src/util/parserom.pl")
#: The commit time of a directory that no Git knows: the same files must give the same bytes. 2020-01-01.
PLAIN_TIME = 1577836800
#: Git says something while it works; after so many seconds of silence nobody answers.
SILENCE = 120.0

_SETTINGS = """\
[safe]
\tdirectory = *
[gc]
\tauto = 0
[maintenance]
\tauto = false
[advice]
\tdetachedHead = false
[core]
\thooksPath = /dev/null
\tautocrlf = false
[http]
\tlowSpeedLimit = 100
\tlowSpeedTime = 60
[tar]
\tumask = 0022
"""
#: What Git may need of our own environment: the way to the network, and keys for ssh.
_PASSED = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "HOME", "SSH_AUTH_SOCK"),
)
_FULL = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")
_PERCENT = re.compile(rb"(Counting|Compressing|Receiving|Unpacking|Resolving)[^:\r\n]*: +(\d+)%")
#: How the phases of a fetch share the bar: from, width.
_SHARES = {
    b"Counting": (0.0, 0.02),
    b"Compressing": (0.02, 0.08),
    b"Receiving": (0.1, 0.7),
    b"Unpacking": (0.1, 0.9),
    b"Resolving": (0.8, 0.2),
}
_SET_SOURCE = "Set RESCUESITE_IPXE_SOURCE to a Git URL that this host can reach, or to a directory with an iPXE tree"


class SourceError(Exception):
    """There is no source tree to build from; the message says why, and what to set."""


class SourceStoppedError(SourceError):
    """Getting the source was cancelled."""


@dataclass(frozen=True)
class SourceTree:
    """One source at one ref; what was obtained is kept in `folder`, which is ours alone."""

    source: str
    ref: str
    folder: Path
    _key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Two sources may use the same name for different commits.
        object.__setattr__(self, "_key", hashlib.sha256(self.source.encode()).hexdigest()[:12])

    @property
    def repository(self) -> Path:
        return self.folder / "source.git"

    @property
    def lock(self) -> Path:
        """Held by whoever fetches."""
        return self.folder / "locks" / "source.lock"

    def obtain(
        self,
        log: Log | None = None,
        should_stop: ShouldStop | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Fetch what is not there yet, and return the commit that the ref stands for. Raises SourceError.

        A tag or a commit that was obtained once asks nobody again. A branch is asked for each time, and where the
        source cannot be reached, its commit of the last time is used, and the log says so.
        """
        git = self._git(log, should_stop, progress)
        with locked(self.lock, wait=lambda: _ensure_wanted(should_stop)):
            self._prepare(git)
            directory = self._directory()
            if directory is not None and not _is_repository(directory):
                commit = self._commit_of_directory(git, directory)
            else:
                commit = self._kept(git) or self._fetched(git)
            self._check(git, commit)
        if progress:
            progress(1.0)
        return commit

    def commit_time(self, commit: str) -> int:
        """When the commit was made, as seconds since 1970."""
        return int(self._git().read("log", "-1", "--format=%ct", commit, "--"))

    def export(
        self,
        commit: str,
        into: Path,
        *,
        paths: Sequence[str] = (),
        user: str | None = None,
        should_stop: ShouldStop | None = None,
    ) -> None:
        """Unpack the tree of a commit that was obtained, or some of its paths, into a new folder owned by `user`.

        Each file's time is the commit's. Nothing but `into` itself must be accessible to the user.
        """
        git = self._git(None, should_stop)
        make_folder(into, user)
        archive = into / ".export.tar"
        try:
            git.do("archive", "--format=tar", f"--output={archive.resolve()}", commit, *paths)
            archive.chmod(0o644)
            # --same-permissions: whatever our umask is.
            unpack = ["tar", "--extract", "--same-permissions", "--no-same-owner", f"--file={archive.name}"]
            finished = runner.run(unpack, cwd=into, user=user, should_stop=should_stop)
            _raise_where_stopped(finished)
            if finished.returncode:
                raise SourceError(f"The source tree cannot be unpacked into {into}: {_last_line(finished.output)}")
        except runner.ProgramMissingError as error:
            raise SourceError(f"{error} Install it: apt-get install tar") from error
        finally:
            archive.unlink(missing_ok=True)

    @contextmanager
    def exported(self, commit: str, paths: Sequence[str] = (), user: str | None = None) -> Iterator[Path]:
        """The tree of a commit, or some of its paths, in a folder that is gone afterwards: to be read, not built."""
        with tempfile.TemporaryDirectory(prefix="export-", dir=self.folder) as folder:
            tree = Path(folder) / "tree"
            self.export(commit, tree, paths=paths, user=user)
            yield tree

    # How a ref becomes a commit

    def _directory(self) -> Path | None:
        """The source where it is a directory on this host. Raises SourceError for one that does not exist."""
        path = Path(self.source).expanduser()
        if self.source and path.is_dir():
            return path.resolve()
        if not self.source or self.source.startswith(("/", ".", "~", "-")):
            what = f"There is no directory {self.source}" if self.source else "No source of iPXE is set"
            raise SourceError(f"{what}. {_SET_SOURCE}.")
        return None

    def _prepare(self, git: _Git) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (*self.folder.glob("export-*"), *self.folder.glob("index-*")):
            # By a process that was killed: nobody reads in one for a day. Others come and go meanwhile.
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - 86400:
                    shutil.rmtree(left, ignore_errors=True)
        git.settings.write_text(_SETTINGS)
        if not (self.repository / "HEAD").exists():
            # An init that was interrupted left nothing worth keeping.
            shutil.rmtree(self.repository, ignore_errors=True)
            made = git.run("init", "--quiet", "--bare", str(self.repository), outside=True)
            if made.returncode:
                raise SourceError(f"Git cannot make {self.repository}: {_last_line(made.output)}")

    def _ref(self, kind: str, name: str) -> str:
        return f"refs/obtained/{self._key}/{kind}/{name}"

    def _kept(self, git: _Git) -> str | None:
        """The commit, where the ref names the same one forever and it is here."""
        if _FULL.fullmatch(self.ref):
            return git.commit(self.ref)
        tag = self.ref.removeprefix("refs/tags/")
        return git.commit(self._ref("tags", tag)) if _is_name(tag) else None

    def _fetched(self, git: _Git) -> str:
        if not _FULL.fullmatch(self.ref) and not _is_name(self.ref or "HEAD"):
            raise SourceError(f"“{self.ref}” cannot be the name of a tag, branch or commit: set RESCUESITE_IPXE_REF.")
        names = self._remote_names(git)
        if names is None:
            return self._last_known(git)
        for theirs in self._candidates():
            if theirs in names:
                kind, _, name = theirs.removeprefix("refs/").partition("/")
                ours = self._ref(kind, name) if name else self._ref("heads", "HEAD")
                return self._fetch(git, theirs, ours)
        if _FULL.fullmatch(self.ref):
            return self._fetch(git, self.ref, self._ref("commits", self.ref), names)
        if _SHORT.fullmatch(self.ref) and (commit := self._fetch_all(git)):
            return commit
        raise self._no_such_ref(names)

    def _candidates(self) -> list[str]:
        """What the source may call the ref, in Git's own order."""
        if self.ref in {"", "HEAD"}:
            return ["HEAD"]
        if self.ref.startswith("refs/"):
            return [self.ref]
        return [f"refs/tags/{self.ref}", f"refs/heads/{self.ref}"]

    def _remote_names(self, git: _Git) -> list[str] | None:
        """The refs of the source; None where it does not answer but an earlier commit of the ref is here."""
        heard = bytearray()
        wanted = ["HEAD", "refs/heads/*", "refs/tags/*"]
        finished = git.run("ls-remote", "--", self._address(), *wanted, quiet=True, on_output=heard.extend)
        if finished.returncode:
            if self._older(git):
                return None
            raise self._unreachable(finished.output)
        lines = heard.decode(errors="replace").splitlines()
        return [name for _, tab, name in (line.partition("\t") for line in lines) if tab]

    def _older(self, git: _Git) -> str | None:
        name = self.ref.removeprefix("refs/heads/") or "HEAD"
        return git.commit(self._ref("heads", name))

    def _last_known(self, git: _Git) -> str:
        commit = self._older(git)
        assert commit is not None
        git.say(f"The source cannot be reached; using {self.ref or 'HEAD'} as it was when last obtained, {commit}.")
        return commit

    def _fetch(self, git: _Git, theirs: str, ours: str, names: list[str] | None = None) -> str:
        """Fetch one ref without its history; the whole of it where the server cannot do that."""
        arguments = ["--progress", "--no-tags", "--force", "--", self._address(), f"{theirs}:{ours}"]
        finished = git.run("fetch", "--depth=1", *arguments)
        if finished.returncode and b"shallow" in finished.output:
            finished = git.run("fetch", *arguments)
        if finished.returncode and names is not None and re.search(rb"not our ref|no such remote ref", finished.output):
            raise self._no_such_ref(names)
        commit = git.commit(ours) if not finished.returncode else None
        if commit is None:
            raise self._unreachable(finished.output)
        return commit

    def _fetch_all(self, git: _Git) -> str | None:
        """A shortened commit can only be found among all: Git servers do not complete it."""
        git.say(f"Fetching the whole history to find the commit {self.ref}.")
        maps = [f"+refs/{kind}/*:{self._ref('all', kind)}/*" for kind in ("heads", "tags")]
        shallow = ["--unshallow"] if (self.repository / "shallow").exists() else []
        finished = git.run("fetch", "--progress", "--no-tags", *shallow, "--", self._address(), *maps)
        if finished.returncode:
            raise self._unreachable(finished.output)
        return git.commit(self.ref)

    def _address(self) -> str:
        return str(self._directory() or self.source)

    def _commit_of_directory(self, git: _Git, directory: Path) -> str:
        """A directory without Git, as a commit: its name is the hash of the contents, and export() knows no difference.

        What the tree's own .gitignore files list (compiled objects) does not count.
        """
        _check_marks(directory)
        with tempfile.TemporaryDirectory(prefix="index-", dir=self.folder) as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder).resolve() / "index")}
            place = [f"--work-tree={directory}", "-C", str(directory)]
            added = git.run("add", "--all", "--", ".", before=place, environment=index)
            if added.returncode:
                raise SourceError(
                    f"The directory {directory} cannot be read: {_last_line(added.output)}. Make it readable to the "
                    "site's account, or set RESCUESITE_IPXE_SOURCE to another one."
                )
            tree = git.read("write-tree", environment=index)
        who = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in {"NAME": "rescuesite", "EMAIL": "", "DATE": f"{PLAIN_TIME} +0000"}.items()
        }
        # No ref holds it: nothing is ever collected here.
        return git.read("commit-tree", "-m", "a directory", tree, environment=who)

    def _check(self, git: _Git, commit: str) -> None:
        there = git.read("ls-tree", "--name-only", "--full-tree", commit, "--", *MARKS).splitlines()
        if missing := [name for name in MARKS if name not in there]:
            raise SourceError(
                f"{redacted(self.source)} is not an iPXE source tree: at {self.ref or 'HEAD'} it has no {missing[0]}. "
                f"{_SET_SOURCE}, and RESCUESITE_IPXE_REF to a release of it."
            )

    # Errors

    def _unreachable(self, output: bytes) -> SourceError:
        return SourceError(
            f"The iPXE source {redacted(self.source)} cannot be had: {redacted(_last_line(output))}. {_SET_SOURCE}; "
            "a bare Git repository will do, and needs no network."
        )

    def _no_such_ref(self, names: list[str]) -> SourceError:
        short = [re.sub(r"^refs/(heads|tags)/", "", name) for name in names if not name.endswith("^{}")]
        near = difflib.get_close_matches(self.ref, short, n=3) or [name for name in short if name.startswith("v")][-3:]
        hint = f" It has {', '.join(near)}." if near else ""
        return SourceError(
            f"The iPXE source {redacted(self.source)} has no tag, branch or commit “{self.ref}”: "
            f"set RESCUESITE_IPXE_REF.{hint}"
        )

    def _git(
        self, log: Log | None = None, should_stop: ShouldStop | None = None, progress: Progress | None = None
    ) -> _Git:
        return _Git(self.folder, self.repository, log, should_stop, progress)


@dataclass
class _Git:
    """Runs Git on our repository."""

    folder: Path
    repository: Path
    log: Log | None
    should_stop: ShouldStop | None
    progress: Progress | None

    @property
    def settings(self) -> Path:
        return self.folder.resolve() / "gitconfig"

    def say(self, line: str) -> None:
        if self.log:
            self.log(line.encode() + b"\n")

    def run(
        self,
        *arguments: str,
        before: list[str] | None = None,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
        outside: bool = False,
        on_output: Log | None = None,
    ) -> runner.Finished:
        """Run Git; `outside` of our repository, `quiet` where the log need not hear it."""
        inside = [] if outside else [f"--git-dir={self.repository.resolve()}"]
        watch = _Watch(on_output if quiet else self.log, self.progress, self.should_stop)
        try:
            finished = runner.run(
                ["git", *inside, *(before or []), *arguments],
                cwd=self.folder,
                environment=self._environment() | dict(environment or {}),
                log=watch.receive,
                should_stop=watch.should_stop,
            )
        except runner.ProgramMissingError as error:
            raise SourceError(f"{error} Install it: apt-get install git") from error
        if watch.is_silent:
            raise SourceError(f"The iPXE source does not answer: nothing came for {SILENCE:.0f} s. {_SET_SOURCE}.")
        _raise_where_stopped(finished)
        return finished

    def do(self, *arguments: str) -> None:
        finished = self.run(*arguments, quiet=True)
        if finished.returncode:
            raise SourceError(f"Git failed ({arguments[0]}): {_last_line(finished.output)}")

    def read(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """What a command prints. Raises SourceError where it fails."""
        finished = self.run(*arguments, environment=environment, quiet=True)
        if finished.returncode:
            raise SourceError(f"Git failed ({arguments[0]}): {_last_line(finished.output)}")
        return finished.output.decode(errors="replace").strip()

    def commit(self, ref: str) -> str | None:
        """The commit that a ref of our own stands for, if it is here."""
        finished = self.run("rev-parse", "--quiet", "--verify", "--end-of-options", f"{ref}^{{commit}}", quiet=True)
        found = finished.output.decode(errors="replace").strip()
        if finished.returncode or not _FULL.fullmatch(found):
            return None
        # A full commit parses whether it is here or not.
        present = self.run("cat-file", "-e", f"{found}^{{tree}}", quiet=True)
        return found if not present.returncode else None

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        return passed | {
            # A setting on the command line would not reach the program that reads another's local repository.
            "GIT_CONFIG_GLOBAL": str(self.settings),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20"),
            # Not ext: and the like, which run commands.
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        }


@dataclass
class _Watch:
    """Hears what Git says, and notices where it has stopped saying anything."""

    log: Log | None
    progress: Progress | None
    asked: ShouldStop | None
    is_silent: bool = False
    _heard: float = field(default_factory=time.monotonic)

    def receive(self, chunk: bytes) -> None:
        self._heard = time.monotonic()
        if self.log:
            self.log(chunk)
        found = _PERCENT.findall(chunk)
        if found and self.progress:
            phase, percent = found[-1]
            start, width = _SHARES[phase]
            self.progress(round(start + width * int(percent) / 100, 3))

    def should_stop(self) -> bool:
        self.is_silent = time.monotonic() - self._heard > SILENCE
        return self.is_silent or bool(self.asked and self.asked())


# Small things


def make_folder(path: Path, user: str | None = None) -> None:
    """Make a folder that `user` may write, where we are root; ours otherwise."""
    path.mkdir(mode=0o755, parents=True)
    path.chmod(0o755)
    if user is not None and os.geteuid() == 0:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise runner.AccountMissingError(f"There is no account {user} on this host.") from None
        os.chown(path, account.pw_uid, account.pw_gid)


def redacted(text: str) -> str:
    """A URL, or a line that holds one, without the password in it."""
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1…@", text)


def _is_repository(path: Path) -> bool:
    return (path / ".git").exists() or all((path / name).exists() for name in ("HEAD", "objects", "refs"))


def _is_name(text: str) -> bool:
    """Whether it may be a ref's name: what Git forbids, and what would be an option or a pattern, is not."""
    forbidden = re.search(r"\.\.|@\{|//|/$|\.lock$|[\x00-\x20\x7f~^:?*\[\\]", text)
    return bool(text) and not forbidden and not text.startswith(("-", "/", "."))


def _check_marks(directory: Path) -> None:
    missing = [name for name in MARKS if not (directory / name).is_file()]
    if missing:
        inner = " Name the folder above it." if (directory / missing[0].removeprefix("src/")).is_file() else ""
        raise SourceError(f"{directory} is not an iPXE source tree: it has no {missing[0]}.{inner} {_SET_SOURCE}.")


def _last_line(output: bytes) -> str:
    """What a program said last that says something: Git's errors end with an advice."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", output.decode(errors="replace")) if line.strip()]
    said = [line for line in lines if line.startswith(("fatal:", "error:", "ssh:"))] or lines
    return re.sub(r"^(fatal|error): ", "", said[0]).rstrip(".") if said else "it said nothing"


def _raise_where_stopped(finished: runner.Finished) -> None:
    if finished.stopped:
        raise SourceStoppedError("Cancelled while getting the iPXE source.")


def _ensure_wanted(should_stop: ShouldStop | None) -> None:
    if should_stop and should_stop():
        raise SourceStoppedError("Cancelled while waiting for the iPXE source.")
