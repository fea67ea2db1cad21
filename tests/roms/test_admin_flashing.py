"""The pages that order a flash and show it."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from machines.models import AuditEntry, Machine
from roms.models import Build, Card, FlashJob, FlashKind, JobState, Station
from roms.models.job import LOST_AFTER
from tests.roms.admin_pages import EVIL, FLASH, build, errors, job, queued, saved

__all__ = ["build", "job"]


def flash_form(build: Build, station: Station, /, **changes: Any) -> dict[str, Any]:
    return {"action": "flash", "build": build.pk, "station": station.pk, "confirm": station.name, **changes}


# Ordering a flash


def test_a_flash_is_ordered_once_the_machines_name_is_typed(
    admin_client: Client, build: Build, station: Station, machine: Machine
) -> None:
    admin_client.post(f"{FLASH}add/", flash_form(build, station, machine=machine.pk, confirm=" web01 "))
    job = FlashJob.objects.get()
    assert (job.state, job.card, job.machine, job.build) == (JobState.QUEUED, build.card, machine, build)
    entry = AuditEntry.objects.get(action="flash_requested")
    assert (entry.actor, entry.machine, entry.source) == ("admin", "web01", "127.0.0.1")


@pytest.mark.parametrize("typed", ["", "local", "WEB01", "web0"])
def test_another_name_does_not_confirm(
    typed: str, admin_client: Client, build: Build, station: Station, machine: Machine
) -> None:
    response = admin_client.post(f"{FLASH}add/", flash_form(build, station, machine=machine.pk, confirm=typed))
    assert errors(response) == {"confirm": ["Type the machine's name, web01, to confirm."]}
    assert not FlashJob.objects.exists()


def test_without_a_machine_the_stations_name_confirms(admin_client: Client, build: Build, station: Station) -> None:
    response = admin_client.post(f"{FLASH}add/", flash_form(build, station, confirm="web01"))
    assert errors(response) == {"confirm": ["Type the station's name, local, to confirm."]}
    admin_client.post(f"{FLASH}add/", flash_form(build, station))
    assert FlashJob.objects.get().machine is None


def test_the_practice_card_takes_a_build_for_the_card_that_it_plays(
    admin_client: Client, build: Build, station: Station, practice: Card
) -> None:
    admin_client.post(f"{FLASH}add/", flash_form(build, station, card=practice.pk))
    assert FlashJob.objects.get().card == practice


@pytest.mark.parametrize(
    ("changes", "field", "error"),
    [
        ({"build": ""}, "build", "This field is required."),
        ({"build": "999"}, "build", "Select a valid choice"),
        ({"station": ""}, "station", "This field is required"),
        ({"slot": "3"}, "slot", "is not a valid PCI address"),
        ({"action": "restore"}, "restores", "This field is required."),
        ({"action": "save"}, "card", "This field is required."),
    ],
)
def test_what_is_wrong_with_a_flash_is_said_at_its_field(
    changes: dict[str, Any], field: str, error: str, admin_client: Client, build: Build, station: Station
) -> None:
    response = admin_client.post(f"{FLASH}add/", flash_form(build, station, **changes))
    assert list(errors(response)) == [field]
    assert error in errors(response)[field][0]
    assert not FlashJob.objects.exists()


def test_a_rom_for_another_card_is_refused(admin_client: Client, build: Build, station: Station) -> None:
    other = Card.objects.create(slug="10ec:8139", pci_id="10ec:8139", name="Realtek", programmer="nicrealtek")
    response = admin_client.post(f"{FLASH}add/", flash_form(build, station, card=other.pk))
    assert "This ROM is for" in errors(response)["build"][0]


def test_a_build_that_failed_cannot_be_chosen(admin_client: Client, build: Build, station: Station, card: Card) -> None:
    failed = queued(card)
    query = {"app_label": "roms", "model_name": "flashjob", "field_name": "build", "term": ""}
    offered = admin_client.get("/admin/autocomplete/", query).json()["results"]
    assert [one["id"] for one in offered] == [str(build.pk)]
    response = admin_client.post(f"{FLASH}add/", flash_form(build, station, build=failed.pk))
    assert "Select a valid choice" in errors(response)["build"][0]


def test_a_restore_is_confirmed_like_a_flash(admin_client: Client, job: FlashJob) -> None:
    saved(job, state=JobState.SUCCEEDED)
    page = admin_client.get(f"{FLASH}add/", {"restore": job.pk})
    shown = {field.name: getattr(field.value(), "pk", field.value()) for field in page.context["form"]}
    assert (shown["action"], shown["restores"], shown["machine"]) == ("restore", job.pk, job.machine_id)
    assert shown["confirm"] is None
    order = {name: value for name, value in shown.items() if value is not None}
    assert "confirm" in errors(admin_client.post(f"{FLASH}add/", order))
    admin_client.post(f"{FLASH}add/", {**order, "confirm": "web01"})
    restore = FlashJob.objects.exclude(pk=job.pk).get()
    assert (restore.action, restore.restores, restore.build) == (FlashKind.RESTORE, job, None)


def test_a_station_without_a_worker_is_named_before_one_flashes(admin_client: Client, station: Station) -> None:
    assert "The station local has no worker" in admin_client.get(f"{FLASH}add/").content.decode()
    Station.objects.seen("local")
    assert "has no worker" not in admin_client.get(f"{FLASH}add/").content.decode()


# The page of a flash job


def flash_panel(client: Client, job: FlashJob) -> str:
    """The panel's text, and its links as they are."""
    return str(client.get(f"{FLASH}{job.pk}/panel/").json()["panel"])


