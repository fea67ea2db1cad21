"""The source tree: from directories and Git repositories, without asking anybody twice, and with errors that help."""

from __future__ import annotations

import copy
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rescuesite.files import locked
from roms.toolchain import runner
from roms.toolchain.ipxe import host_tools
from roms.toolchain.ipxe import source as ipxe_source
from roms.toolchain.ipxe.host_tools import MissingTool, missing_tools, tools_message
from roms.toolchain.ipxe.source import MARKS, SourceError, SourceStoppedError, SourceTree, redacted

STAND_IN = Path(__file__).parent / "stand_in"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another account")


class Upstream:
    """A Git repository with two commits of the stand-in: v1 tags the first, v2 (annotated) and main are the second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "upstream"
        shutil.copytree(STAND_IN, self.folder)
        self.git("init", "--quiet", "--initial-branch=main")
        self.first = self.commit("the first")
        self.git("tag", "v1")
        (self.folder / "NEWS").write_text("the second\n")
        self.second = self.commit("the second")
        self.git("tag", "-a", "-m", "two", "v2")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.net", "-c", "tag.gpgSign=false"]
        command = ["git", "-C", str(self.folder), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", message)
        return self.git("rev-parse", "HEAD")

    def bare(self) -> Path:
        path = self.folder.with_name("bare.git")
        self.git("clone", "--quiet", "--bare", str(self.folder), str(path))
        return path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    return Upstream(tmp_path_factory.mktemp("template"))


@pytest.fixture
def upstream(template: Upstream, tmp_path: Path) -> Upstream:
    """A repository of this test's own."""
    mine = copy.copy(template)
    mine.folder = shutil.copytree(template.folder, tmp_path / "upstream")
    return mine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where what is obtained is kept; as in a data directory, nobody else may enter it."""
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data" / "ipxe"


# Directories


def test_a_plain_directory_is_named_by_its_contents(tmp_path: Path, folder: Path) -> None:
    one, two = (shutil.copytree(STAND_IN, tmp_path / name) for name in ("one", "two"))
    # Neither where it lies nor when it was written counts, nor what was compiled in it.
    os.utime(two / "src" / "Makefile", (1, 1))
    (two / "src" / "bin").mkdir()
    (two / "src" / "bin" / "main.o").write_text("compiled")
    first = SourceTree(str(one), "v2.0.0", folder).obtain()
    assert SourceTree(str(two), "", folder.with_name("other")).obtain() == first
    (two / "src" / "Makefile").write_text("changed\n")
    assert SourceTree(str(two), "", folder).obtain() != first


def test_a_directory_within_another_repository_is_a_directory(folder: Path) -> None:
    """The stand-in lies in this project's repository, and is not that."""
    commit = SourceTree(str(STAND_IN), "v2.0.0", folder).obtain()
    assert SourceTree(str(STAND_IN), "nonsense", folder).obtain() == commit


@pytest.mark.parametrize("form", ["checkout", "bare", "url"])
def test_a_repository_in_a_directory(form: str, upstream: Upstream, folder: Path) -> None:
    (upstream.folder / "NEWS").write_text("not committed\n")
    bare = upstream.bare()
    source = {"checkout": str(upstream.folder), "bare": str(bare), "url": f"file://{bare}"}
    tree = SourceTree(source[form], "v2", folder)
    commit = tree.obtain()
    assert commit == upstream.second
    with tree.exported(commit) as exported:
        assert (exported / "NEWS").read_text() == "the second\n"


@as_root
def test_a_repository_of_another_account(upstream: Upstream, folder: Path) -> None:
    bare = upstream.bare()
    for path in (bare, *bare.rglob("*")):
        os.chown(path, 65534, 65534)
    assert SourceTree(str(bare), "v1", folder).obtain() == upstream.first


# Refs


def test_refs(upstream: Upstream, folder: Path) -> None:
    first, second = upstream.first, upstream.second
    refs = {"v1": first, "v2": second, "main": second, "HEAD": second, "": second, "refs/tags/v1": first}
    refs |= {"refs/heads/main": second, first: first, first[:9]: first}
    for ref, commit in refs.items():
        assert SourceTree(str(upstream.folder), ref, folder).obtain() == commit, ref


