"""Builds as workers run them, from the stand-in tree: what comes of each way that they can end."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError

from machines.models import Actor, AuditEntry, StoredFile
from roms.models import Build, Card, JobState
from roms.toolchain import option_rom
from roms.toolchain.ipxe import build as ipxe_build
from roms.toolchain.ipxe.host_tools import MissingTool
from roms.toolchain.ipxe.script.render import render
from roms.toolchain.ipxe.script.spec import from_json
from roms.worker.building import BuildRun
from tests.roms.conftest import SCRIPT

ALICE = Actor("alice")
STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture(autouse=True)
def _source(settings: LazySettings, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RESCUESITE_IPXE_SOURCE = str(STAND_IN)
    data_dir.chmod(0o700)
    # Tools for disk images need not be here: the stand-in does not use them.
    monkeypatch.setattr(ipxe_build, "missing_tools", lambda target: [])


def build(card: Card | None, **order: object) -> Build:
    """Ask for it and run it to its end."""
    order = {"profile": "minimal", "spec": from_json(SCRIPT), **order}
    job = Build(card=card, **order).submit(ALICE)
    BuildRun.claim_and_run(job.pk)
    job.refresh_from_db()
    return job


def test_a_rom_is_built_checked_and_kept_with_all_that_made_it(card: Card) -> None:
    built = build(card)
    assert (built.state, built.error) == (JobState.SUCCEEDED, "")
    assert built.artifact
    rom = built.artifact.path.read_bytes()
    option_rom.check_fits(rom, 0x8086, 0x1229, 65536)
    assert (built.size, built.fits, built.sha256) == (len(rom), True, built.artifact.sha256)
    assert built.script == render(from_json(SCRIPT))
    assert built.script.encode() in rom
    assert built.ipxe_commit
    assert "bin/80861229.rom" in built.commands[0]
    assert built.tool_versions["gcc"].startswith("gcc")
    assert built.effective_options["DOWNLOAD_PROTO_TFTP"] is False
    assert "== compiling" in built.log_from()[0]
    assert AuditEntry.objects.get(action="build_finished").outcome == "succeeded"


def test_the_same_order_gives_the_same_bytes(card: Card) -> None:
    assert build(card).sha256 == build(card).sha256


def test_the_trees_cards_are_in_the_catalogue_from_the_first_build_on(card: Card) -> None:
    assert Card.objects.count() == 1
    build(card)
    assert Card.objects.filter(origin=Card.Origin.TREE).exists()
    ambiguous = Card.objects.exclude(conflict="").first()
    assert ambiguous
    assert "," in ambiguous.conflict
    # What we know better stays.
    card.refresh_from_db()
    assert (card.name, card.chip_size) == ("Intel PRO/100", 65536)


def test_a_rom_that_does_not_fit_the_chip_is_refused_with_the_profile_that_does(card: Card) -> None:
    small = build(card)
    large = build(card, profile="standard")
    assert (large.state, large.fits, large.artifact) == (JobState.FAILED, False, None)
    assert f"{large.size:,} bytes" in large.error
    assert "65,536" in large.error
    assert f"“minimal” fits: it has {small.size:,}" in large.error
    assert [(one.profile, one.size) for one in Build.objects.known_sizes(card, "rom") if not one.is_typical] == [
        ("minimal", small.size),
        ("standard", large.size),
    ]


def test_known_sizes_of_another_card_of_the_driver_serve_meanwhile(card: Card) -> None:
    small = build(card)
    other, _ = Card.objects.get_or_create(slug="8086:1209", defaults={"pci_id": "8086:1209"})
    Card.objects.filter(pk=other.pk).update(driver=card.driver)
    other.refresh_from_db()
    assert [one.size for one in Build.objects.known_sizes(other, "rom") if not one.is_typical] == [small.size]
    stranger = Card.objects.exclude(driver=card.driver).first()
    assert stranger
    assert all(one.is_typical for one in Build.objects.known_sizes(stranger, "rom"))
    assert Build.objects.known_sizes(stranger, "efirom") == []


def test_a_card_whose_chip_is_unknown_takes_any_size(card: Card) -> None:
    card.chip_size = None
    card.save()
    built = build(card, profile="standard")
    assert (built.state, built.fits) == (JobState.SUCCEEDED, None)


def test_media_for_machines_whose_card_cannot_be_flashed_need_no_card(db: None) -> None:
    built = build(None, target="lkrn")
    assert (built.state, built.error) == (JobState.SUCCEEDED, "")
    assert built.file_name.endswith(".lkrn")


def test_a_compiler_error_is_the_answer_and_stands_in_the_log(card: Card) -> None:
    failed = build(card, options=["FAULT_COMPILER"])
    assert (failed.state, failed.artifact) == (JobState.FAILED, None)
    assert "Compiler error" in failed.error
    assert "error" in failed.log_from()[0]


def test_a_rom_larger_than_any_bios_can_load_is_refused(card: Card) -> None:
    failed = build(card, options=["FAULT_TOO_LARGE"])
    assert failed.state == JobState.FAILED
    assert "130,560" in failed.error


def test_a_full_disk_is_our_error_and_not_the_roms(card: Card) -> None:
    failed = build(card, options=["FAULT_DISK_FULL"])
    assert failed.state == JobState.SITE_ERROR
    assert "disk is full" in failed.error


def test_a_missing_tool_is_named_with_its_package(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipxe_build, "missing_tools", lambda target: [MissingTool("lzma.h", "liblzma-dev")])
    failed = build(card)
    assert failed.state == JobState.SITE_ERROR
    assert "liblzma-dev" in failed.error


def test_a_card_that_the_tree_does_not_know_is_refused(db: None) -> None:
    card = Card.objects.create(slug="dead:beef", pci_id="dead:beef", name="x")
    failed = build(card)
    assert failed.state == JobState.FAILED
    assert "dead:beef" in failed.error


def test_a_rom_that_came_out_for_another_card_does_not_count_as_built(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Card, "vendor", 0x10EC)
    failed = build(card)
    assert (failed.state, failed.artifact) == (JobState.FAILED, None)
    assert "not a ROM for this card" in failed.error


def test_an_option_that_the_tree_does_not_have_is_refused_with_the_one_that_was_meant(card: Card) -> None:
    failed = build(card, options=["PING_CMDS"])
    assert failed.state == JobState.FAILED
    assert "PING_CMD" in failed.error


def test_a_source_that_is_not_there_says_what_to_set(card: Card, settings: LazySettings) -> None:
    settings.RESCUESITE_IPXE_SOURCE = "/nonexistent/ipxe"
    failed = build(card)
    assert failed.state == JobState.SITE_ERROR
    assert "RESCUESITE_IPXE_SOURCE" in failed.error


def test_a_build_that_hangs_is_cancelled(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    said = BuildRun.log

    def cancel_once_it_hangs(run: BuildRun, output: bytes) -> None:
        said(run, output)
        if b"core/fault" in output or b"fault.o" in output:
            Build.objects.get(pk=run.job.pk).cancel(Actor("bob"))

    monkeypatch.setattr(BuildRun, "log", cancel_once_it_hangs)
    cancelled = build(card, options=["FAULT_HANG"])
    assert (cancelled.state, cancelled.cancel_requested_by) == (JobState.CANCELLED, "bob")


def test_a_disk_that_is_full_when_the_rom_is_to_be_kept_loses_no_record(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> StoredFile:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoredFile.objects.__class__, "store", full)
    failed = build(card)
    assert failed.state == JobState.SITE_ERROR
    assert "No space left" in failed.error


# What is refused before it is queued


@pytest.mark.parametrize(
    ("order", "field", "said"),
    [
        ({"spec": None, "script": "echo no magic"}, "script", "#!ipxe"),
        ({"spec": None, "script": ""}, "script", "#!ipxe"),
        ({"options": ["a b"]}, "options", "is not a valid option"),
        ({"options": "PING_CMD"}, "options", "list"),
        ({"target": "floppy"}, "target", "not a valid choice"),
        ({"profile": "tiny"}, "profile", "not a valid choice"),
        ({"banner": -1}, "banner", "greater than or equal"),
        ({"card": None}, "card", "A ROM needs a card"),
    ],
)
def test_a_bad_order_is_refused_where_it_is_wrong(card: Card, order: dict[str, object], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Build(**{"card": card, "spec": from_json(SCRIPT), **order}).submit(ALICE)
    assert said in " ".join(refused.value.message_dict[field])


def test_a_written_script_is_built_in_as_it_is(card: Card) -> None:
    built = build(card, spec=None, script="#!ipxe\r\necho mine\r\nexit 1\r\n")
    assert built.artifact
    assert b"#!ipxe\necho mine\nexit 1\n" in built.artifact.path.read_bytes()
