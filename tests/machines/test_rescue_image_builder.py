"""How the build of the rescue system fails; that it succeeds and boots is shown in tests/e2e/test_rescue_system.py."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
from collections import namedtuple
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from machines.models import AuditEntry, RescueImage
from machines.rescue_system.build_folder import build_folder
from machines.rescue_system.builder import Builder, BuildError, Recipe

Usage = namedtuple("Usage", "total used free")


def program(folder: Path, name: str, script: str) -> None:
    """Put a small stand-in for a program into a folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on PATH, with an mksquashfs that does nothing."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program(folder, "mksquashfs", "exit 0")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def build() -> str:
    out = StringIO()
    call_command("build_rescue_image", "--suite", "bookworm", stdout=out, stderr=out)
    return out.getvalue()


def test_a_missing_program_is_named_with_the_package_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="apt-get install mmdebstrap squashfs-tools"):
        Builder(Recipe("bookworm"), tmp_path).build()


def test_too_little_space_is_said_before_anything_is_done(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "mmdebstrap", "exit 1")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 100 << 20))
    with pytest.raises(BuildError, match=r"has 100 MB free\. A build needs 4096 MB"):
        Builder(Recipe("bookworm"), tmp_path).build()


def test_a_failed_build_says_why_and_leaves_the_earlier_image(programs: Path, image: RescueImage) -> None:
    program(programs, "mmdebstrap", "echo 'E: no such suite' >&2; exit 25")
    with pytest.raises(CommandError, match=r"mmdebstrap failed \(25\):\nE: no such suite\nExisting images"):
        build()
    assert RescueImage.objects.get() == image
    assert RescueImage.objects.default() == image
    assert not AuditEntry.objects.filter(action__startswith="rescueimage_").exists()


def test_a_build_leaves_no_files_behind_when_it_fails(programs: Path, image: RescueImage, settings: object) -> None:
    program(programs, "mmdebstrap", "exit 1")
    before = set((builder_folder := Path(settings.RESCUESITE_DATA_DIR) / "tmp").iterdir())  # type: ignore[attr-defined]
    with pytest.raises(CommandError):
        build()
    assert set(builder_folder.iterdir()) == before


def test_the_full_profile_has_all_of_the_small_one_and_what_is_asked_for() -> None:
    small, full = Recipe("bookworm", "small").packages(), Recipe("bookworm", "full", ["htop"]).packages()
    assert set(small) < set(full)
    assert "htop" in full
    assert full == sorted(set(full))


# What is written on the command line


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("--setup-hook=touch /tmp/x"),
        Recipe("-"),
        Recipe("../x"),
        Recipe(""),
        Recipe("bookworm", include=["./x.deb"]),
        Recipe("bookworm", include=["/tmp/x.deb"]),
        Recipe("bookworm", include=["?true"]),
        Recipe("bookworm", include=["-o"]),
        Recipe("bookworm", include=["a b"]),
        Recipe("bookworm", mirror="--setup-hook=touch /tmp/x"),
        Recipe("bookworm", mirror="/etc/apt/sources.list"),
        Recipe("bookworm", mirror="deb [trusted=yes] http://x bookworm main"),
        Recipe("bookworm", mirror="http://x\ny"),
    ],
    ids=str,
)
def test_what_mmdebstrap_would_take_otherwise_is_refused(programs: Path, tmp_path: Path, recipe: Recipe) -> None:
    program(programs, "mmdebstrap", f"touch {tmp_path}/ran; exit 1")
    with pytest.raises(BuildError, match="Enter it like"):
        Builder(recipe, tmp_path).build()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("mirror", ["", "http://deb.debian.org/debian", "https://x/debian/", "file:/srv/mirror"])
def test_suites_packages_and_mirrors_are_taken(mirror: str) -> None:
    Recipe("bookworm-backports", include=["htop", "g++", "libc6:i386", "nano=7.2-1+deb12u1"], mirror=mirror).check()


def test_the_shell_takes_the_folders_name_for_nothing_else(programs: Path, tmp_path: Path) -> None:
    program(programs, "mmdebstrap", f'printf "%s\\n" "$@" > {tmp_path}/arguments; exit 1')
    folder = tmp_path / "a b;touch $(id)'"
    folder.mkdir()
    with pytest.raises(BuildError):
        Builder(Recipe("bookworm"), folder).build()
    arguments = (tmp_path / "arguments").read_text().splitlines()
    hooks = [line.partition("=")[2] for line in arguments if line.startswith("--customize-hook")]
    # What the hooks call tells of it; "id" and "touch" would be called by the folder's name alone.
    for name in ("cp", "ls", "find", "chroot", "rm", "cat", "id", "touch"):
        program(programs, name, f'echo "{name} $*" >> {tmp_path}/called')
    for hook in hooks[1:]:
        subprocess.run(["/bin/sh", "-c", hook, "sh", str(tmp_path)], env={"PATH": str(programs)}, check=False)
    called = (tmp_path / "called").read_text().splitlines()
    assert {line.partition(" ")[0] for line in called} == {"cp", "find", "chroot", "rm", "ls", "cat"}
    assert f"cp {tmp_path}/bin/busybox {folder}/busybox" in called
    assert shlex.split(hooks[0]) == ["sync-in", str(folder / "overlay"), "/"]


# The folder of a build

KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from machines.rescue_system.build_folder import build_folder
with build_folder(Path(sys.argv[1])) as (path, lock):
    (path / "root.tar").write_bytes(b"half")
    print(path, flush=True)
    # Holds the lock as mmdebstrap would, until its standard input ends.
    subprocess.Popen(["cat"], stdout=subprocess.DEVNULL, pass_fds=[lock])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_build_that_was_killed_is_cleared_away_by_the_next_once_nothing_of_it_runs(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=reading, stdout=subprocess.PIPE, text=True, pass_fds=[]
    )
    os.close(reading)
    left = Path(killed.stdout.strip())
    with build_folder(tmp_path):
        assert left.exists()
    # Its last program ends, and lets go of the lock.
    lock = os.open(left, os.O_RDONLY)
    os.close(writing)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.close(lock)
    with build_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder.path]
    assert list(tmp_path.iterdir()) == []


def test_a_build_leaves_those_alone_that_run(tmp_path: Path) -> None:
    with build_folder(tmp_path) as first, build_folder(tmp_path) as second:
        assert first.path.exists()
        assert second.path != first.path


def test_what_is_mounted_in_a_leftover_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "rescue-image-x"
    (left / "dev").mkdir(parents=True)
    read_text = Path.read_text
    line = f"36 35 98:0 / {left}/dev rw - devtmpfs udev rw\n"
    monkeypatch.setattr(
        Path, "read_text", lambda path: line if path == Path("/proc/self/mountinfo") else read_text(path)
    )
    with build_folder(tmp_path):
        assert left.exists()
