"""The commands that order builds and flash jobs, wait for them, and show what goes on."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from machines.models import Actor, AuditEntry, Machine, StoredFile
from roms.management import terminal
from roms.management.commands import rom as rom_command
from roms.models import Build, Card, FlashJob, FlashKind, InstalledROM, Job, JobState, Station
from roms.models.job import LOST_AFTER
from roms.toolchain.ipxe.script.spec import from_json
from tests.roms.conftest import SCRIPT, succeeded

ALICE = Actor("alice")
SITE = ("--site", "http://192.0.2.10")
STAND_IN = Path(__file__).parent / "stand_in"
ROM = b"\x55\xaa" + bytes(1022)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def manage(*arguments: Any, err: io.StringIO | None = None) -> str:
    """What a command prints."""
    out = io.StringIO()
    call_command(*[str(argument) for argument in arguments], stdout=out, stderr=err or io.StringIO(), no_color=True)
    return out.getvalue()


def manage_json(*arguments: Any) -> Any:
    return json.loads(manage(*arguments, "--json"))


def refused(*arguments: Any) -> str:
    """Why a command orders nothing."""
    before = Build.objects.count() + FlashJob.objects.count()
    with pytest.raises(CommandError) as raised:
        manage(*arguments)
    assert raised.value.returncode == 2
    assert Build.objects.count() + FlashJob.objects.count() == before
    return str(raised.value)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What happens, step by step, while a command waits; after the last step nothing does, and time goes by."""
    steps: list[Callable[[], object]] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if steps:
            steps.pop(0)()

    class Time:
        monotonic = staticmethod(lambda: clock[0])

    Time.sleep = staticmethod(sleep)  # type: ignore[attr-defined]
    monkeypatch.setattr(terminal, "time", Time)
    monkeypatch.setattr(rom_command, "time", Time)
    return lambda *more: steps.extend(more)


def the(model: type[Job]) -> Any:
    return model._default_manager.latest("pk")


def end_build(rom: bytes = ROM) -> None:
    """The queued build is made."""
    build = the(Build)
    stored = StoredFile.objects.store([rom])
    build.claim("worker")
    build.finish(JobState.SUCCEEDED, artifact=stored, size=len(rom), sha256=stored.sha256)


def fail_build() -> None:
    build = the(Build)
    build.claim("worker")
    build.finish(JobState.FAILED, "The compiler says no.\x1b[31m")


# build_rom


def test_a_build_is_ordered(card: Card) -> None:
    text = manage("build_rom", "8086:1229", *SITE)
    build = Build.objects.get()
    assert text == f"Build {build.pk} is queued. “manage.py rom show build {build.pk}” shows it.\n"
    assert (build.card, build.target, build.profile, build.state) == (card, "rom", "minimal", "queued")
    assert AuditEntry.objects.get(action="build_requested").actor.startswith("console:")


def test_a_build_is_ordered_with_all_that_is_said(card: Card) -> None:
    shown = manage_json(
        *("build_rom", "8086:1229", *SITE, "--target", "mrom", "--profile", "everything", "--banner", "0"),
        *("--option", "PING_CMD", "--option", "NTP_CMD=off", "--variables", "uuid, serial", "--tries", "5"),
        *(
            "--timeout",
            "9",
            "--link-wait",
            "20",
            "--stp-wait",
            "30",
            "--dhcp-wait",
            "40",
            "--nic",
            "1",
            "--serial-console",
        ),
        *("--static", "192.0.2.7/24/192.0.2.1/192.0.2.53"),
    )
    assert (shown["target"], shown["profile"], shown["banner"]) == ("mrom", "everything", 0)
    assert shown["options"] == ["PING_CMD", "NTP_CMD=off"]
    assert shown["script"] == {
        "site": "http://192.0.2.10/boot",
        "network": {"ip": "192.0.2.7", "netmask": "255.255.255.0", "gateway": "192.0.2.1", "dns": "192.0.2.53"},
        "variables": ["uuid", "serial"],
        "tries": 5,
        "timeout": 9,
        "link_wait": 20,
        "stp_wait": 30,
        "dhcp_wait": 40,
        "nic": 1,
        "serial_console": True,
    }


def test_an_address_of_its_own_needs_no_gateway(card: Card) -> None:
    shown = manage_json("build_rom", "8086:1229", *SITE, "--static", "192.0.2.7/255.255.255.0")
    assert shown["script"]["network"] == {"ip": "192.0.2.7", "netmask": "255.255.255.0", "gateway": "", "dns": ""}