def step_states(panel: str) -> list[str]:
    return re.findall(r"step step-(\w+)", panel)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["next", "next", "next", "next"]),
        ({"state": "running", "phase": "save"}, ["done", "now", "next", "next"]),
        ({"state": "succeeded", "phase": "verify", "wrote": True}, ["done", "done", "done", "done"]),
        ({"state": "succeeded", "phase": "save", "wrote": False}, ["done", "done", "skipped", "skipped"]),
        ({"state": "failed", "phase": "probe"}, ["failed", "next", "next", "next"]),
        ({"state": "cancelled", "phase": "save"}, ["done", "failed", "next", "next"]),
        ({"action": "save", "build": None, "state": "running", "phase": "save"}, ["done", "now"]),
    ],
)
def test_the_phases_are_shown_as_far_as_they_are(
    values: dict[str, Any], expected: list[str], admin_client: Client, job: FlashJob
) -> None:
    FlashJob.objects.filter(pk=job.pk).update(heartbeat_at=timezone.now(), **values)
    assert step_states(flash_panel(admin_client, job)) == expected


def test_a_failed_write_says_what_not_to_do_and_offers_both_ways_on(admin_client: Client, job: FlashJob) -> None:
    saved(job, state=JobState.FAILED, phase="verify", chip_state="unknown", error="Erasing or writing failed.")
    panel = flash_panel(admin_client, job)
    assert "Do not power off the station or unplug the card" in panel
    assert f"{FLASH}add/?again={job.pk}" in panel
    assert f"{FLASH}add/?restore={job.pk}" in panel


def test_a_failed_write_that_was_mended_since_is_no_alarm(admin_client: Client, job: FlashJob) -> None:
    saved(job, state=JobState.FAILED, phase="verify", chip_state="unknown", error="Erasing or writing failed.")
    again = job.again()
    again.state = JobState.SUCCEEDED
    again.save()
    panel = flash_panel(admin_client, job)
    assert "Do not power off" not in panel
    assert f"flash job {again.pk}" in panel


@pytest.mark.parametrize(("phase", "alarm"), [("write", True), ("save", False)])
def test_a_lost_flash_is_an_alarm_only_where_it_was_writing(
    phase: str, alarm: bool, admin_client: Client, job: FlashJob
) -> None:
    gone = timezone.now() - LOST_AFTER - timedelta(seconds=5)
    FlashJob.objects.filter(pk=job.pk).update(state=JobState.RUNNING, phase=phase, heartbeat_at=gone)
    panel = flash_panel(admin_client, job)
    assert ("Do not power off the station" in panel) is alarm
    job.phase = phase
    assert job.lost_message() in panel


def test_two_chips_or_two_cards_are_a_choice_that_fills_the_form_in(admin_client: Client, job: FlashJob) -> None:
    slot = {"slot": "0000:03:00.0", "macs": ["00:02:b3:9d:94:8c"], "driver": "e100"}
    FlashJob.objects.filter(pk=job.pk).update(
        state=JobState.FAILED, phase="probe", error="Choose.", choices={"chips": ["AT49F512", EVIL], "slots": [slot]}
    )
    panel = flash_panel(admin_client, job)
    assert "The card in slot 0000:03:00.0 (00:02:b3:9d:94:8c, e100)" in panel
    assert EVIL not in panel
    link = re.search(r'href="([^"]*chip=AT49F512[^"]*)"', panel)
    assert link
    shown = admin_client.get(link[1].replace("&amp;", "&")).context["form"]
    assert (shown["chip_name"].value(), shown["build"].value(), shown["machine"].value()) == (
        "AT49F512",
        job.build_id,
        job.machine_id,
    )
    other = re.search(r'href="([^"]*slot=[^"]*)"', panel)
    assert other
    assert admin_client.get(other[1].replace("&amp;", "&")).context["form"]["slot"].value() == "0000:03:00.0"


def test_what_was_saved_is_described_and_can_be_taken_away(admin_client: Client, job: FlashJob) -> None:
    saved(job, b"\xff" * 1000, state=JobState.SUCCEEDED, wrote=True, backup_description=f"blank {EVIL}")
    panel = flash_panel(admin_client, job)
    assert hashlib.sha256(b"\xff" * 1000).hexdigest() in panel
    assert "blank &lt;script&gt;" in panel
    response = admin_client.get(f"{FLASH}{job.pk}/backup/")
    assert response.getvalue() == b"\xff" * 1000
    assert response["Content-Disposition"] == f'attachment; filename="backup-80861229-flash-job-{job.pk}.bin"'


def test_a_queued_flash_at_a_station_without_a_worker_says_so(admin_client: Client, job: FlashJob) -> None:
    assert "has no worker. The job waits" in flash_panel(admin_client, job)
    Station.objects.seen("local")
    assert "has no worker" not in flash_panel(admin_client, job)


def test_a_write_has_no_button_to_stop_it(admin_client: Client, job: FlashJob) -> None:
    for phase, stops in (("save", True), ("write", False), ("verify", False)):
        FlashJob.objects.filter(pk=job.pk).update(state="running", phase=phase, heartbeat_at=timezone.now())
        assert ("/cancel/" in flash_panel(admin_client, job)) is stops
