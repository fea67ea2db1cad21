"""Debian's packages are listed in the Makefile; what pages and messages tell people to install is the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from machines.rescue_system.builder import TOOLS
from roms.toolchain import runner
from roms.toolchain.ipxe import host_tools
from tests import pages

ROOT = Path(__file__).parent.parent


def listed(name: str) -> set[str]:
    command = ["make", "-s", "--no-print-directory", "-C", str(ROOT), f"packages-of-{name}"]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert words
    return set(words)


def lists() -> list[set[str]]:
    """What each `apt-get install` of README and docs/ installs."""
    command = "apt-get install --no-install-recommends "
    return [set(line.removeprefix(command).split()) for line in pages.lines_of(pages.PACKAGES)]


@pytest.mark.parametrize("name", ["ROM", "IMAGE"])
def test_the_pages_name_the_packages_that_the_makefile_lists(name: str) -> None:
    assert listed(name) in lists()


def test_the_pages_name_no_other_packages() -> None:
    assert [found for found in lists() if found not in (listed("ROM"), listed("IMAGE"))] == []


@pytest.mark.parametrize("name", ["FAST", "TEST"])
def test_the_tests_have_what_rom_builds_need(name: str) -> None:
    assert listed("ROM") <= listed(name)


@pytest.mark.parametrize("target", ["rom", "iso", "usb"])
def test_what_a_build_misses_is_in_the_list(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "SAFE_PATH", str(tmp_path))
    monkeypatch.setattr(
        host_tools, "_ISO_FILES", {"x": (str(tmp_path), "isolinux"), "y": (str(tmp_path), "syslinux-common")}
    )
    named = {tool.package for tool in host_tools.missing_tools(target)}
    # Of every Debian system, or what gcc and perl depend on.
    assert named - {"tar", "mawk", "binutils"} <= listed("ROM")


def test_what_an_image_misses_is_in_the_list() -> None:
    assert set(TOOLS.values()) == listed("IMAGE")