def test_a_build_may_be_ordered_in_a_users_name(card: Card) -> None:
    User.objects.create_user("ada")
    assert manage_json("build_rom", "8086:1229", *SITE, "--by", "ada")["requested_by"] == "ada"


def test_a_script_that_somebody_wrote_is_read(card: Card, tmp_path: Path) -> None:
    script = tmp_path / "my.ipxe"
    script.write_text("#!ipxe\nexit\n")
    assert manage_json("build_rom", "8086:1229", "--script", script)["script"] == {"text": "#!ipxe\nexit\n"}


def test_a_script_is_read_from_standard_input(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"#!ipxe\nexit\n")))
    assert manage_json("build_rom", "8086:1229", "--script", "-")["script"] == {"text": "#!ipxe\nexit\n"}


def test_a_medium_for_all_cards_needs_no_card(db: None) -> None:
    assert manage_json("build_rom", *SITE, "--target", "iso")["card"] is None


@pytest.mark.parametrize("words", ["8086:1229", "practice", "pro/100", "PRACTICE"])
def test_a_card_is_named_by_its_key_or_by_words_that_fit_it_alone(words: str, card: Card, practice: Card) -> None:
    assert manage_json("build_rom", words, *SITE)["card"] in {"8086:1229", "practice"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ffff:ffff", *SITE], "There is no card “ffff:ffff”"),
        (["eepro100", *SITE], "may be several cards"),
        (SITE, "card: A ROM is made for one card"),
        (["8086:1229", "--site", "gopher://x"], "script: site: It begins with"),
        (["8086:1229", *SITE, "--tries", "99"], "script: tries: It is between"),
        (["8086:1229", *SITE, "--variables", "colour"], "script: variables: Not known"),
        (["8086:1229", *SITE, "--static", "192.0.2.7"], "is not a valid address"),
        (["8086:1229", *SITE, "--static", "x/24"], "script: network.ip"),
        (["8086:1229", *SITE, "--option", "rm -rf"], "options: “rm -rf” is not a valid option"),
        (["8086:1229", *SITE, "--banner", "601"], "banner: "),
        (["8086:1229", *SITE, "--by", "nobody"], "There is no user “nobody”"),
        (["8086:1229", *SITE, "--pad", "chip"], "--pad is for --output"),
        (["8086:1229", *SITE, "--output", "/"], "it is a folder"),
        (["8086:1229", *SITE, "--output", "/nowhere/x.rom"], "no such folder"),
        (["8086:1229", *SITE, "--output", "x.rom", "--pad", "64k"], "pad: Write a number of bytes"),
        (["8086:1229", "--script", "/nowhere/x.ipxe"], "Cannot read /nowhere/x.ipxe"),
        (["8086:1229", "--script", "/dev/null"], "must begin with “#!ipxe”"),
        (["8086:1229", "--script", "/dev/null", "--tries", "3", "--link-wait", "4"], "leave out --tries, --link-wait"),
    ],
)
def test_what_is_wrong_with_a_build_is_told(
    arguments: list[str], text: str, card: Card, practice: Card, data_dir: Path
) -> None:
    assert text in refused("build_rom", *arguments)


def test_a_script_that_is_no_text_is_refused(card: Card, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"#!ipxe\n\xff")
    assert "is not UTF-8" in refused("build_rom", "8086:1229", "--script", tmp_path / "x")


# Waiting