def test_a_tag_or_commit_that_is_here_asks_nobody(upstream: Upstream, folder: Path) -> None:
    trees = [SourceTree(str(upstream.folder), ref, folder) for ref in ("v1", "v2", upstream.first, "refs/tags/v1")]
    commits = [tree.obtain() for tree in trees]
    shutil.rmtree(upstream.folder / ".git" / "objects")
    assert [tree.obtain() for tree in trees] == commits


def test_a_branch_is_asked_for_again(upstream: Upstream, folder: Path) -> None:
    tree = SourceTree(str(upstream.folder), "main", folder)
    assert tree.obtain() == upstream.second
    (upstream.folder / "NEWS").write_text("the third\n")
    third = upstream.commit("the third")
    assert tree.obtain() == third


def test_a_branch_of_a_source_that_is_away_is_what_it_was_last(upstream: Upstream, folder: Path) -> None:
    tree = SourceTree(str(upstream.folder), "main", folder)
    tree.obtain()
    (upstream.folder / ".git" / "HEAD").write_text("damaged")
    heard = bytearray()
    assert tree.obtain(heard.extend) == upstream.second
    assert f"does not answer. Using the last known commit of main, {upstream.second}" in heard.decode()


def test_the_same_tag_of_two_sources_is_not_the_same(upstream: Upstream, tmp_path: Path, folder: Path) -> None:
    other = Upstream(tmp_path / "other")
    other.git("tag", "-f", "v1", other.second)
    assert SourceTree(str(upstream.folder), "v1", folder).obtain() == upstream.first
    assert SourceTree(str(other.folder), "v1", folder).obtain() == other.second


def test_progress_and_what_git_says_are_passed_on(upstream: Upstream, folder: Path) -> None:
    heard, shown = bytearray(), list[float]()
    SourceTree(f"file://{upstream.folder}", "v1", folder).obtain(heard.extend, progress=shown.append)
    assert b"objects: 100%" in heard
    assert shown[-1] == 1.0
    assert len(shown) > 1


