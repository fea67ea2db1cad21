"""Builds, of the stand-in tree: what comes out, that it is always the same, and what is said where nothing does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from rescuesite.files import locked
from roms.toolchain import option_rom
from roms.toolchain.ipxe import build as ipxe_build
from roms.toolchain.ipxe import trees as ipxe_trees
from roms.toolchain.ipxe.build import (
    Builder,
    BuildError,
    BuildRequest,
    BuildResult,
    ErrorKind,
    Listener,
    Phase,
    Target,
    explain,
)
from roms.toolchain.ipxe.options import Value
from roms.toolchain.ipxe.source import MissingTool, SourceTree

STAND_IN = Path(__file__).parent / "stand_in"
KIB = 1024
SCRIPT = b"#!ipxe\necho stand-in\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")


@dataclass
class Site:
    """A data directory that only its owner may enter, a builder in it, and all that it says."""

    folder: Path
    log: bytearray = field(default_factory=bytearray)
    phases: list[Phase] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700)
        (self.folder / "out").mkdir()
        source = SourceTree(str(STAND_IN), "v2.0.0", self.folder / "ipxe")
        self.builder = Builder(source, self.folder / "ipxe", jobs=2)

    def build(
        self,
        target: str = "rom",
        card: str = "8086:1229",
        script: bytes = SCRIPT,
        profile: str = "minimal",
        driver: str = "",
        options: Mapping[str, Value] | None = None,
        *,
        stop_when: str = "",
        timeout: float = 60,
    ) -> BuildResult:
        request = BuildRequest(
            Target(target),
            script,
            card if Target(target).needs_card else "",
            driver=driver,
            profile=profile,
            options=options or {},
        )
        into = Path(tempfile.mkdtemp(dir=self.folder / "out"))

        def should_stop() -> bool:
            return bool(stop_when) and stop_when.encode() in self.log

        listener = Listener(self.log.extend, self.phases.append, self.progress.append)
        return self.builder.build(request, into, listener, should_stop, timeout)

    def error(self, kind: str, **arguments: object) -> BuildError:
        with pytest.raises(BuildError) as raised:
            self.build(**arguments)  # type: ignore[arg-type]
        assert raised.value.kind == kind, raised.value
        return raised.value

    def lock_of(self, tree: Path) -> Path:
        return self.folder / "ipxe" / "locks" / f"{tree.name}.lock"

    @property
    def trees(self) -> list[Path]:
        return sorted(path for path in (self.folder / "ipxe" / "trees").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site in which the minimal ROM has been built."""
    site = Site(tmp_path_factory.mktemp("template") / "site")
    site.build()
    return site


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Site:
    """A site of this test's own in which the minimal ROM has been built."""
    site = Site(tmp_path / "site")
    subprocess.run(["cp", "-a", str(template.folder / "ipxe"), str(site.folder)], check=True)
    # What is known of the commit is the same.
    site.builder._known.update(template.builder._known)
    return site


@pytest.fixture
def fresh(tmp_path: Path) -> Site:
    """Another site, elsewhere, in which nothing has been built."""
    return Site(tmp_path / "fresh")


