"""How the build of the rescue system fails; that it succeeds and boots is shown in tests/e2e/test_rescue_system.py."""

from __future__ import annotations

import os
from collections import namedtuple
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from machines.models import AuditEntry, RescueImage
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
    with pytest.raises(BuildError, match="has 100 MB free; building needs 4096 MB"):
        Builder(Recipe("bookworm"), tmp_path).build()


def test_a_failed_build_says_why_and_leaves_the_earlier_image(programs: Path, image: RescueImage) -> None:
    program(programs, "mmdebstrap", "echo 'E: no such suite' >&2; exit 25")
    with pytest.raises(CommandError, match=r"mmdebstrap failed \(25\):\nE: no such suite\nThe earlier image"):
        build()
    assert RescueImage.objects.get() == image
    assert RescueImage.objects.default() == image
    assert not AuditEntry.objects.filter(action="rescueimage_built").exists()


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
