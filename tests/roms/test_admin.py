"""The staff's face of the ROMs: who may do what, what forms say, what pages show, and what they cost."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.admin.machines import MachineAdmin
from machines.models import Actor, AuditEntry, Machine, StoredFile
from roms.admin.cards import recognised
from roms.admin.ledger import InstalledROMInline
from roms.dashboard import rom_dashboard
from roms.models import Build, Card, FlashJob, FlashKind, InstalledROM, JobState, Station
from roms.models.job import LOST_AFTER
from roms.toolchain.ipxe.script.checks import likely_options
from roms.toolchain.ipxe.script.spec import from_json
from roms.toolchain.ipxe.script.waits import worst_case
from roms.wording import seconds_text
from tests.roms.conftest import SCRIPT, succeeded

BUILDS, FLASH, CARDS = "/admin/roms/build/", "/admin/roms/flashjob/", "/admin/roms/card/"
EVIL = "<script>alert(1)</script>"
LSPCI = """\
00:00.0 Host bridge [0600]: Intel Corporation 440FX [8086:1237] (rev 02)
03:00.0 Ethernet controller [0200]: Intel Corporation 82557/8/9/0/1 Ethernet Pro 100 [8086:1229] (rev 08)
\tKernel driver in use: e100
04:00.0 Ethernet controller [0200]: Nobody <b>Fast</b> [1234:5678]
"""


@pytest.fixture
def build(card: Card, data_dir: Path) -> Build:
    """A build of 50,000 bytes that succeeded."""
    return succeeded(card, b"\x55\xaa" + bytes(49_998))


@pytest.fixture
def job(build: Build, station: Station, machine: Machine) -> FlashJob:
    """A queued flash job for web01."""
    assert build.card
    return FlashJob.objects.create(
        action=FlashKind.FLASH, station=station, card=build.card, build=build, machine=machine, machine_name="web01",
        pci_id=build.card.pci_id, programmer=build.card.programmer,
    )  # fmt: skip


def queued(card: Card, **values: Any) -> Build:
    build = Build.of(from_json(SCRIPT), card=card, **values)
    build.clean()
    build.save()
    return build


def saved(job: FlashJob, contents: bytes = b"old contents", **values: Any) -> FlashJob:
    """The job, with what it has saved of the chip."""
    stored = StoredFile.objects.store([contents])
    for name, value in {"backup": stored, "backup_sha256": stored.sha256, **values}.items():
        setattr(job, name, value)
    job.save()
    return job


def build_form(card: Card | None = None, /, **changes: Any) -> dict[str, Any]:
    """What the browser posts."""
    return {
        "card": card.pk if card else "", "target": "rom", "profile": "minimal", "options": "", "banner": "",
        "source": "form", "site": "http://192.0.2.10", "network": "dhcp", "variables": ["uuid", "serial"],
        "tries": "3", "timeout": "8", "link_wait": "15", "stp_wait": "0", "dhcp_wait": "15", "nic": "", "text": "",
        **changes,
    }  # fmt: skip


def flash_form(build: Build, station: Station, /, **changes: Any) -> dict[str, Any]:
    return {"action": "flash", "build": build.pk, "station": station.pk, "confirm": station.name, **changes}


def errors(response: Any) -> dict[str, list[str]]:
    """What is wrong, by field."""
    return {name: list(texts) for name, texts in response.context["form"].errors.items()}


# Who may do what


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        ("build/{build}/cancel/", "build_rom"),
        ("build/{build}/retry/", "build_rom"),
        ("build/preview/", "build_rom"),
        ("flashjob/{job}/cancel/", "flash_rom"),
    ],
)
def test_what_changes_something_needs_its_permission_and_a_post(
    path: str, permission: str, staff: Callable[..., Client], job: FlashJob, build: Build, client: Client
) -> None:
    url = "/admin/roms/" + path.format(build=build.pk, job=job.pk)
    assert client.post(url)["Location"].startswith("/admin/login/")
    assert staff("view_build", "view_flashjob", "view_card", name="nobody").post(url).status_code == 403
    allowed = staff(permission)
    assert allowed.get(url).status_code == 405
    assert allowed.post(url).status_code in {200, 302}


@pytest.mark.parametrize("path", ["build/add/", "flashjob/add/"])
def test_ordering_without_permission_is_refused(path: str, staff: Callable[..., Client], build: Build) -> None:
    client = staff("view_build", "view_flashjob", "add_build", "add_flashjob", "change_build")
    assert client.post(f"/admin/roms/{path}", build_form(build.card)).status_code == 403
    assert Build.objects.count() == 1


def test_a_button_pressed_from_another_site_does_nothing(admin_user: User, card: Card, data_dir: Path) -> None:
    build = queued(card)
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(f"{BUILDS}{build.pk}/cancel/").status_code == 403
    build.refresh_from_db()
    assert build.state == JobState.QUEUED


def test_who_may_only_look_sees_no_buttons(staff: Callable[..., Client], build: Build, job: FlashJob) -> None:
    job.chip_state, job.phase, job.state, job.error = "unknown", "verify", JobState.FAILED, "No."
    job.choices = {"chips": ["A", "B"]}
    saved(job)
    client = staff("view_build", "view_flashjob")
    for url in (f"{BUILDS}{build.pk}/change/", f"{FLASH}{job.pk}/change/"):
        page = client.get(url).content.decode()
        panel = page[page.index('id="job-panel"') : page.index("What was asked for")]
        assert "<button" not in panel
        assert 'class="button"' not in panel
        assert "/add/?" not in page


@pytest.mark.parametrize("model", ["build", "flashjob"])
def test_a_job_is_neither_edited_nor_deleted(model: str, admin_client: Client, build: Build, job: FlashJob) -> None:
    one = build if model == "build" else job
    url = f"/admin/roms/{model}/{one.pk}"
    admin_client.post(f"{url}/change/", {"state": "queued", "sha256": "0"})
    assert admin_client.post(f"{url}/delete/", {"post": "yes"}).status_code == 403
    admin_client.post(f"/admin/roms/{model}/", {"action": "delete_selected", "_selected_action": one.pk, "post": "yes"})
    assert type(one).objects.filter(pk=one.pk, state=one.state).exists()


def test_a_job_that_is_not_there_is_not_found(admin_client: Client, db: None) -> None:
    for path in ("1/change/", "1/panel/", "9999999999999999999999/change/", "x/change/"):
        assert admin_client.get(f"{BUILDS}{path}").status_code == 404


# What pages cost


def furnish(card: Card, station: Station, actor: Actor, numbers: range) -> None:
    """A line of everything for each number, with all that it shows."""
    for n in numbers:
        own = Card.objects.create(
            slug=f"10ec:{n:04x}", pci_id=f"10ec:{n:04x}", name=f"Card {n}", programmer="nicrealtek"
        )
        build = succeeded(own, b"rom %d" % n)
        machine = Machine.objects.add(f"node{n}", macs=[f"52:54:00:00:00:{n:02x}"], allowed_networks=[], actor=actor)
        job = FlashJob.objects.create(
            station=station, card=own, build=build, machine=machine, machine_name=machine.name
        )
        FlashJob.objects.create(
            station=station, card=own, build=build, state=JobState.FAILED, error="No.", finished_at=timezone.now()
        )
        queued(own)
        other = Station.objects.create(name=f"rack-{n}")
        InstalledROM.objects.create(machine=machine, card=own, build=build, flash_job=job, by=other.name)


@pytest.mark.parametrize(
    "path", ["build/", "flashjob/", "card/", "station/", "installedrom/", "installedrom/?outdated=yes"]
)
def test_a_list_costs_the_same_number_of_queries_for_any_number_of_rows(
    path: str, admin_client: Client, card: Card, station: Station, actor: Actor, data_dir: Path
) -> None:
    furnish(card, station, actor, range(1, 3))
    admin_client.get(f"/admin/roms/{path}")
    with CaptureQueriesContext(connection) as few:
        assert admin_client.get(f"/admin/roms/{path}").status_code == 200
    furnish(card, station, actor, range(10, 18))
    with CaptureQueriesContext(connection) as many:
        assert admin_client.get(f"/admin/roms/{path}").status_code == 200
    assert len(many) == len(few)


def test_the_front_page_costs_the_same_number_of_queries_for_any_number_of_rows(
    admin_user: User, card: Card, station: Station, actor: Actor, data_dir: Path
) -> None:
    furnish(card, station, actor, range(1, 3))
    with CaptureQueriesContext(connection) as few:
        assert rom_dashboard(admin_user)
    furnish(card, station, actor, range(10, 18))
    with CaptureQueriesContext(connection) as many:
        assert rom_dashboard(admin_user)
    assert len(many) == len(few)


def test_a_pasted_lspci_costs_one_query_for_any_number_of_cards(card: Card) -> None:
    lines = "".join(f"0{n}:00.0 Ethernet controller [0200]: X [8086:122{n}]\n" for n in range(10))
    with CaptureQueriesContext(connection) as queries:
        assert len(recognised(lines)) == 10
    assert len(queries) == 1


# Cards


@pytest.mark.parametrize("term", ["pro 8086", "1229", "eepro", "INTEL nicintel"])
def test_a_card_is_found_by_any_parts_of_what_it_is_called(term: str, admin_client: Client, card: Card) -> None:
    Card.objects.create(slug="10ec:8139", pci_id="10ec:8139", name="Realtek")
    assert list(admin_client.get(CARDS, {"q": term}).context["cl"].queryset) == [card]


def test_the_form_of_a_build_finds_a_card_for_who_may_build(staff: Callable[..., Client], card: Card) -> None:
    query = {"app_label": "roms", "model_name": "build", "field_name": "card", "term": "pro 1229"}
    found = staff("build_rom").get("/admin/autocomplete/", query).json()["results"]
    assert found == [{"id": str(card.pk), "text": "Intel PRO/100 (8086:1229)"}]
    assert staff(name="nobody").get("/admin/autocomplete/", query).status_code == 403


def test_a_card_may_be_typed_as_lspci_shows_it(admin_client: Client, db: None) -> None:
    admin_client.post(f"{CARDS}add/", {"name": "Mine", "pci_id": "8086:10D3"})
    card = Card.objects.get()
    assert (card.slug, card.pci_id, card.origin) == ("8086:10d3", "8086:10d3", "own")
    assert AuditEntry.objects.get().action == "card_added"


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("pci_id", "8086-10d3", "is not a valid PCI vendor and device"),
        ("programmer", "internal:pci=3", "internal:pci=3 is not one of the available choices"),
        ("slug", "practice", "is the site&#x27;s own card"),
        ("chip_size", "65000", "A chip has whole KiB"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused_at_its_field(
    field: str, value: str, error: str, admin_client: Client, db: None
) -> None:
    form = {"name": "Mine", "pci_id": "8086:10d3", field: value}
    response = admin_client.post(f"{CARDS}add/", form)
    assert error in str(response.context["adminform"].form.errors[field])
    assert not Card.objects.exists()


def test_what_staff_know_better_than_the_list_is_not_undone_by_it(admin_client: Client, db: None) -> None:
    Card.objects.load_curated()
    card = Card.objects.get(slug="8086:1229")
    form = {"programmer": "nicintel", "chip_size": "131072", "notes": "Ours have 128 KiB.", "name": "Hacked"}
    admin_client.post(f"{CARDS}{card.pk}/change/", form)
    Card.objects.load_curated()
    card.refresh_from_db()
    assert (card.chip_size, card.notes, card.origin) == (131072, "Ours have 128 KiB.", "own")
    assert card.name != "Hacked"
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.details["after"]["chip_size"]) == ("card_changed", 131072)


def test_a_card_of_a_list_is_not_deleted(admin_client: Client, card: Card) -> None:
    Card.objects.filter(pk=card.pk).update(origin="curated")
    assert admin_client.post(f"{CARDS}{card.pk}/delete/", {"post": "yes"}).status_code == 403


def test_a_pasted_lspci_says_which_card_can_be_flashed_with_what_and_how(admin_client: Client, card: Card) -> None:
    Card.objects.create(slug="10b7:9200", pci_id="10b7:9200", name="3Com", driver="3c90x", origin="tree")
    page = admin_client.post(f"{CARDS}lspci/", {"text": LSPCI}).content.decode()
    assert "can be flashed" in page
    assert "flashrom -p nicintel:pci=0000:03:00.0" in page
    assert "modprobe -r e100" in page
    assert "64 KiB" in page
    assert f"/admin/roms/build/add/?card={card.pk}" in page
    assert "This iPXE has no driver for it" in page
    assert "440FX" not in page.partition("</form>")[2].partition("Look them up")[2]
    assert "Nobody &lt;b&gt;Fast" in page
    assert "Nobody <b>Fast" not in page


def test_two_drivers_of_one_card_are_shown(admin_client: Client, card: Card) -> None:
    Card.objects.filter(pk=card.pk).update(conflict="eepro100, other")
    assert (
        "Two drivers claim it: eepro100, other."
        in admin_client.post(f"{CARDS}lspci/", {"text": LSPCI}).content.decode()
    )


def test_the_practice_card_is_not_what_is_plugged_in(card: Card, practice: Card) -> None:
    assert [found.card for found in recognised(LSPCI)] == [card, None]


def test_a_text_without_a_card_says_what_it_should_look_like(admin_client: Client, db: None) -> None:
    page = admin_client.post(f"{CARDS}lspci/", {"text": "eth0: flags=4163<UP>"}).content.decode()
    assert "There is no network card in this text" in page


# Ordering a build


def test_a_build_is_ordered_with_who_asked_and_from_where(admin_client: Client, card: Card, data_dir: Path) -> None:
    form = build_form(card, options="NTP_CMD\n\nVLAN_CMD=off\n", banner="20")
    response = admin_client.post(f"{BUILDS}add/", form)
    build = Build.objects.get()
    assert response["Location"] == f"{BUILDS}{build.pk}/change/"
    assert (build.state, build.profile, build.banner) == (JobState.QUEUED, "minimal", 20)
    assert build.options == ["NTP_CMD", "VLAN_CMD=off"]
    assert build.script_spec["variables"] == ["uuid", "serial"]
    assert "chain --autofree --timeout 8000 http://192.0.2.10/boot" in build.script
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.source) == ("build_requested", "admin", "127.0.0.1")


def test_a_script_written_by_hand_is_built_as_it_was_written(admin_client: Client, card: Card, data_dir: Path) -> None:
    form = build_form(card, source="hand", text="#!ipxe\r\nautoboot ||\r\nexit 1\r\n", site="nonsense")
    admin_client.post(f"{BUILDS}add/", form)
    build = Build.objects.get()
    assert build.script_spec is None
    assert build.script == "#!ipxe\nautoboot ||\nexit 1\n"


def test_network_settings_are_written_into_the_rom(admin_client: Client, card: Card, data_dir: Path) -> None:
    network = {"ip": "192.0.2.7", "netmask": "24", "gateway": "192.0.2.1", "dns": ""}
    admin_client.post(f"{BUILDS}add/", build_form(card, network="static", **network))
    build = Build.objects.get()
    assert build.script_spec["network"] == {**network, "netmask": "255.255.255.0"}
    assert "set net${nic}/ip 192.0.2.7" in build.script


@pytest.mark.parametrize(
    ("changes", "field", "error"),
    [
        ({"card": ""}, "card", "A ROM is made for one card"),
        ({"card": "999"}, "card", "Select a valid choice"),
        ({"target": "exe"}, "target", "Select a valid choice"),
        ({"options": "NTP CMD"}, "options", "is not a valid option"),
        ({"banner": "601"}, "banner", "less than or equal to 600"),
        ({"site": "gopher://x"}, "site", "It begins with http://"),
        ({"site": "http://127.0.0.1:8000"}, "site", "A network card cannot reach 127.0.0.1"),
        ({"network": "static", "ip": "x", "netmask": "24"}, "ip", "Write it like 192.0.2.7"),
        ({"network": "static", "ip": "192.0.2.7", "netmask": "x"}, "netmask", "Write it like 255.255.255.0"),
        ({"network": "static", "ip": "198.51.100.7", "netmask": "24"}, "gateway", "It is needed"),
        (
            {"network": "static", "ip": "192.0.2.7", "netmask": "24", "site": "http://rescue.example"},
            "dns",
            "It is needed, as the site is given by its name",
        ),
        ({"variables": ["password"]}, "variables", "Select a valid choice"),
        ({"tries": "11"}, "tries", "It is between 1 and 10"),
        ({"tries": "x"}, "tries", "Enter a whole number"),
        ({"timeout": "0"}, "timeout", "It is between 1 and 60"),
        ({"nic": "32"}, "nic", "It is between 0 and 31"),
        ({"source": "hand", "text": "echo hello"}, "text", "It must begin with “#!ipxe”"),
    ],
)
def test_what_is_wrong_with_a_build_is_said_at_its_field(
    changes: dict[str, Any], field: str, error: str, admin_client: Client, card: Card, data_dir: Path
) -> None:
    response = admin_client.post(f"{BUILDS}add/", build_form(card, **changes))
    assert list(errors(response)) == [field]
    assert error in errors(response)[field][0]
    assert "Nothing has been asked for yet" in response.content.decode()
    assert not Build.objects.exists()


def test_all_that_is_wrong_is_said_at_once(admin_client: Client, card: Card, data_dir: Path) -> None:
    form = build_form(card, options="NTP CMD", site="x", tries="99", network="static", ip="x", netmask="x")
    assert set(errors(admin_client.post(f"{BUILDS}add/", form))) == {"options", "site", "tries", "ip", "netmask"}


def test_a_medium_needs_no_card(admin_client: Client, data_dir: Path, db: None) -> None:
    admin_client.post(f"{BUILDS}add/", build_form(target="iso"))
    assert Build.objects.get().card is None


def test_the_form_begins_with_the_address_that_network_cards_use(
    admin_client: Client, settings: LazySettings, db: None
) -> None:
    settings.RESCUESITE_BASE_URL, settings.RESCUESITE_BASE_URL_GIVEN = "http://192.0.2.77:8000", True
    assert 'value="http://192.0.2.77:8000"' in admin_client.get(f"{BUILDS}add/").content.decode()


def test_the_form_can_begin_with_an_earlier_order(admin_client: Client, card: Card, data_dir: Path) -> None:
    network = {"network": "static", "ip": "192.0.2.7", "netmask": "255.255.255.0", "gateway": "", "dns": ""}
    wanted = build_form(card, options="NTP_CMD", banner="20", serial_console="on", nic="1", **network)
    admin_client.post(f"{BUILDS}add/", wanted)
    first = Build.objects.get()
    page = admin_client.get(f"{BUILDS}add/?like={first.pk}&profile=everything")
    shown = {field.name: field.value() for field in page.context["form"]}
    again = {name: getattr(value, "pk", value) for name, value in shown.items() if value not in (None, False)}
    again |= {"variables": list(again["variables"]), "profile": "minimal"}
    admin_client.post(f"{BUILDS}add/", again)
    second = Build.objects.exclude(pk=first.pk).get()
    assert {name: getattr(second, name) for name in Build.INPUT_FIELDS} == {
        name: getattr(first, name) for name in Build.INPUT_FIELDS
    }
    assert shown["profile"] == "everything"


# The preview


def preview(client: Client, **changes: Any) -> dict[str, Any]:
    response = client.post(f"{BUILDS}preview/", build_form(changes.pop("card", None), **changes))
    assert response.status_code == 200
    shown: dict[str, Any] = response.json()
    return shown


def test_the_preview_shows_the_script_and_what_a_dead_site_costs(admin_client: Client, card: Card) -> None:
    shown = preview(admin_client, card=card)
    assert shown["errors"] == {}
    assert "chain --autofree --timeout 8000 http://192.0.2.10/boot?mac=${netX/mac}" in shown["html"]
    case = worst_case(from_json(SCRIPT))
    assert f"A dead site costs at most {seconds_text(case.no_site)} before the local disk" in shown["html"]
    assert f"<dd>{seconds_text(case.no_address)}</dd>" in shown["html"]
    assert "IMAGE_SCRIPT" in shown["html"]
    assert not Build.objects.exists()
    assert not AuditEntry.objects.exists()


def test_the_preview_names_what_is_wrong_by_field(admin_client: Client, card: Card) -> None:
    shown = preview(admin_client, card=card, site="x", tries="99")
    assert set(shown["errors"]) == {"site", "tries"}
    assert "<b>Address of the site:</b>" in shown["html"]


def test_the_preview_warns_of_what_a_script_written_by_hand_does(admin_client: Client, card: Card) -> None:
    text = f"#!ipxe\nconfig\nfrobnicate\necho {EVIL}\nntp pool\n"
    html = preview(admin_client, card=card, source="hand", text=text)["html"]
    for warning in (
        "“config” waits for a person",
        "iPXE knows no command “frobnicate”",
        "“ntp” needs NTP_CMD, which this build leaves out",
    ):
        assert warning in html
    assert EVIL not in html
    assert "&lt;script&gt;" in html


def test_an_option_that_is_asked_for_is_not_missing() -> None:
    assert "NTP_CMD" not in likely_options("minimal", [])
    assert "NTP_CMD" in likely_options("minimal", ["NTP_CMD"])
    assert "NTP_CMD" not in likely_options("everything", ["NTP_CMD=off"])


def test_the_preview_says_what_the_script_adds_to_a_profile(admin_client: Client, card: Card) -> None:
    html = preview(admin_client, card=card, site="https://192.0.2.10")["html"]
    assert "The profile leaves out DOWNLOAD_PROTO_HTTPS" in html
    html = preview(admin_client, card=card, site="https://192.0.2.10", profile="everything")["html"]
    assert "The profile leaves out" not in html


def test_the_preview_says_what_is_left_out_with_the_sites_script(admin_client: Client, card: Card) -> None:
    kept_out = "Left out with this script: IMAGE_ELF, IMAGE_MULTIBOOT, IMAGE_PXE, PXE_MENU, PXE_STACK."
    assert kept_out in preview(admin_client, card=card, profile="standard")["html"]
    assert "Left out with this script" not in preview(admin_client, card=card)["html"]
    html = preview(admin_client, card=card, profile="standard", source="hand", text="#!ipxe\nexit 1\n")["html"]
    assert "This build has IMAGE_ELF, IMAGE_MULTIBOOT, IMAGE_PXE, PXE_MENU, PXE_STACK" in html


def test_the_form_refuses_what_would_take_the_sites_script_over(admin_client: Client, card: Card) -> None:
    errors = preview(admin_client, card=card, options="IMAGE_PXE")["errors"]
    assert list(errors) == ["options"]
    assert "IMAGE_PXE cannot be on in a ROM with the site's script" in errors["options"][0]


def sizes(card: Card) -> None:
    succeeded(card, bytes(60_000), "minimal")
    Build.objects.filter(pk=queued(card, profile="standard").pk).update(
        size=80_000, state=JobState.FAILED, finished_at=timezone.now()
    )


def test_a_rom_that_fits_is_said_to_fit(admin_client: Client, card: Card, data_dir: Path) -> None:
    sizes(card)
    html = preview(admin_client, card=card, profile="minimal")["html"]
    assert "Fits the chip" in html
    assert "60,000 bytes" in html
    assert "Take “" not in html


def test_where_the_default_does_not_fit_the_profile_that_does_is_offered_with_both_sizes(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    sizes(card)
    html = preview(admin_client, card=card, profile="standard")["html"]
    assert "Does not fit the chip" in html
    assert "80,000 bytes" in html
    assert "65,536" in html
    assert "“minimal” fits: it came to 60,000 bytes." in html
    assert 'data-profile="minimal"' in html


def test_before_anything_was_built_the_typical_sizes_tell_which_profile_to_take(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    html = preview(admin_client, card=card, profile="standard")["html"]
    assert "Most likely does not fit the chip" in html
    assert "“standard” typically comes to about 72,192 bytes" in html
    assert "“minimal” fits: it typically comes to about 51,712 bytes." in html


def test_of_targets_that_have_no_typical_size_it_is_not_said_whether_they_fit(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    assert "Whether it fits is not known yet" in preview(admin_client, card=card, target="efirom")["html"]


@pytest.mark.parametrize("named", ["slug", "pk"])
def test_the_form_begins_with_a_card(named: str, admin_client: Client, card: Card, data_dir: Path) -> None:
    form = admin_client.get(f"{BUILDS}add/", {"card": getattr(card, named)}).context["form"]
    assert form.initial["card"] == card


def test_the_form_begins_with_the_safe_profile_however_large_the_chip(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    Card.objects.filter(pk=card.pk).update(chip_size=1 << 20)
    assert _profile_shown(admin_client, card) == "minimal"


def _profile_shown(client: Client, card: Card) -> str:
    form = client.get(f"{BUILDS}add/", {"card": card.slug}).context["form"]
    return str(form["profile"].value())


def test_the_list_of_cards_says_where_the_others_are(admin_client: Client, card: Card) -> None:
    assert "rom load-cards" in admin_client.get("/admin/roms/card/").content.decode()
    Card.objects.create(slug="10ec:8139", pci_id="10ec:8139", name="Realtek", origin=Card.Origin.TREE)
    assert "rom load-cards" not in admin_client.get("/admin/roms/card/").content.decode()


def test_without_javascript_a_button_shows_the_preview(admin_client: Client, card: Card, data_dir: Path) -> None:
    page = admin_client.post(f"{BUILDS}add/", build_form(card, _preview="Preview"))
    assert "A dead site costs at most" in page.content.decode()
    assert not Build.objects.exists()


@pytest.mark.parametrize(("seconds", "text"), [(34, "34 s"), (60, "1 min"), (125.4, "2 min 5 s"), (3780, "1 h 3 min")])
def test_seconds_are_told_as_people_tell_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


# The page of a build


def test_a_build_shows_all_that_it_was_made_of(admin_client: Client, build: Build) -> None:
    build.ipxe_ref, build.ipxe_commit = "v2.0.0", "c0ffee" * 6
    build.commands, build.effective_options = ["make 'EMBED=a b' bin/80861229.rom"], {"VLAN_CMD": False}
    build.tool_versions = {"gcc": "12.2.0"}
    build.options = ["NTP_CMD"]
    build.save()
    page = admin_client.get(f"{BUILDS}{build.pk}/change/").content.decode()
    for text in (
        "50,000 bytes; the chip has 65,536 (64 KiB)", "it fits", build.sha256, build.script_sha256, "c0ffee" * 6,
        "make &#x27;EMBED=a b&#x27; bin/80861229.rom", "gcc 12.2.0", "NTP_CMD", "#!ipxe", "VLAN_CMD=off",
    ):  # fmt: skip
        assert text in page


def test_a_rom_is_saved_as_built_and_padded_to_its_chip(admin_client: Client, build: Build) -> None:
    assert build.artifact
    built = admin_client.get(f"{BUILDS}{build.pk}/rom/")
    assert built.getvalue() == build.artifact.path.read_bytes()
    assert built["Content-Disposition"] == f'attachment; filename="ipxe-80861229-{build.pk}.rom"'
    padded = admin_client.get(f"{BUILDS}{build.pk}/rom/padded/")
    assert padded["Content-Disposition"] == f'attachment; filename="ipxe-80861229-{build.pk}-64k.rom"'
    assert len(padded.content) == 65536
    assert padded.content.startswith(build.artifact.path.read_bytes())
    assert padded.content.endswith(b"\xff" * 15536)


def test_a_rom_that_is_gone_is_not_found(admin_client: Client, build: Build) -> None:
    assert build.artifact
    build.artifact.path.unlink()
    for path in ("rom", "rom/padded"):
        assert admin_client.get(f"{BUILDS}{build.pk}/{path}/").status_code == 404


def test_a_log_is_text(admin_client: Client, card: Card, data_dir: Path) -> None:
    build = queued(card)
    build.log_path.write_text(f"cc {EVIL}\n")
    Build.objects.filter(pk=build.pk).update(error=EVIL, state=JobState.FAILED, requested_by_name=EVIL, phase=EVIL[:20])
    Card.objects.filter(pk=card.pk).update(name=f"Intel {EVIL}")
    for path in (f"{build.pk}/change/", "", f"add/?card={card.pk}"):
        page = admin_client.get(f"{BUILDS}{path}").content.decode()
        assert EVIL not in page
        assert "&lt;script&gt;alert(1)" in page
    panel = admin_client.get(f"{BUILDS}{build.pk}/panel/").json()
    assert EVIL not in panel["panel"]
    whole = admin_client.get(f"{BUILDS}{build.pk}/log/")
    assert whole["Content-Type"] == "text/plain; charset=utf-8"
    assert "attachment" in whole["Content-Disposition"]
    assert whole.getvalue().decode() == f"cc {EVIL}\n"


def test_the_panel_tells_what_is_new(admin_client: Client, card: Card, data_dir: Path) -> None:
    build = queued(card)
    build.claim("worker 1")
    build.beat(phase="compiling", progress=0.4)
    build.log_path.write_bytes(b"one\n")
    first = admin_client.get(f"{BUILDS}{build.pk}/panel/?from=0").json()
    assert (first["log"], first["offset"], first["finished"], first["more"]) == ("one\n", 4, False, False)
    assert "compiling" in first["panel"]
    assert 'value="40"' in first["panel"]
    with build.log_path.open("ab") as log:
        log.write(b"two\n")
    build.finish(JobState.FAILED, "The compiler failed.")
    second = admin_client.get(f"{BUILDS}{build.pk}/panel/?from={first['offset']}").json()
    assert (second["log"], second["offset"], second["finished"]) == ("two\n", 8, True)
    assert "The compiler failed." in second["panel"]


def test_a_long_log_is_fetched_to_its_end_before_it_counts_as_finished(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    build = queued(card)
    build.claim("worker 1")
    build.log_path.write_bytes(b"0123456789abcde\n" * 20_000)
    build.finish(JobState.FAILED, "No.")
    first = admin_client.get(f"{BUILDS}{build.pk}/panel/?from=0").json()
    assert (first["more"], first["finished"]) == (True, False)
    second = admin_client.get(f"{BUILDS}{build.pk}/panel/?from={first['offset']}").json()
    assert (second["more"], second["finished"], second["offset"]) == (False, True, 320_000)
    assert len(admin_client.get(f"{BUILDS}{build.pk}/log/").getvalue()) == 320_000


@pytest.mark.parametrize("offset", ["", "-1", "x", "9" * 30])
def test_an_offset_that_is_none_begins_at_the_beginning(
    offset: str, admin_client: Client, card: Card, data_dir: Path
) -> None:
    build = queued(card)
    build.log_path.write_bytes(b"one\n")
    assert admin_client.get(f"{BUILDS}{build.pk}/panel/?from={offset}").json()["log"] == "one\n"


def test_a_build_whose_worker_has_gone_says_what_to_do(admin_client: Client, card: Card, data_dir: Path) -> None:
    build = queued(card)
    build.claim("worker 1")
    Build.objects.filter(pk=build.pk).update(heartbeat_at=timezone.now() - LOST_AFTER - timedelta(seconds=5))
    panel = admin_client.get(f"{BUILDS}{build.pk}/panel/").json()
    assert panel["finished"]
    assert "Its worker has gone while it ran. Look at the log, then retry." in panel["panel"]
    assert [b.pk for b in admin_client.get(BUILDS, {"state": "lost"}).context["cl"].queryset] == [build.pk]
    assert not admin_client.get(BUILDS, {"state": "running"}).context["cl"].queryset.exists()


def test_a_build_that_is_too_large_offers_the_profile_that_fits(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    sizes(card)
    build = Build.objects.get(profile="standard")
    page = admin_client.get(f"{BUILDS}{build.pk}/change/").content.decode()
    assert "“minimal” fits: it came to 60,000 bytes, this one to 80,000; the chip has 65,536." in page
    assert f"/admin/roms/build/add/?like={build.pk}&amp;profile=minimal" in page


def test_a_queued_build_is_cancelled_by_whoever_may_build(
    staff: Callable[..., Client], card: Card, data_dir: Path
) -> None:
    build = queued(card)
    staff("build_rom").post(f"{BUILDS}{build.pk}/cancel/")
    build.refresh_from_db()
    assert (build.state, build.cancel_requested_by) == (JobState.CANCELLED, "bob")
    assert AuditEntry.objects.get().action == "build_cancel_requested"


def test_cancelling_what_is_finished_changes_nothing(admin_client: Client, build: Build) -> None:
    page = admin_client.post(f"{BUILDS}{build.pk}/cancel/", follow=True).content.decode()
    assert "It was finished already." in page
    assert not AuditEntry.objects.exists()


def test_a_retry_is_the_same_order_once_more(admin_client: Client, build: Build) -> None:
    response = admin_client.post(f"{BUILDS}{build.pk}/retry/")
    again = Build.objects.exclude(pk=build.pk).get()
    assert response["Location"] == f"{BUILDS}{again.pk}/change/"
    assert {name: getattr(again, name) for name in Build.INPUT_FIELDS} == {
        name: getattr(build, name) for name in Build.INPUT_FIELDS
    }
    assert (again.state, again.requested_by_name, again.size) == (JobState.QUEUED, "admin", None)


def test_what_is_under_way_is_not_retried(admin_client: Client, card: Card, data_dir: Path) -> None:
    admin_client.post(f"{BUILDS}{queued(card).pk}/retry/")
    assert Build.objects.count() == 1


@pytest.mark.parametrize("term", ["{pk}", "8086:1229", "{sha}"])
def test_a_build_is_found_by_number_card_and_checksum(term: str, admin_client: Client, build: Build) -> None:
    query = term.format(pk=build.pk, sha=build.sha256[:12])
    assert list(admin_client.get(BUILDS, {"q": query}).context["cl"].queryset) == [build]


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
        ({"build": ""}, "build", "Choose it."),
        ({"build": "999"}, "build", "Select a valid choice"),
        ({"station": ""}, "station", "This field is required"),
        ({"slot": "3"}, "slot", "is not a valid PCI address"),
        ({"action": "restore"}, "restores", "Choose it."),
        ({"action": "save"}, "card", "Choose it."),
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
    assert "has no worker: this waits" in flash_panel(admin_client, job)
    Station.objects.seen("local")
    assert "has no worker" not in flash_panel(admin_client, job)


def test_a_write_has_no_button_to_stop_it(admin_client: Client, job: FlashJob) -> None:
    for phase, stops in (("save", True), ("write", False), ("verify", False)):
        FlashJob.objects.filter(pk=job.pk).update(state="running", phase=phase, heartbeat_at=timezone.now())
        assert ("/cancel/" in flash_panel(admin_client, job)) is stops


# Stations and ledger


def test_a_station_is_added_and_its_name_stays(admin_client: Client, db: None) -> None:
    admin_client.post("/admin/roms/station/add/", {"name": "rack-7", "notes": "cellar"})
    station = Station.objects.get()
    admin_client.post(f"/admin/roms/station/{station.pk}/change/", {"name": "other", "notes": "attic"})
    station.refresh_from_db()
    assert (station.name, station.notes) == ("rack-7", "attic")
    assert list(AuditEntry.objects.order_by("pk").values_list("action", flat=True)) == [
        "station_added",
        "station_changed",
    ]


@pytest.fixture
def installed(job: FlashJob, build: Build) -> InstalledROM:
    return InstalledROM.objects.create(
        machine=job.machine, card=job.card, build=build, sha256="0" * 64, by="carol", flash_job=job
    )


def outdate(installed: InstalledROM) -> Build:
    """A later build for such a card, with another script."""
    assert installed.build
    newer = succeeded(installed.card, b"newer")
    Build.objects.filter(pk=installed.build.pk).update(finished_at=timezone.now() - timedelta(days=2))
    Build.objects.filter(pk=newer.pk).update(finished_at=timezone.now(), script_sha256="f" * 64)
    return newer


def test_machines_with_an_older_script_are_listed(admin_client: Client, installed: InstalledROM) -> None:
    url = "/admin/roms/installedrom/"
    assert not admin_client.get(url, {"outdated": "yes"}).context["cl"].queryset.exists()
    outdate(installed)
    assert list(admin_client.get(url, {"outdated": "yes"}).context["cl"].queryset) == [installed]
    assert not admin_client.get(url, {"outdated": "no"}).context["cl"].queryset.exists()
    page = admin_client.get(url).content.decode()
    for text in ("web01", "older", "carol"):
        assert text in page


def test_an_outdated_card_is_flashed_anew_with_the_latest_build(admin_client: Client, installed: InstalledROM) -> None:
    newer = outdate(installed)
    form = admin_client.get(f"{FLASH}add/", {"installed": installed.pk}).context["form"]
    assert (form["build"].value(), form["machine"].value()) == (newer.pk, installed.machine_id)


def test_the_ledger_says_where_a_card_is_and_never_what_is_in_it(
    staff: Callable[..., Client], installed: InstalledROM, add_machine: Callable[[int], Machine]
) -> None:
    other = add_machine(7)
    url = f"/admin/roms/installedrom/{installed.pk}/change/"
    form = {"machine": other.pk, "mac": "00-02-B3-9D-94-8C", "notes": "moved", "sha256": "1" * 64, "by": "mallory"}
    staff("view_installedrom", "change_installedrom", "view_machine").post(url, form)
    installed.refresh_from_db()
    assert (installed.machine, installed.mac, installed.notes) == (other, "00:02:b3:9d:94:8c", "moved")
    assert (installed.sha256, installed.by) == ("0" * 64, "carol")
    entry = AuditEntry.objects.get(action="installedrom_changed")
    assert entry.details["after"]["machine"] == "node7"


def test_two_rows_of_one_card_are_refused_at_the_form(
    admin_client: Client, installed: InstalledROM, add_machine: Callable[[int], Machine]
) -> None:
    twin = InstalledROM.objects.create(machine=add_machine(7), card=installed.card)
    assert installed.machine
    response = admin_client.post(
        f"/admin/roms/installedrom/{twin.pk}/change/", {"machine": installed.machine.pk, "mac": "", "notes": ""}
    )
    assert "name their MAC addresses" in response.content.decode()


def test_a_machines_page_shows_its_roms_and_posts_none(
    admin_client: Client, installed: InstalledROM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MachineAdmin, "inlines", (*MachineAdmin.inlines, InstalledROMInline))
    machine = installed.machine
    assert machine
    url = f"/admin/machines/machine/{machine.pk}/change/"
    page = admin_client.get(url).content.decode()
    assert f"build {installed.build_id} (minimal)" in page
    empty = {
        f"{prefix}-{name}": "0" for prefix in ("macs", "allowed_networks") for name in ("TOTAL_FORMS", "INITIAL_FORMS")
    }
    hostile = {
        "installed_roms-TOTAL_FORMS": "1", "installed_roms-INITIAL_FORMS": "1", "installed_roms-0-id": installed.pk,
        "installed_roms-0-machine": machine.pk, "installed_roms-0-DELETE": "on",
    }  # fmt: skip
    for extra in ({}, hostile):
        form = {"name": "web02", "identity": "{}", "notes": "", **empty, **extra}
        assert admin_client.post(url, form).status_code == 302
        shown_again = admin_client.post(url, {**form, "name": "not a name"}).content.decode()
        assert f"build {installed.build_id} (minimal)" in shown_again
    assert InstalledROM.objects.filter(pk=installed.pk).exists()
    assert admin_client.get("/admin/machines/machine/add/").status_code == 200


# The front page


def test_the_front_page_tells_what_is_under_way_what_failed_and_what_is_old(
    admin_user: User, installed: InstalledROM, job: FlashJob, card: Card
) -> None:
    outdate(installed)
    failed = queued(card)
    Build.objects.filter(pk=failed.pk).update(state=JobState.FAILED, error="No.")
    old = queued(card)
    Build.objects.filter(pk=old.pk).update(state=JobState.FAILED, created_at=timezone.now() - timedelta(days=30))
    shown = rom_dashboard(admin_user)
    assert shown
    assert [(line.job, line.state) for line in shown.lines] == [(job, JobState.QUEUED), (failed, JobState.FAILED)]
    assert (shown.outdated, shown.without_worker) == (1, [job.station])


def test_the_front_page_shows_only_what_one_may_see(job: FlashJob, card: Card) -> None:
    queued(card)
    user = User.objects.create_user("bob", is_staff=True)
    assert rom_dashboard(user) is None
    user.user_permissions.set(Permission.objects.filter(codename="view_build"))
    shown = rom_dashboard(User.objects.get(pk=user.pk))
    assert shown
    assert {type(line.job) for line in shown.lines} == {Build}
    assert shown.without_worker == []


def test_the_fragment_of_the_front_page_escapes_what_jobs_say(
    admin_user: User, job: FlashJob, client: Client, card: Card
) -> None:
    from django.template.loader import render_to_string

    Build.objects.filter(pk=queued(card).pk).update(state=JobState.FAILED, error=EVIL)
    html = render_to_string("roms/front_page.html", {"roms": rom_dashboard(admin_user)})
    assert EVIL not in html
    assert "&lt;script&gt;" in html
    assert f"{FLASH}{job.pk}/change/" in html


def test_no_page_has_a_script_in_it(admin_client: Client, build: Build, job: FlashJob) -> None:
    pages = [
        f"{BUILDS}add/", f"{BUILDS}{build.pk}/change/", f"{FLASH}add/", f"{FLASH}{job.pk}/change/", f"{CARDS}lspci/",
        BUILDS, FLASH, CARDS,
    ]  # fmt: skip
    scripts = itertools.chain.from_iterable(
        re.findall(r"<script([^>]*)>(.*?)</script>", admin_client.get(url).content.decode(), re.DOTALL) for url in pages
    )
    assert all("src=" in attributes and not text.strip() for attributes, text in scripts)