@pytest.fixture(autouse=True)
def nothing_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools for disk images need not be here: the stand-in does not use them."""
    monkeypatch.setattr(ipxe_build, "missing_tools", lambda target: [])


# What comes out


def test_a_rom(fresh: Site) -> None:
    built = fresh.build()
    data = built.artifact.read_bytes()
    assert built.artifact.name == "80861229.rom"
    assert option_rom.check_fits(data, 0x8086, 0x1229, 64 * KIB).images[0].product == "Stand-in ROM"
    assert SCRIPT in data
    assert (built.size, built.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert built.commit.encode() in data
    assert built.objects_compiled == 7
    assert built.seconds > 0
    (command,) = built.commands
    assert command.startswith("nice make -j2 bin/80861229.rom EMBED=")
    assert f"GITVERSION={built.commit}" in command
    assert built.tool_versions["gcc"].startswith("gcc ")
    assert set(built.tool_versions) == {"gcc", "ld", "make", "perl"}
    assert command.encode() in fresh.log
    assert b"[BUILD] bin/main.o" in fresh.log


def test_the_default_build_does_not_fit_the_chip_and_the_minimal_one_does(site: Site) -> None:
    sizes = {profile: site.build(profile=profile).size for profile in ("minimal", "standard", "everything")}
    assert sizes["minimal"] <= 64 * KIB < sizes["standard"] < sizes["everything"]


def test_single_options_and_the_banner_are_built_in(site: Site) -> None:
    request = BuildRequest(Target.ROM, SCRIPT, "8086:1229", profile="minimal", options={"PING_CMD": "on"}, banner=0)
    built = site.builder.build(request, site.folder / "out")
    assert (built.options["PING_CMD"], built.options["ROM_BANNER_TIMEOUT"]) == (True, 0)
    assert b"\nping\n" in built.artifact.read_bytes()
    assert b"\nbanner-0\n" in built.artifact.read_bytes()


@pytest.mark.parametrize(
    ("target", "kinds", "name"),
    [
        ("mrom", "BIOS", "80861229.mrom"),
        ("efirom", "UEFI (x64)", "80861229.efirom"),
        ("combined", "BIOS and UEFI (x64)", "80861229.combined.rom"),
    ],
)
def test_roms_of_other_kinds(target: str, kinds: str, name: str, site: Site) -> None:
    built = site.build(target)
    rom = option_rom.check_fits(built.artifact.read_bytes(), 0x8086, 0x1229)
    assert rom.kinds == kinds
    assert built.artifact.name == name
    assert built.artifact.read_bytes().count(SCRIPT) == len(rom.images)


@pytest.mark.parametrize("target", ["iso", "usb"])
def test_images_for_machines_whose_card_cannot_be_flashed(
    target: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = site.build(target)
    data = built.artifact.read_bytes()
    assert built.artifact.name == f"ipxe.{target}"
    assert b"ipxe.lkrn\n" in data
    assert b"ipxe.efi\n" in data
    assert data.count(SCRIPT) == 2
    # All drivers.
    assert data.count(b"\nalpha\n") == data.count(b"\nbeta\n") == 2
    assert "genfsimg" in built.commands[-1]


@pytest.mark.parametrize("target", ["lkrn", "efi"])
def test_programs(target: str, site: Site) -> None:
    built = site.build(target)
    assert built.artifact.name == f"ipxe.{target}"
    assert f"stand-in {target} ".encode() in built.artifact.read_bytes()


def test_a_card_that_two_drivers_claim(site: Site) -> None:
    assert b"\ngamma\n" in site.build(card="10b7:9004").artifact.read_bytes()
    chosen = site.build(card="10b7:9004", driver="beta").artifact.read_bytes()
    assert b"\nbeta\n" in chosen
    assert b"\ngamma\n" not in chosen


def test_a_build_without_script(site: Site) -> None:
    assert "EMBED" not in site.build(script=b"").commands[0]


# Always the same


def test_the_same_bytes_elsewhere_and_otherwise(site: Site, fresh: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = ("rom", "combined", "iso")
    first = [site.build(target).sha256 for target in targets]
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("CFLAGS", "-O3")
    umask = os.umask(0o077)
    try:
        assert [fresh.build(target).sha256 for target in targets] == first
    finally:
        os.umask(umask)


def test_another_script_is_built_in_and_nothing_compiled(site: Site) -> None:
    first = site.build()
    second = site.build(script=b"#!ipxe\necho other\n")
    assert second.objects_compiled == 0
    assert second.sha256 != first.sha256
    # Its contents and its name are those of before, and make has to see that it is another one again.
    assert site.build().sha256 == first.sha256
    assert len(site.trees) == 1


def test_the_same_build_again_does_nothing(site: Site) -> None:
    first = site.build()
    site.log.clear()
    assert site.build().sha256 == first.sha256
    assert b"is up to date" in site.log


def test_another_card_is_built_and_nothing_compiled(site: Site) -> None:
    second = site.build(card="10ec:8139")
    assert second.objects_compiled == 0
    assert option_rom.read(second.artifact.read_bytes()).vendor == 0x10EC


def test_other_features_compile_only_what_reads_them_and_give_what_a_fresh_tree_gives(site: Site, fresh: Site) -> None:
    mixed = [
        site.build(profile="standard"),
        site.build(profile="minimal", options={"CONSOLE_SERIAL": True}),
        site.build(profile="minimal"),
    ]
    # The second is made from the first, which was used last: the protocols change back, and the console changes.
    assert [built.objects_compiled for built in mixed] == [1, 2, 0]
    assert "Copying the objects of another feature set" in site.log.decode()
    anew = fresh.build(profile="minimal", options={"CONSOLE_SERIAL": True})
    assert anew.objects_compiled == 7
    assert anew.sha256 == mixed[1].sha256


def test_an_object_that_the_preprocessor_stops_at_is_not_taken_from_another_tree(site: Site) -> None:
    for _ in range(2):
        # Other objects change too: make then begins anew, and has lost the dependencies of this one.
        site.error("compiler", profile="standard", options={"FAULT_COMPILER": True})


def test_an_option_that_changes_nothing_needs_no_tree_of_its_own(site: Site) -> None:
    site.build(options={"NVO_CMD": "on", "BANNER_TIMEOUT": 20})
    assert len(site.trees) == 1


def test_progress(fresh: Site) -> None:
    fresh.build("combined")
    assert fresh.progress[-1] == 1.0
    assert all(0 <= one <= two <= 1 for one, two in pairwise(fresh.progress))
    assert fresh.phases[:2] == [Phase.SOURCE, Phase.TREE]
    assert {Phase.DEPENDENCIES, Phase.COMPILING, Phase.LINKING} <= set(fresh.phases)
    assert fresh.phases[-1] is Phase.FINISHING


@as_root
def test_tools_do_not_run_as_root_and_learn_nothing_of_us(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCUESITE_SECRET_KEY", "a-secret")
    site.build(options={"FAULT_TELL": True})
    told = next(line for line in site.log.decode().splitlines() if line.startswith("account "))
    assert told.startswith("account 65534 environment ")
    names = set(told.split()[3].split(","))
    ours = {"HOME", "LC_ALL", "PATH", "PERL5LIB", "SOURCE_DATE_EPOCH", "TMPDIR", "TZ"}
    makes = {"EMBED", "EXTRA_CFLAGS", "GITVERSION", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MAKE_TERMERR", "MFLAGS"}
    assert ours <= names <= ours | makes | {"MAKE_TERMOUT", "PWD", "OLDPWD", "SHLVL", "_"}


@as_root
def test_a_tree_cannot_make_us_hand_out_what_only_we_may_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = site.folder / "secret"
    secret.write_text("a-secret")
    secret.chmod(0o600)
    used = ipxe_trees.Tree.used

    def swapped(tree: ipxe_trees.Tree, **facts: object) -> None:
        """As if the tree's own Makefile had done it last."""
        used(tree, **facts)
        rom = tree.src / "bin" / "80861229.rom"
        rom.unlink()
        rom.symlink_to(secret)

    monkeypatch.setattr(ipxe_trees.Tree, "used", swapped)
    site.error("failed")
    assert not any(b"a-secret" in path.read_bytes() for path in (site.folder / "out").rglob("*.rom"))


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
    waiting = "Another build with the same features is running; waiting for it."
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
        ("compiler", {"FAULT_COMPILER": True}, 'The compiler says at core/fault.c:3:2: #error "this was asked for"'),
        ("too_large", {"FAULT_TOO_LARGE": True}, "bytes larger than any BIOS can load"),
        ("disk_full", {"FAULT_DISK_FULL": True}, "The disk is full."),
        ("options", {"PING_COMMAND": True}, "no option “PING_COMMAND”. Did you mean PING_CMD"),
        ("options", {"NVO_CMD": False}, "cannot be switched off"),
        ("options", {"BANNER_TIMEOUT": "long"}, "needs a number"),
    ],
)
def test_builds_that_fail(kind: str, options: Mapping[str, Value], said: str, site: Site) -> None:
    error = site.error(kind, options=options)
    assert said in str(error)
    assert kind == "options" or "make: ***" in error.tail
    assert list((site.folder / "out").rglob("*.*")) == []


@pytest.mark.parametrize("card", ["8086:9999", "0b95:7720", "nonsense", ""])
def test_a_card_that_the_tree_does_not_know(card: str, site: Site) -> None:
    """Said before anything is compiled; the third is one on USB."""
    site.error("unknown_card", card=card)
    assert Phase.TREE not in site.phases


def test_a_driver_that_is_not_the_cards(site: Site) -> None:
    assert "with beta or gamma, not with alpha" in str(site.error("unknown_card", card="10b7:9004", driver="alpha"))


def test_cancelling(site: Site) -> None:
    error = site.error("cancelled", options={"FAULT_HANG": True}, stop_when="[BUILD] bin/fault.o")
    assert "[BUILD]" in error.tail
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
    assert "MB free; a build needs" in str(site.error("disk_full"))


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
            "do not go together: image_verify",
        ),
        ("Add 0x1 overflows 1-byte field (3584 bytes too big)", ErrorKind.TOO_LARGE, "3584 bytes larger"),
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
