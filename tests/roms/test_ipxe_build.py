"""Builds, of the stand-in tree: what comes out, that it is always the same, and what is said where nothing does."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise

import pytest

from roms.toolchain import option_rom
from roms.toolchain.ipxe import trees as ipxe_trees
from roms.toolchain.ipxe.build import BuildRequest, Target
from roms.toolchain.ipxe.make_output import Phase
from tests.roms.ipxe_builds import KIB, SCRIPT, Site, as_root, fresh, nothing_missing, site, template

__all__ = ["fresh", "nothing_missing", "site", "template"]


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
    assert "Copying the objects of another set of features" in site.log.decode()
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
