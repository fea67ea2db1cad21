"""The iPXE source: fetched from a Git URL or a directory, stored in a bare repository, unpacked at one commit.

Git runs under our own account, because it only fetches data. Programs of the tree (make, Perl scripts) run under
another account.
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

#: Files that every iPXE source tree has.
MARKS = ("src/Makefile", "src/config/general.h", "src/util/parserom.pl")
#: The commit time for a directory without Git, 2020-01-01: the same files must give the same bytes.
PLAIN_TIME = 1577836800
#: Git prints progress. After this many seconds without output, the source does not answer.
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
#: The environment variables that Git gets from us: proxies, certificates, and keys for SSH.
_PASSED = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "HOME", "SSH_AUTH_SOCK"),
)
_FULL = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")
_PERCENT = re.compile(rb"(Counting|Compressing|Receiving|Unpacking|Resolving)[^:\r\n]*: +(\d+)%")
#: The start and the width of each phase of a fetch in the progress.
_SHARES = {
    b"Counting": (0.0, 0.02),
    b"Compressing": (0.02, 0.08),
    b"Receiving": (0.1, 0.7),
    b"Unpacking": (0.1, 0.9),
    b"Resolving": (0.8, 0.2),
}
_SET_SOURCE = "Set RESCUESITE_IPXE_SOURCE to a Git URL that this host can reach, or to a directory with the iPXE source"


class SourceError(Exception):
    """The source is not available. The message says why, and what to do."""


class SourceStoppedError(SourceError):
    """Somebody cancelled the fetch."""


@dataclass(frozen=True)
class SourceTree:
    """One source at one ref. The repository is in `folder`, which only we can read."""

    source: str
    ref: str
    folder: Path
    _key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Two sources may have different commits with the same ref.
        object.__setattr__(self, "_key", hashlib.sha256(self.source.encode()).hexdigest()[:12])

    @property
    def repository(self) -> Path:
        return self.folder / "source.git"

    @property
    def lock(self) -> Path:
        """The lock for a fetch."""
        return self.folder / "locks" / "source.lock"

    def obtain(
        self,
        log: Log | None = None,
        should_stop: ShouldStop | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Fetch the ref if necessary, and return its commit. Raises SourceError.

        A tag or a commit is fetched only once. A branch is fetched every time. If the source does not answer, the last
        known commit of the branch is used, and the log says so.
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
        """The time of the commit, in seconds since 1970."""
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
        """Unpack a commit, or some of its paths, into a new folder of `user`. The files get the time of the commit.

        The user needs no access to the folders above `into`.
        """
        git = self._git(None, should_stop)
        make_folder(into, user)
        archive = into / ".export.tar"
        try:
            git.read("archive", "--format=tar", f"--output={archive.resolve()}", commit, *paths)
            archive.chmod(0o644)
            # --same-permissions: do not use our umask.
            unpack = ["tar", "--extract", "--same-permissions", "--no-same-owner", f"--file={archive.name}"]
            finished = runner.run(unpack, cwd=into, user=user, should_stop=should_stop)
            _raise_where_stopped(finished)
            if finished.returncode:
                raise SourceError(f"Cannot unpack the source into {into}: {_last_line(finished.output)}")
        except runner.ProgramMissingError as error:
            raise SourceError(f"{error} Install it: apt-get install tar") from error
        finally:
            archive.unlink(missing_ok=True)

    @contextmanager
    def exported(self, commit: str, paths: Sequence[str] = (), user: str | None = None) -> Iterator[Path]:
        """A commit, or some of its paths, in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="export-", dir=self.folder) as folder:
            tree = Path(folder) / "tree"
            self.export(commit, tree, paths=paths, user=user)
            yield tree

    # How a ref becomes a commit

    def _directory(self) -> Path | None:
        """The source if it is a directory; None if it is a URL. Raises SourceError if the directory does not exist."""
        path = Path(self.source).expanduser()
        if self.source and path.is_dir():
            return path.resolve()
        if not self.source or self.source.startswith(("/", ".", "~", "-")):
            what = f"There is no directory {self.source}" if self.source else "RESCUESITE_IPXE_SOURCE is empty"
            raise SourceError(f"{what}. {_SET_SOURCE}.")
        return None

    def _prepare(self, git: _Git) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (*self.folder.glob("export-*"), *self.folder.glob("index-*")):
            # A killed process left it. Nobody uses such a folder for a day.
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - 86400:
                    shutil.rmtree(left, ignore_errors=True)
        git.settings.write_text(_SETTINGS)
        if not (self.repository / "HEAD").exists():
            # The repository is missing, or `git init` was interrupted.
            shutil.rmtree(self.repository, ignore_errors=True)
            made = git.run("init", "--quiet", "--bare", str(self.repository), outside=True)
            if made.returncode:
                raise SourceError(f"Git cannot create {self.repository}: {_last_line(made.output)}")

    def _ref(self, kind: str, name: str) -> str:
        return f"refs/obtained/{self._key}/{kind}/{name}"

    def _kept(self, git: _Git) -> str | None:
        """The commit, if the ref is a tag or a commit that was fetched before."""
        if _FULL.fullmatch(self.ref):
            return git.commit(self.ref)
        tag = self.ref.removeprefix("refs/tags/")
        return git.commit(self._ref("tags", tag)) if _is_name(tag) else None

    def _fetched(self, git: _Git) -> str:
        if not _FULL.fullmatch(self.ref) and not _is_name(self.ref or "HEAD"):
            raise SourceError(f"“{self.ref}” is not a valid tag, branch or commit. Set RESCUESITE_IPXE_REF.")
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
        """The possible full names of the ref, in Git's order."""
        if self.ref in {"", "HEAD"}:
            return ["HEAD"]
        if self.ref.startswith("refs/"):
            return [self.ref]
        return [f"refs/tags/{self.ref}", f"refs/heads/{self.ref}"]

    def _remote_names(self, git: _Git) -> list[str] | None:
        """The refs of the source; None if it does not answer, but an earlier commit of the branch is available."""
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
        """The last known commit of the branch."""
        name = self.ref.removeprefix("refs/heads/") or "HEAD"
        return git.commit(self._ref("heads", name))

    def _last_known(self, git: _Git) -> str:
        commit = self._older(git)
        assert commit is not None
        git.say(f"The source does not answer. Using the last known commit of {self.ref or 'HEAD'}, {commit}.")
        return commit

    def _fetch(self, git: _Git, theirs: str, ours: str, names: list[str] | None = None) -> str:
        """Fetch one ref without its history, or with it if the server cannot do that."""
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
        """Fetch everything to find an abbreviated commit: Git servers do not resolve it."""
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
        """Store a directory without Git as a commit. Its ID depends only on the contents.

        Files that the tree's .gitignore files list are left out.
        """
        _check_marks(directory)
        with tempfile.TemporaryDirectory(prefix="index-", dir=self.folder) as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder).resolve() / "index")}
            place = [f"--work-tree={directory}", "-C", str(directory)]
            added = git.run("add", "--all", "--", ".", before=place, environment=index)
            if added.returncode:
                raise SourceError(
                    f"Cannot read the directory {directory}: {_last_line(added.output)}. Give the site's account read "
                    "access, or set RESCUESITE_IPXE_SOURCE to another directory."
                )
            tree = git.read("write-tree", environment=index)
        who = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in {"NAME": "rescuesite", "EMAIL": "", "DATE": f"{PLAIN_TIME} +0000"}.items()
        }
        # No ref is needed: Git never collects garbage in this repository.
        return git.read("commit-tree", "-m", "a directory", tree, environment=who)

    def _check(self, git: _Git, commit: str) -> None:
        there = git.read("ls-tree", "--name-only", "--full-tree", commit, "--", *MARKS).splitlines()
        if missing := [name for name in MARKS if name not in there]:
            raise SourceError(
                f"{redacted(self.source)} is not an iPXE source tree: {self.ref or 'HEAD'} has no {missing[0]}. "
                f"{_SET_SOURCE}, and RESCUESITE_IPXE_REF to a release of iPXE."
            )

    # Errors

    def _unreachable(self, output: bytes) -> SourceError:
        return SourceError(
            f"Cannot fetch the iPXE source {redacted(self.source)}: {redacted(_last_line(output))}. {_SET_SOURCE}. "
            "A bare Git repository on this host also works."
        )

    def _no_such_ref(self, names: list[str]) -> SourceError:
        short = [re.sub(r"^refs/(heads|tags)/", "", name) for name in names if not name.endswith("^{}")]
        near = difflib.get_close_matches(self.ref, short, n=3) or [name for name in short if name.startswith("v")][-3:]
        hint = f" It has {', '.join(near)}." if near else ""
        return SourceError(
            f"The iPXE source {redacted(self.source)} has no tag, branch or commit “{self.ref}”. "
            f"Set RESCUESITE_IPXE_REF.{hint}"
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
        """Run Git. `outside`: not in our repository. `quiet`: no output in the log. Raises SourceError."""
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
            raise SourceError(f"The iPXE source has not answered for {SILENCE:.0f} s. {_SET_SOURCE}.")
        _raise_where_stopped(finished)
        return finished

    def read(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """The output of a command. Raises SourceError if the command fails."""
        finished = self.run(*arguments, environment=environment, quiet=True)
        if finished.returncode:
            raise SourceError(f"Git failed ({arguments[0]}): {_last_line(finished.output)}")
        return finished.output.decode(errors="replace").strip()

    def commit(self, ref: str) -> str | None:
        """The commit of a local ref; None if it is not available."""
        finished = self.run("rev-parse", "--quiet", "--verify", "--end-of-options", f"{ref}^{{commit}}", quiet=True)
        found = finished.output.decode(errors="replace").strip()
        if finished.returncode or not _FULL.fullmatch(found):
            return None
        # rev-parse accepts every full commit ID, also a missing one.
        present = self.run("cat-file", "-e", f"{found}^{{tree}}", quiet=True)
        return found if not present.returncode else None

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        return passed | {
            # Settings on the command line would not reach the Git process that reads another local repository.
            "GIT_CONFIG_GLOBAL": str(self.settings),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20"),
            # ext: and other protocols run commands.
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        }


@dataclass
class _Watch:
    """Reads the progress from Git's output, and notices when the output stops."""

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


# Helpers


def make_folder(path: Path, user: str | None = None) -> None:
    """Make a folder that belongs to `user` if we are root."""
    path.mkdir(mode=0o755, parents=True)
    path.chmod(0o755)
    if user is not None and os.geteuid() == 0:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise runner.AccountMissingError(f"There is no account {user} on this host.") from None
        os.chown(path, account.pw_uid, account.pw_gid)


def redacted(text: str) -> str:
    """The text with passwords removed from URLs."""
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1…@", text)


def _is_repository(path: Path) -> bool:
    return (path / ".git").exists() or all((path / name).exists() for name in ("HEAD", "objects", "refs"))


def _is_name(text: str) -> bool:
    """Whether the text is a valid name of a ref, and neither an option nor a pattern."""
    forbidden = re.search(r"\.\.|@\{|//|/$|\.lock$|[\x00-\x20\x7f~^:?*\[\\]", text)
    return bool(text) and not forbidden and not text.startswith(("-", "/", "."))


def _check_marks(directory: Path) -> None:
    missing = [name for name in MARKS if not (directory / name).is_file()]
    if missing:
        inner = " Name the folder above it." if (directory / missing[0].removeprefix("src/")).is_file() else ""
        raise SourceError(f"{directory} is not an iPXE source tree: it has no {missing[0]}.{inner} {_SET_SOURCE}.")


def _last_line(output: bytes) -> str:
    """The line with the error in a program's output: Git prints advice after it."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", output.decode(errors="replace")) if line.strip()]
    said = [line for line in lines if line.startswith(("fatal:", "error:", "ssh:"))] or lines
    return re.sub(r"^(fatal|error): ", "", said[0]).rstrip(".") if said else "no output"


def _raise_where_stopped(finished: runner.Finished) -> None:
    if finished.stopped:
        raise SourceStoppedError("Cancelled while getting the iPXE source.")


def _ensure_wanted(should_stop: ShouldStop | None) -> None:
    if should_stop and should_stop():
        raise SourceStoppedError("Cancelled while waiting for the iPXE source.")