def test_waiting_ends_with_what_was_made(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(end_build)
    text = manage("build_rom", "8086:1229", *SITE, "--wait")
    build = Build.objects.get()
    assert text == f"Build {build.pk}: {build.file_name}, 1,024 of 65,536 bytes, SHA-256 {build.sha256}\n"


def test_waiting_prints_json_at_the_end(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(end_build)
    assert manage_json("build_rom", "8086:1229", *SITE, "--wait")["state"] == "succeeded"


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_waiting_for_a_job_that_fails_ends_with_its_error_and_status_1(
    as_json: list[str], card: Card, data_dir: Path, meanwhile: Callable[..., None]
) -> None:
    meanwhile(fail_build)
    with pytest.raises(CommandError, match=r"Build \d+ failed\. The compiler says no\.") as raised:
        manage("build_rom", "8086:1229", *SITE, "--wait", *as_json)
    assert raised.value.returncode == 1
    assert "\x1b" not in str(raised.value)


def test_waiting_for_a_job_whose_worker_goes_ends_with_what_to_do(
    card: Card, data_dir: Path, meanwhile: Callable[..., None]
) -> None:
    def vanish() -> None:
        the(Build).claim("worker")
        Build.objects.update(heartbeat_at=timezone.now() - LOST_AFTER * 2)

    meanwhile(vanish)
    with pytest.raises(CommandError, match=r"lost\. Its worker has gone") as raised:
        manage("build_rom", "8086:1229", *SITE, "--wait")
    assert raised.value.returncode == 1


def runs() -> Iterator[Callable[[], object]]:
    yield lambda: the(Build).claim("worker")
    yield lambda: Build.objects.update(phase="compile", progress=0.25)
    yield lambda: Build.objects.update(progress=0.5)
    yield end_build


def test_each_phase_has_a_line_where_there_is_no_screen(
    card: Card, data_dir: Path, meanwhile: Callable[..., None]
) -> None:
    meanwhile(*runs())
    err = io.StringIO()
    manage("build_rom", "8086:1229", *SITE, "--wait", err=err)
    name = f"Build {the(Build).pk}:"
    lines = [f"{name} queued", f"{name} running", f"{name} compile", f"{name} succeeded"]
    assert err.getvalue().splitlines() == lines


def test_a_screens_line_is_written_over(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(*runs())
    err = Screen()
    manage("build_rom", "8086:1229", *SITE, "--wait", err=err)
    name = f"\r\x1b[KBuild {the(Build).pk}:"
    shown = ["queued", "running", "compile 25%", "compile 50%", "succeeded"]
    assert err.getvalue() == "".join(f"{name} {word}" for word in shown) + "\n"


def test_the_log_is_followed(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    def say(line: str) -> Callable[[], object]:
        def write() -> None:
            with the(Build).log_path.open("a") as log:
                log.write(line)

        return write

    meanwhile(say("cc main.c\n"), say("\x1b[31mld\n"), end_build)
    err = Screen()
    manage("build_rom", "8086:1229", *SITE, "--follow-log", err=err)
    assert err.getvalue() == "cc main.c\n[31mld\n"


def test_who_waits_is_told_that_no_worker_runs(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(*[bool] * 30, end_build)
    err = io.StringIO()
    manage("build_rom", "8086:1229", *SITE, "--wait", err=err)
    assert err.getvalue().count("manage.py worker") == 1


def test_who_waits_for_a_busy_worker_is_told_so(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    Build.of(from_json(SCRIPT), card=card).submit(ALICE).claim("worker")
    meanwhile(*[bool] * 30, end_build)
    err = io.StringIO()
    manage("build_rom", "8086:1229", *SITE, "--wait", err=err)
    assert "waits for its turn" in err.getvalue()
    assert "manage.py worker" not in err.getvalue()


def test_a_hint_stays_on_the_screen(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(*[bool] * 30, end_build)
    err = Screen()
    manage("build_rom", "8086:1229", *SITE, "--wait", err=err)
    assert "queued\nNo worker has begun it yet." in err.getvalue()
    assert err.getvalue().count("does.\n") == 1


def test_nobody_waits_longer_than_wished(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    with pytest.raises(CommandError, match=r"Not finished after 5 s\. .* goes on") as raised:
        manage("build_rom", "8086:1229", *SITE, "--wait", "--timeout-wait", "5")
    assert raised.value.returncode == 1
    assert Build.objects.get().state == JobState.QUEUED


def test_who_is_interrupted_leaves_the_job_running(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(interrupt)
    err = io.StringIO()
    with pytest.raises(SystemExit) as raised:
        manage("build_rom", "8086:1229", *SITE, "--wait", err=err)
    build = Build.objects.get()
    assert raised.value.code == 130
    assert build.state == JobState.QUEUED
    assert f"manage.py rom cancel build {build.pk}" in err.getvalue()


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
        (["{build}"], "Confirm it with --confirm local"),
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
    assert f"Saved what was in the chip: iPXE, SHA-256 {'ab' * 32}\nWrote: SHA-256 {'cd' * 32}\n" in text


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
    assert "No worker serves the station “local”" in err.getvalue()
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
    assert first == f"The catalogue has {number} cards.\n"
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
    with pytest.raises(CommandError, match="is cancelled already"):
        manage("rom", "cancel", "build", build.pk)


def test_a_running_job_is_asked_to_stop(card: Card, data_dir: Path) -> None:
    build = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    build.claim("worker")
    assert "is asked to stop" in manage("rom", "cancel", "build", build.pk)


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
    assert manage("prune_jobs") == "1 builds, 0 flash jobs and 1 files removed.\n"
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
    assert manage("prune_jobs", "--days", "1").startswith("0 builds")


def test_at_least_a_day_is_kept(db: None) -> None:
    with pytest.raises(CommandError, match="one day at least"):
        manage("prune_jobs", "--days", "0")
