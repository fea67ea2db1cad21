"""The ROMs' commands and files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from machines.models import AuditEntry, Machine, StoredFile
from roms.models import Build, Card, FlashJob, FlashKind, InstalledROM, Job, JobState, Station
from roms.toolchain.ipxe.script.spec import from_json
from tests.roms.conftest import SCRIPT, succeeded
from tests.roms.rom_commands import (
    ALICE,
    ROM,
    SITE,
    Screen,
    end_build,
    fail_build,
    manage,
    manage_json,
    meanwhile,
    refused,
    the,
)

__all__ = ["meanwhile"]


STAND_IN = Path(__file__).parent / "stand_in"


# Files


@pytest.mark.parametrize(("pad", "size"), [([], 1024), (["--pad", "2048"], 2048), (["--pad", "chip"], 65536)])
def test_what_was_made_is_written_out(
    pad: list[str], size: int, card: Card, data_dir: Path, meanwhile: Callable[..., None], tmp_path: Path
) -> None:
    meanwhile(end_build)
    manage("build_rom", "8086:1229", *SITE, "--output", tmp_path / "x.rom", *pad)
    assert (tmp_path / "x.rom").read_bytes() == ROM.ljust(size, b"\xff")


def test_a_rom_that_does_not_fit_is_not_written_out(
    card: Card, data_dir: Path, meanwhile: Callable[..., None], tmp_path: Path
) -> None:
    meanwhile(end_build)
    with pytest.raises(CommandError, match="1,024 bytes, more than 512") as raised:
        manage("build_rom", "8086:1229", *SITE, "--output", tmp_path / "x.rom", "--pad", "512")
    assert raised.value.returncode == 1
    assert not (tmp_path / "x.rom").exists()


def test_nothing_is_written_out_where_nothing_was_made(
    card: Card, data_dir: Path, meanwhile: Callable[..., None], tmp_path: Path
) -> None:
    meanwhile(fail_build)
    with pytest.raises(CommandError):
        manage("build_rom", "8086:1229", *SITE, "--output", tmp_path / "x.rom")
    assert not (tmp_path / "x.rom").exists()


# flash_rom


@pytest.fixture
def built(card: Card, data_dir: Path) -> Build:
    return succeeded(card, ROM)


@pytest.fixture
def saved(card: Card, station: Station, data_dir: Path) -> FlashJob:
    job = FlashJob(action=FlashKind.SAVE, card=card, station=station, slot="0000:03:00.0").submit(ALICE)
    job.claim("worker")
    job.finish(JobState.SUCCEEDED, backup=StoredFile.objects.store([b"old"]), backup_sha256="ab" * 32)
    return job


def test_a_flash_is_ordered(built: Build, station: Station, machine: Machine) -> None:
    shown = manage_json(
        *("flash_rom", built.pk, "--station", "local", "--machine", "web01", "--slot", "03:00.0"),
        *("--chip", "AT29C512", "--confirm", "web01"),
    )
    assert (shown["action"], shown["build"], shown["machine"], shown["card"], shown["slot"], shown["chip"]) == (
        "flash",
        built.pk,
        "web01",
        "8086:1229",
        "0000:03:00.0",
        "AT29C512",
    )


def test_another_card_of_the_same_kind_may_be_named(built: Build, station: Station, practice: Card) -> None:
    assert manage_json("flash_rom", built.pk, "--card", "practice", "--confirm", "local")["card"] == "practice"


def test_what_is_in_a_chip_is_only_saved(card: Card, station: Station) -> None:
    shown = manage_json("flash_rom", "--save", "--card", "8086:1229", "--confirm", "local")
    assert (shown["action"], shown["build"]) == ("save", None)


def test_what_was_saved_is_restored_where_it_was(saved: FlashJob) -> None:
    shown = manage_json("flash_rom", "--restore", saved.pk, "--confirm", "local")
    assert (shown["action"], shown["restores"], shown["slot"]) == ("restore", saved.pk, "0000:03:00.0")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{build}", "--confirm", "web01"], "confirm: Type the station's name, local"),
        (["{build}", "--machine", "web01", "--confirm", "local"], "confirm: Type the machine's name, web01"),
        (["{build}"], "Confirm the job with --confirm local"),
        (["{build}", "--station", "mars", "--confirm", "mars"], "There is no station “mars”"),
        (["{build}", "--machine", "web02", "--confirm", "web02"], "There is no machine “web02”"),
        (["{build}", "--card", "10ec:8139", "--confirm", "local"], "card: flashrom cannot write"),
        (["{build}", "--slot", "x", "--confirm", "local"], "slot: "),
        (["99", "--confirm", "local"], "There is no build 99"),
        (["--restore", "99", "--confirm", "local"], "There is no flash 99"),
        (["--save", "--confirm", "local"], "Name the card with --card"),
    ],
)
def test_what_is_wrong_with_a_flash_is_told(
    arguments: list[str], text: str, built: Build, station: Station, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("local\n"))
    Card.objects.create(slug="10ec:8139", pci_id="10ec:8139", name="Realtek")
    assert text in refused("flash_rom", *[argument.format(build=built.pk) for argument in arguments])


@pytest.mark.parametrize("arguments", [[], ["1", "--save"], ["--save", "--restore", "1"]])
def test_one_thing_is_done_with_a_chip(arguments: list[str], db: None) -> None:
    with pytest.raises(CommandError):
        manage("flash_rom", *arguments)


def test_who_sits_at_a_terminal_is_asked_to_confirm(
    built: Build, station: Station, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Screen("web01\n"))
    err = io.StringIO()
    manage("flash_rom", built.pk, "--machine", "web01", err=err)
    assert FlashJob.objects.get().machine == machine
    assert "into the flash chip of a Intel PRO/100 (8086:1229), of the machine web01, at the station local" in (
        err.getvalue()
    )


@pytest.mark.parametrize("typed", ["web02\n", "\n", ""])
def test_who_types_something_else_has_confirmed_nothing(
    typed: str, built: Build, station: Station, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Screen(typed))
    assert "Type the machine's name" in refused("flash_rom", built.pk, "--machine", "web01")


def test_nobody_is_asked_to_confirm_what_is_not_possible(
    card: Card, station: Station, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Screen("local\n"))
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    err = io.StringIO()
    with pytest.raises(CommandError, match="did not succeed"):
        manage("flash_rom", build.pk, err=err)
    assert "confirm" not in err.getvalue()


def test_waiting_for_a_flash_ends_with_what_was_written(
    built: Build, station: Station, meanwhile: Callable[..., None]
) -> None:
    def flash() -> None:
        job = the(FlashJob)
        job.claim("worker")
        results = {"backup_sha256": "ab" * 32, "backup_description": "iPXE", "wrote": True, "written_sha256": "cd" * 32}
        job.finish(JobState.SUCCEEDED, **results)

    meanwhile(flash)
    text = manage("flash_rom", built.pk, "--confirm", "local", "--wait")
    assert f"Saved contents: iPXE, SHA-256 {'ab' * 32}\nWrote: SHA-256 {'cd' * 32}\n" in text


def test_a_flash_that_was_refused_says_what_to_choose_from(
    built: Build, station: Station, meanwhile: Callable[..., None]
) -> None:
    def refuse() -> None:
        job = the(FlashJob)
        job.claim("worker")
        slots: list[dict[str, Any]] = [{"slot": "0000:03:00.0", "macs": [], "driver": None}]
        choices = {"chips": ["AT29C512", "AT49F512"], "slots": slots}
        job.finish(JobState.FAILED, "Which?", refusal="several", choices=choices)

    meanwhile(refuse)
    out = io.StringIO()
    with pytest.raises(CommandError, match=r"Which\?"):
        call_command("flash_rom", str(built.pk), "--confirm", "local", "--wait", stdout=out, stderr=io.StringIO())
    assert "--chip: AT29C512, AT49F512\nChoose with --slot: 0000:03:00.0" in out.getvalue()


def test_who_waits_at_a_station_without_a_worker_is_told_so(
    built: Build, station: Station, meanwhile: Callable[..., None]
) -> None:
    meanwhile(*[bool] * 30, lambda: the(FlashJob).cancel(ALICE))
    err = io.StringIO()
    with pytest.raises(CommandError, match="cancelled"):
        manage("flash_rom", built.pk, "--confirm", "local", "--wait", err=err)
    assert "The station “local” has no worker" in err.getvalue()
    assert "worker --station local" in err.getvalue()


# rom


def test_cards_are_found(card: Card, practice: Card) -> None:
    Card.objects.create(slug="10ec:8139", pci_id="10ec:8139", name="Realtek")
    assert [one["key"] for one in manage_json("rom", "cards", "intel", "1229")] == ["8086:1229"]
    assert [one["key"] for one in manage_json("rom", "cards", "--flashable")] == ["8086:1229", "practice"]
    lines = manage("rom", "cards").splitlines()
    assert lines[0].split() == ["CARD", "DRIVER", "PROGRAMMER", "CHIP", "NAME"]
    assert "8086:1229  eepro100  nicintel    65,536  Intel PRO/100" in lines


def test_all_cards_of_the_source_are_taken_into_the_catalogue_before_the_first_build(
    card: Card, data_dir: Path, settings: LazySettings
) -> None:
    settings.RESCUESITE_IPXE_SOURCE = str(STAND_IN)
    first = manage("rom", "load-cards")
    number = Card.objects.count()
    assert number > 1
    assert first == f"The list has {number} cards.\n"
    assert manage("rom", "load-cards") == first


def test_a_source_that_is_not_there_is_named(card: Card, data_dir: Path, settings: LazySettings) -> None:
    settings.RESCUESITE_IPXE_SOURCE = "/nonexistent/ipxe"
    with pytest.raises(CommandError, match="RESCUESITE_IPXE_SOURCE"):
        manage("rom", "load-cards")


def test_builds_are_listed(card: Card, built: Build) -> None:
    queued = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    assert [one["id"] for one in manage_json("rom", "builds")] == [queued.pk, built.pk]
    assert [one["id"] for one in manage_json("rom", "builds", "--state", "queued")] == [queued.pk]
    assert [one["id"] for one in manage_json("rom", "builds", "--limit", "1")] == [queued.pk]
    lines = [line.split() for line in manage("rom", "builds").splitlines()]
    assert lines[0][:6] == ["BUILD", "STATE", "CARD", "TARGET", "PROFILE", "SIZE"]
    assert lines[2][:6] == [str(built.pk), "succeeded", "8086:1229", "rom", "minimal", "1,024"]


def test_what_a_running_job_is_at_is_listed(card: Card, data_dir: Path) -> None:
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    build.claim("worker")
    build.beat(phase="compile")
    assert "running: compile" in manage("rom", "builds")


def test_flash_jobs_are_listed(saved: FlashJob) -> None:
    assert [one["id"] for one in manage_json("rom", "flashes")] == [saved.pk]
    assert "succeeded  save" in manage("rom", "flashes")


def test_stations_are_listed_with_their_workers(station: Station) -> None:
    Station.objects.seen("rack-7")
    assert {one["name"]: one["has_worker"] for one in manage_json("rom", "stations")} == {
        "local": False,
        "rack-7": True,
    }
    assert "local    no      never" in manage("rom", "stations")


def test_the_ledger_is_listed(card: Card, built: Build, machine: Machine) -> None:
    now = timezone.now()
    Build.objects.filter(pk=built.pk).update(finished_at=now - timedelta(days=1))
    newer = succeeded(card, ROM)
    Build.objects.filter(pk=newer.pk).update(finished_at=now, script_sha256="0" * 64)
    InstalledROM.objects.create(machine=machine, card=card, build=built)
    InstalledROM.objects.create(card=card, build=newer, description="spare")
    shown = [(one["machine"], one["outdated"]) for one in manage_json("rom", "installed")]
    assert sorted(shown, key=str) == [("web01", True), (None, False)]
    assert [one["machine"] for one in manage_json("rom", "installed", "--outdated")] == ["web01"]
    assert f"web01    8086:1229  build {built.pk}  outdated" in manage("rom", "installed")


def test_one_job_is_shown(built: Build) -> None:
    assert manage_json("rom", "show", "build", built.pk)["sha256"] == built.sha256
    assert f"{built.sha256}\n" in manage("rom", "show", "build", built.pk)


@pytest.mark.parametrize("action", ["show", "log", "cancel"])
def test_a_job_that_is_not_there(action: str, db: None) -> None:
    with pytest.raises(CommandError, match="There is no flash 99"):
        manage("rom", action, "flash", "99")


def test_a_log_is_printed(built: Build) -> None:
    built.log_path.write_bytes(b"one\n\x1b[31mtwo\n")
    assert manage("rom", "log", "build", built.pk) == "one\n[31mtwo\n"


def test_a_log_longer_than_one_reading_is_printed_whole(built: Build) -> None:
    built.log_path.write_bytes(b"0123456\n" * 80_000)
    assert manage("rom", "log", "build", built.pk) == "0123456\n" * 80_000


def test_a_log_is_followed_until_the_job_is_finished(
    card: Card, data_dir: Path, meanwhile: Callable[..., None]
) -> None:
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    build.log_path.write_bytes(b"one\n")

    def more() -> None:
        build.log_path.write_bytes(b"one\ntwo\n")
        end_build()

    meanwhile(bool, more)
    assert manage("rom", "log", "build", build.pk, "--follow") == "one\ntwo\n"


def test_a_job_is_cancelled(card: Card, data_dir: Path) -> None:
    User.objects.create_user("ada")
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    assert manage("rom", "cancel", "build", build.pk, "--by", "ada") == f"build {build.pk} is cancelled.\n"
    assert AuditEntry.objects.get(action="build_cancel_requested").actor == "ada"
    with pytest.raises(CommandError, match="has already finished: it is cancelled"):
        manage("rom", "cancel", "build", build.pk)


def test_a_running_job_is_asked_to_stop(card: Card, data_dir: Path) -> None:
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    build.claim("worker")
    assert "was asked to stop" in manage("rom", "cancel", "build", build.pk)


# prune_jobs


def aged(job: Job, days: int) -> None:
    type(job)._default_manager.filter(pk=job.pk).update(finished_at=timezone.now() - timedelta(days=days))


def test_old_jobs_go_with_their_files(card: Card, built: Build, practice: Card) -> None:
    old, new, waits = succeeded(card, ROM * 2), succeeded(card, ROM * 3), Build.of(from_json(SCRIPT), card=card)
    waits.submit(ALICE)
    for build, days in ((old, 401), (new, 399), (built, 1)):
        aged(build, days)
    StoredFile.objects.update(created_at=timezone.now() - timedelta(days=2))
    assert old.artifact
    assert manage("prune_jobs") == "Removed 1 builds, 0 flash jobs and 1 files.\n"
    assert set(Build.objects.values_list("pk", flat=True)) == {new.pk, built.pk, waits.pk}
    assert not old.artifact.path.exists()
    assert AuditEntry.objects.get(action="jobs_pruned").details["builds"] == 1


def test_what_was_saved_from_a_chip_stays_unless_it_is_to_go_too(saved: FlashJob) -> None:
    aged(saved, 500)
    manage("prune_jobs")
    assert FlashJob.objects.exists()
    manage("prune_jobs", "--saved-too")
    assert not FlashJob.objects.exists()


def test_what_a_card_holds_stays(built: Build, card: Card, machine: Machine) -> None:
    InstalledROM.objects.create(machine=machine, card=card, build=built)
    aged(built, 500)
    assert manage("prune_jobs", "--days", "1").startswith("Removed 0 builds")


def test_at_least_a_day_is_kept(db: None) -> None:
    with pytest.raises(CommandError, match="must be at least 1"):
        manage("prune_jobs", "--days", "0")
