"""Build trees, and what is said where nothing comes out."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from rescuesite.files import locked
from roms.toolchain.ipxe import build as ipxe_build
from roms.toolchain.ipxe.host_tools import MissingTool
from roms.toolchain.ipxe.make_output import ErrorKind, Phase, explain
from roms.toolchain.ipxe.option_headers import Value
from roms.toolchain.ipxe.source import SourceTree
from tests.roms.ipxe_builds import KIB, Site, as_root, fresh, nothing_missing, site, template

__all__ = ["fresh", "nothing_missing", "site", "template"]


# Trees


def test_builds_of_two_feature_sets_do_not_disturb_each_other(site: Site, fresh: Site) -> None:
    profiles = ("minimal", "standard")
    expected = {profile: site.build(profile=profile).sha256 for profile in profiles}
    found: dict[str, str] = {}

    def build(profile: str) -> None:
        found[profile] = fresh.build(profile=profile).sha256

    threads = [threading.Thread(target=build, args=(profile,)) for profile in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_second_build_of_the_same_features_waits(site: Site) -> None:
    waiting = "Waiting for another build with the same features."
    with locked(site.lock_of(site.trees[0])):
        site.error("cancelled", stop_when=waiting)
    assert site.log.decode().count(waiting) == 1
    assert site.build().objects_compiled == 0


def test_what_an_interrupted_build_left_is_not_used(site: Site) -> None:
    expected = site.build().sha256
    (tree,) = site.trees
    # As it is when we are killed: the note is there, and an object is half written.
    (tree / "started").write_text("")
    time.sleep(0.02)
    (tree / "tree" / "src" / "bin" / "main.o").write_text("FEATURE main 260")
    again = site.build()
    assert again.sha256 == expected
    assert again.objects_compiled == 1
    assert not (tree / "started").exists()


def test_a_tree_whose_making_was_interrupted_is_made_again(site: Site) -> None:
    expected = site.build().sha256
    (tree,) = site.trees
    (tree / "state.json").unlink()
    shutil.rmtree(tree / "tree" / "src" / "core")
    assert site.build().sha256 == expected


def test_a_clock_that_was_set_back_makes_no_tree_stale(site: Site) -> None:
    (tree,) = site.trees
    ahead = time.time() + 3600
    for path in (tree / "state.json", *(tree / "tree" / "src" / "bin").iterdir()):
        os.utime(path, (ahead, ahead))
    assert b"echo other" in site.build(script=b"#!ipxe\necho other\n").artifact.read_bytes()
    # Nor is another copied from it.
    for path in (tree / "state.json", *(tree / "tree" / "src" / "bin").iterdir()):
        os.utime(path, (ahead, ahead))
    assert site.build(profile="standard").objects_compiled == 7


def test_after_an_upgrade_of_the_compiler_nothing_of_before_is_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ipxe_build._first_line
    monkeypatch.setattr(ipxe_build, "_first_line", lambda output: real(output) + " upgraded")
    assert site.build().objects_compiled == 7


def test_trees_that_were_not_used_for_longest_are_removed(site: Site) -> None:
    (minimal,) = site.trees
    site.build(profile="standard")
    size = max(int(json.loads((tree / "state.json").read_text())["size"]) for tree in site.trees)
    assert size > 50 * KIB
    site.builder.trees_limit = int(2.5 * size)
    site.build(profile="everything")
    assert len(site.trees) == 2
    assert minimal not in site.trees
    # One that is in use is left alone.
    site.builder.trees_limit = 1
    with locked(site.lock_of(site.trees[0])), locked(site.lock_of(site.trees[1])):
        site.build(profile="minimal")
    assert len(site.trees) == 2
    assert len(list((site.folder / "ipxe" / "locks").glob("*.lock"))) == 3
    assert (site.folder / "ipxe" / "locks").stat().st_mode & 0o777 == 0o700


def test_a_tree_whose_making_was_interrupted_is_removed_where_nobody_asks_for_it(site: Site) -> None:
    left = site.folder / "ipxe" / "trees" / "0123456789abcdef0123"
    (left / "tree").mkdir(parents=True)
    site.build()
    assert left not in site.trees
    assert len(site.trees) == 1


def test_a_folder_with_an_odd_name(tmp_path: Path, site: Site) -> None:
    odd = Site(tmp_path / "it's $HOME, or #1")
    assert odd.build().sha256 == site.build().sha256


# What is said where nothing comes out


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("compiler", {"FAULT_COMPILER": True}, 'Compiler error at core/fault.c:3:2: #error "this was asked for"'),
        ("too_large", {"FAULT_TOO_LARGE": True}, "bytes too large: a BIOS can load"),
        ("disk_full", {"FAULT_DISK_FULL": True}, "The disk is full."),
        ("options", {"PING_COMMAND": True}, "no option “PING_COMMAND”. Did you mean PING_CMD"),
        ("options", {"NVO_CMD": False}, "cannot be switched off"),
        ("options", {"BANNER_TIMEOUT": "long"}, "needs a number"),
    ],
)
def test_builds_that_fail(kind: str, options: Mapping[str, Value], said: str, site: Site) -> None:
    error = site.error(kind, options=options)
    assert said in str(error)
    assert kind == "options" or b"make: ***" in site.log
    assert list((site.folder / "out").rglob("*.*")) == []


@pytest.mark.parametrize("card", ["8086:9999", "0b95:7720", "nonsense", ""])
def test_a_card_that_the_tree_does_not_know(card: str, site: Site) -> None:
    """Said before anything is compiled; the third is one on USB."""
    site.error("unknown_card", card=card)
    assert Phase.TREE not in site.phases


def test_a_driver_that_is_not_the_cards(site: Site) -> None:
    assert "with beta or gamma, not with alpha" in str(site.error("unknown_card", card="10b7:9004", driver="alpha"))


def test_cancelling(site: Site) -> None:
    site.error("cancelled", options={"FAULT_HANG": True}, stop_when="[BUILD] bin/fault.o")
    assert b"[BUILD]" in site.log
    # make has cleaned up after itself: what was compiled before is kept, and good.
    (tree,) = (tree for tree in site.trees if '"built"' not in (tree / "state.json").read_text())
    assert not (tree / "started").exists()
    assert not (tree / "tree" / "src" / "bin" / "fault.o").exists()
    assert (tree / "tree" / "src" / "bin" / "console.o").exists()


def test_a_build_that_takes_too_long(site: Site) -> None:
    assert "took longer than 4 s" in str(site.error("timed_out", options={"FAULT_HANG": True}, timeout=4))


def test_a_missing_tool_is_named_before_anything_is_done(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipxe_build, "missing_tools", lambda target: [MissingTool("lzma.h", "liblzma-dev")])
    assert "apt-get install liblzma-dev" in str(site.error("missing_tool"))


def test_a_disk_with_little_space(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipxe_build, "SPACE", 1 << 60)
    assert "MB free, but a build needs" in str(site.error("disk_full"))


def test_a_source_that_is_not_there(site: Site) -> None:
    site.builder.source = SourceTree("/nonexistent", "", site.folder / "ipxe")
    assert "RESCUESITE_IPXE_SOURCE" in str(site.error("source"))


@as_root
def test_an_account_that_does_not_exist(site: Site) -> None:
    site.builder.user = "no-such-account"
    assert "There is no account no-such-account" in str(site.error("failed"))


@pytest.mark.parametrize(
    ("output", "kind", "said"),
    [
        # As the real tools say it.
        (
            "ld: bin/80860d4f.rom.tmp: undefined symbol `obj_80860d4f' referenced in expression\nmake: *** Error 1",
            ErrorKind.UNKNOWN_CARD,
            "80860d4f",
        ),
        ("ld: undefined reference to `obj_nonsense'", ErrorKind.UNKNOWN_CARD, "nonsense"),
        (
            "bin/blib.a(image_cmd.o): in function `x':\nhci/x.c:5: undefined reference to `image_verify'",
            ErrorKind.COMPILER,
            "do not work together: image_verify",
        ),
        ("Add 0x1 overflows 1-byte field (3584 bytes too big)", ErrorKind.TOO_LARGE, "3584 bytes too large"),
        (
            'config/general.h:224: error: "BANNER_TIMEOUT" redefined [-Werror]\ncc1: all warnings',
            ErrorKind.COMPILER,
            'config/general.h:224: "BANNER_TIMEOUT" redefined',
        ),
        ("core/x.c:1:10: fatal error: lzma.h: No such file or directory", ErrorKind.COMPILER, "core/x.c:1:10: lzma.h"),
        ("{standard input}: Fatal error: can't write 5 bytes: No space left on device", ErrorKind.DISK_FULL, "full"),
        ("make: *** No rule to make target 'bin/x.hrom'.  Stop.", ErrorKind.FAILED, "cannot make bin/x.hrom"),
        ("/bin/sh: 1: gcc: not found", ErrorKind.MISSING_TOOL, "gcc is missing"),
        ("make: *** Error 2", ErrorKind.FAILED, "status 2"),
    ],
)
def test_what_tools_say_is_understood(output: str, kind: ErrorKind, said: str) -> None:
    found, message = explain(output, 2)
    assert found is kind
    assert said in message
