"""No ROM with the site's script runs an answer that is not a script, whoever orders it, in whatever way."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client

from machines.models import Actor
from roms.models import ROM_TARGETS, Build, Card, Profile
from roms.toolchain.ipxe.build import Target
from roms.toolchain.ipxe.script.spec import from_json
from roms.worker.building import BuildRun
from tests.roms.api_requests import post
from tests.roms.conftest import SCRIPT
from tests.roms.test_admin_builds import preview

ALICE = Actor("alice")
BUILDS = "/api/rom-builds/"
BY_HAND = "#!ipxe\nchain --timeout 8000 http://192.0.2.10/boot || exit 1\nexit 1\n"
WHY = "an answer that is not a script could keep the machine from booting its disk"


@pytest.mark.parametrize("profile", Profile.values)
@pytest.mark.parametrize("target", [*Target])
def test_the_worker_builds_the_sites_script_without_foreign_images(
    target: str, profile: str, card: Card, data_dir: Path
) -> None:
    named = card if target in ROM_TARGETS else None
    job = Build.of(from_json(SCRIPT), card=named, target=target, profile=profile).submit(ALICE)
    assert BuildRun(job)._request().foreign_images is False


def test_the_worker_builds_a_script_written_by_hand_as_its_writer_wants(card: Card, data_dir: Path) -> None:
    job = Build(card=card, script=BY_HAND, profile="standard", options=["IMAGE_COMBOOT"]).submit(ALICE)
    assert BuildRun(job)._request().foreign_images is True


@pytest.mark.parametrize("option", ["IMAGE_PXE", "IMAGE_ELF=on", "IMAGE_MULTIBOOT=1", "IMAGE_COMBOOT=yes", "PXE_STACK"])
def test_the_sites_script_and_what_takes_it_over_cannot_be_ordered_together(option: str, card: Card) -> None:
    with pytest.raises(ValidationError) as refused:
        Build.of(from_json(SCRIPT), card=card, options=[option]).submit(ALICE)
    (said,) = refused.value.message_dict["options"]
    assert said.startswith(option.partition("=")[0])
    assert WHY in said


def test_what_the_sites_script_needs_cannot_be_ordered_off(card: Card) -> None:
    spec = {**SCRIPT, "site": "http://rescue.example.net"}
    with pytest.raises(ValidationError) as refused:
        Build.of(from_json(spec), card=card, options=["DNS_RESOLVER=off", "DHCP_CMD=no"]).submit(ALICE)
    assert refused.value.message_dict["options"] == [
        "DHCP_CMD cannot be off: the site's script needs it.",
        "DNS_RESOLVER cannot be off: the site's script needs it.",
    ]


def test_how_long_dhcp_is_waited_for_is_said_in_the_script_alone(card: Card, data_dir: Path) -> None:
    with pytest.raises(ValidationError) as refused:
        Build.of(from_json(SCRIPT), card=card, options=["DHCP_DISC_END_TIMEOUT_SEC=3600"]).submit(ALICE)
    assert "Change that value instead" in refused.value.message_dict["options"][0]
    job = Build.of(from_json({**SCRIPT, "dhcp_wait": 30}), card=card).submit(ALICE)
    assert BuildRun(job)._request().options["DHCP_DISC_END_TIMEOUT_SEC"] == 16


def test_a_harmful_option_may_be_switched_off_by_name(card: Card, data_dir: Path) -> None:
    Build.of(from_json(SCRIPT), card=card, options=["IMAGE_PXE=off", "IMAGE_TRUST_CMD"]).submit(ALICE)


def test_the_api_says_that_it_cannot_be(admin_client: Client, card: Card) -> None:
    answer = post(admin_client, BUILDS, {"card": card.slug, "script": SCRIPT, "options": ["IMAGE_PXE"]})
    assert answer.status_code == 400
    assert WHY in answer.json()["options"][0]


def test_the_command_says_that_it_cannot_be(card: Card) -> None:
    with pytest.raises(CommandError, match=WHY):
        call_command("build_rom", card.slug, "--site", "http://192.0.2.10", "--option", "IMAGE_PXE")


def test_nothing_said_is_the_profile_that_is_safe(admin_client: Client, card: Card, data_dir: Path) -> None:
    assert Build(card=card).profile == "minimal"
    answer = post(admin_client, BUILDS, {"card": card.slug, "script": SCRIPT})
    assert (answer.status_code, answer.json()["profile"]) == (201, "minimal")


def test_a_script_written_by_hand_is_warned_of_in_the_api(admin_client: Client, card: Card, data_dir: Path) -> None:
    order = {"card": card.slug, "script": {"text": BY_HAND}}
    assert post(admin_client, BUILDS, order).json()["warnings"] == []
    (said,) = post(admin_client, BUILDS, {**order, "profile": "standard"}).json()["warnings"]
    assert "IMAGE_PXE" in said
    order["script"] = SCRIPT
    assert post(admin_client, BUILDS, {**order, "profile": "standard"}).json()["warnings"] == []


def test_a_script_written_by_hand_is_warned_of_by_the_command(card: Card, data_dir: Path, tmp_path: Path) -> None:
    script, errors = tmp_path / "own.ipxe", io.StringIO()
    script.write_text(BY_HAND)
    words = ("build_rom", card.slug, "--script", str(script), "--profile", "standard")
    call_command(*words, stderr=errors, stdout=io.StringIO(), no_color=True)
    assert "Warning: This build has IMAGE_ELF, IMAGE_MULTIBOOT, IMAGE_PXE, PXE_MENU, PXE_STACK" in errors.getvalue()


def test_where_a_script_written_by_hand_can_hold_a_machine_every_face_says_with_the_line(
    admin_client: Client, card: Card, data_dir: Path, tmp_path: Path
) -> None:
    text, said = "#!ipxe\n:again\ndhcp || goto again\nexit 1\n", "Line 3: “goto again” can loop for ever"
    answer = post(admin_client, BUILDS, {"card": card.slug, "script": {"text": text}}).json()
    assert answer["warnings"][0].startswith(said)
    assert said in admin_client.get(f"/admin/roms/build/{answer['id']}/change/").content.decode()
    assert said in preview(admin_client, card=card, source="hand", text=text)["html"]
    script, errors = tmp_path / "own.ipxe", io.StringIO()
    script.write_text(text)
    call_command("build_rom", card.slug, "--script", str(script), stderr=errors, stdout=io.StringIO(), no_color=True)
    assert f"Warning: {said}" in errors.getvalue()


def test_what_uefi_takes_for_success_is_no_matter_for_a_bios(admin_client: Client, card: Card, data_dir: Path) -> None:
    order = {"card": card.slug, "script": {"text": "#!ipxe\nexit\n"}}
    assert post(admin_client, BUILDS, order).json()["warnings"] == []
    (said,) = post(admin_client, BUILDS, {**order, "target": "efirom"}).json()["warnings"]
    assert said.startswith("Line 2: The script can end here with status 0")