def test_two_at_once(upstream: Upstream, folder: Path) -> None:
    found: list[str] = []
    trees = [SourceTree(str(upstream.folder), ref, folder) for ref in ("v1", "main", "v1", "v2")]
    threads = [threading.Thread(target=lambda tree=tree: found.append(tree.obtain())) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([upstream.first, upstream.first, upstream.second, upstream.second])


# Errors


def error(source: str, ref: str, folder: Path) -> str:
    with pytest.raises(SourceError) as raised:
        SourceTree(source, ref, folder).obtain()
    return str(raised.value)


def test_a_ref_that_there_is_not(upstream: Upstream, folder: Path) -> None:
    for ref in ("v3", "0123456", "0" * 40):
        message = error(str(upstream.folder), ref, folder)
        assert f"no tag, branch or commit “{ref}”. Set RESCUESITE_IPXE_REF" in message
    assert "It has v2" in error(str(upstream.folder), "v22", folder)


@pytest.mark.parametrize("ref", ["--upload-pack=x", "a b", "a..b", "a:b", "*", "x\n", "refs/../x"])
def test_what_can_be_no_ref_never_reaches_git(ref: str, upstream: Upstream, folder: Path) -> None:
    assert "is not a valid tag, branch or commit" in error(str(upstream.folder), ref, folder)


@pytest.mark.parametrize("source", ["/nonexistent/ipxe", "./nonexistent", "-x", ""])
def test_a_directory_that_there_is_not(source: str, folder: Path) -> None:
    what = f"There is no directory {source}" if source else "RESCUESITE_IPXE_SOURCE is empty"
    assert f"{what}. Set RESCUESITE_IPXE_SOURCE to" in error(source, "v1", folder)


def test_what_is_no_ipxe_tree(tmp_path: Path, upstream: Upstream, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"it has no {MARKS[0]}" in error(str(tmp_path / "empty"), "v1", folder)
    assert "Name the folder above it" in error(str(STAND_IN / "src"), "v1", folder)
    upstream.git("rm", "--quiet", "-r", "src/util")
    upstream.commit("not a tree")
    message = error(str(upstream.folder), "main", folder)
    assert "is not an iPXE source tree: main has no src/util/parserom.pl" in message


def test_nobody_answers(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"git://127.0.0.1:{taken.getsockname()[1]}/ipxe.git"
        message = error(address, "v1", folder)
    assert f"Cannot fetch the iPXE source {address}: " in message
    assert "Set RESCUESITE_IPXE_SOURCE to a Git URL that this host can reach, or to a directory" in message


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes a call and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"git://127.0.0.1:{server.getsockname()[1]}/ipxe.git"


def test_somebody_answers_and_says_nothing(silent: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipxe_source, "SILENCE", 0.5)
    assert "has not answered for" in error(silent, "v1", folder)


def test_cancelling(silent: str, folder: Path) -> None:
    with pytest.raises(SourceStoppedError):
        SourceTree(silent, "v1", folder).obtain(should_stop=lambda: True)


def test_cancelling_while_another_obtains(upstream: Upstream, folder: Path) -> None:
    tree = SourceTree(str(upstream.folder), "v1", folder)
    with locked(folder / "locks" / "source.lock"), pytest.raises(SourceStoppedError):
        tree.obtain(should_stop=lambda: True)


def test_a_source_that_would_run_a_command_is_refused(tmp_path: Path, folder: Path) -> None:
    message = error(f"ext::sh -c touch% {tmp_path}/ran", "v1", folder)
    assert "Cannot fetch" in message
    assert not (tmp_path / "ran").exists()


def test_a_password_in_the_address_is_not_repeated(folder: Path) -> None:
    message = error("http://user:secret@127.0.0.1:9/ipxe.git", "v1", folder)
    assert "secret" not in message
    assert redacted("fatal: unable to access 'http://user:secret@host/x.git/'") == (
        "fatal: unable to access 'http://…@host/x.git/'"
    )


def test_without_git(upstream: Upstream, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "SAFE_PATH", str(tmp_path))
    assert "git is not installed" in error(str(upstream.folder), "v1", folder)


# Exporting


def test_an_exported_tree_has_the_commits_time_and_modes_whatever_our_umask(upstream: Upstream, folder: Path) -> None:
    tree = SourceTree(str(upstream.folder), "v2", folder)
    commit = tree.obtain()
    umask = os.umask(0o077)
    try:
        with tree.exported(commit) as exported:
            assert {path.stat().st_mtime for path in exported.rglob("*")} == {tree.commit_time(commit)}
            assert (exported / "src" / "Makefile").stat().st_mode & 0o777 == 0o644
            assert (exported / "src" / "util" / "genfsimg").stat().st_mode & 0o777 == 0o755
            assert not (exported / ".git").exists()
    finally:
        os.umask(umask)


def test_a_part_of_a_tree(folder: Path) -> None:
    tree = SourceTree(str(STAND_IN), "", folder)
    with tree.exported(tree.obtain(), ["src/config"]) as exported:
        assert [path.name for path in (exported / "src").iterdir()] == ["config"]
    assert not exported.exists()


@as_root
def test_an_exported_tree_belongs_to_whom_it_is_for(folder: Path) -> None:
    tree = SourceTree(str(STAND_IN), "", folder)
    with tree.exported(tree.obtain(), user="nobody") as exported:
        assert {path.stat().st_uid for path in exported.rglob("*")} == {65534}


# Tools


def test_nothing_is_missing_here_for_a_rom() -> None:
    assert missing_tools("rom") == []


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "SAFE_PATH", str(tmp_path))
    found = missing_tools("usb")
    assert MissingTool("gcc", "gcc") in found
    assert {tool.package for tool in found} == {
        *("git", "tar", "gcc", "binutils", "make", "perl", "mawk", "mtools", "syslinux")
    }
    assert "xorriso" in {tool.package for tool in missing_tools("iso")}
    assert tools_message([MissingTool("mformat", "mtools"), MissingTool("mcopy", "mtools")]) == (
        "The build needs mformat, mcopy. Install with: apt-get install mtools"
    )


def test_a_header_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = host_tools._compiles

    def compiles(program: str, *arguments: str) -> bool:
        return "lzma.h" not in program and real(program, *arguments)

    monkeypatch.setattr(host_tools, "_compiles", compiles)
    assert missing_tools("rom") == [MissingTool("lzma.h", "liblzma-dev")]


def test_a_compiler_for_another_machine_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = host_tools._compiles

    def compiles(program: str, *arguments: str) -> bool:
        return "-m32" not in arguments and real(program, *arguments)

    monkeypatch.setattr(host_tools, "_compiles", compiles)
    assert [tool.tool for tool in missing_tools("rom")] == ["a gcc that compiles for x86"]
