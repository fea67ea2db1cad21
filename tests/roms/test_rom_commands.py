"""The commands that order builds and flash jobs, wait for them, and show what goes on."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.utils import timezone

from machines.models import AuditEntry
from roms.models import Build, Card, JobState
from roms.models.job import LOST_AFTER
from roms.toolchain.ipxe.script.spec import from_json
from tests.roms.conftest import SCRIPT
from tests.roms.rom_commands import (
    ALICE,
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
        (["eepro100", *SITE], "matches several cards"),
        (SITE, "card: A ROM needs a card"),
        (["8086:1229", "--site", "gopher://x"], "script: site: The address must start with"),
        (["8086:1229", *SITE, "--tries", "99"], "script: tries: Must be between"),
        (["8086:1229", *SITE, "--variables", "colour"], "script: variables: Unknown"),
        (["8086:1229", *SITE, "--static", "192.0.2.7"], "is not a valid address"),
        (["8086:1229", *SITE, "--static", "x/24"], "script: network.ip"),
        (["8086:1229", *SITE, "--option", "rm -rf"], "options: “rm -rf” is not a valid option"),
        (["8086:1229", *SITE, "--banner", "601"], "banner: "),
        (["8086:1229", *SITE, "--by", "nobody"], "There is no user “nobody”"),
        (["8086:1229", *SITE, "--pad", "chip"], "--pad needs --output"),
        (["8086:1229", *SITE, "--output", "/"], "it is a directory"),
        (["8086:1229", *SITE, "--output", "/nowhere/x.rom"], "the directory does not exist"),
        (["8086:1229", *SITE, "--output", "x.rom", "--pad", "64k"], "pad: Write a number of bytes"),
        (["8086:1229", "--script", "/nowhere/x.ipxe"], "Cannot read /nowhere/x.ipxe"),
        (["8086:1229", "--script", "/dev/null"], "The first line must be “#!ipxe”"),
        (
            ["8086:1229", "--script", "/dev/null", "--tries", "3", "--link-wait", "4"],
            "--tries, --link-wait cannot be used with --script",
        ),
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
    with pytest.raises(CommandError, match=r"lost\. The worker stopped") as raised:
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
    assert "the worker is busy" in err.getvalue()
    assert "manage.py worker" not in err.getvalue()


def test_a_hint_stays_on_the_screen(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(*[bool] * 30, end_build)
    err = Screen()
    manage("build_rom", "8086:1229", *SITE, "--wait", err=err)
    assert "queued\nNo worker runs the job yet." in err.getvalue()
    assert err.getvalue().count("“make run”.\n") == 1


def test_nobody_waits_longer_than_wished(card: Card, data_dir: Path, meanwhile: Callable[..., None]) -> None:
    with pytest.raises(CommandError, match=r"has not finished after 5 s\. .* continues") as raised:
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
