"""The staff's face of the ROMs: who may do what, what forms say, what pages show, and what they cost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.admin.machines import MachineAdmin
from machines.models import Actor, AuditEntry, Machine
from roms.admin.cards import advised
from roms.admin.ledger import InstalledROMInline
from roms.dashboard import rom_dashboard
from roms.models import Build, Card, FlashJob, InstalledROM, JobState, Station
from roms.toolchain.ipxe.cards import read_lspci
from tests.roms.admin_pages import BUILDS, CARDS, EVIL, FLASH, build, build_form, job, queued, saved
from tests.roms.conftest import succeeded

__all__ = ["build", "job"]


LSPCI = """\
00:00.0 Host bridge [0600]: Intel Corporation 440FX [8086:1237] (rev 02)
03:00.0 Ethernet controller [0200]: Intel Corporation 82557/8/9/0/1 Ethernet Pro 100 [8086:1229] (rev 08)
\tKernel driver in use: e100
04:00.0 Ethernet controller [0200]: Nobody <b>Fast</b> [1234:5678]
"""


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
        panel = page[page.index('id="job-panel"') : page.index("<h2>Order</h2>")]
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
        assert len(advised(read_lspci(lines).cards)) == 10
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
        ("pci_id", "8086-10d3", "is not a valid PCI ID"),
        ("programmer", "internal:pci=3", "internal:pci=3 is not one of the available choices"),
        ("slug", "practice", "is reserved for the practice card"),
        ("chip_size", "65000", "Write a multiple of 1024 bytes"),
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
        "Two drivers claim this card: eepro100, other."
        in admin_client.post(f"{CARDS}lspci/", {"text": LSPCI}).content.decode()
    )


def test_the_practice_card_is_not_what_is_plugged_in(card: Card, practice: Card) -> None:
    assert [found.card for found in advised(read_lspci(LSPCI).cards)] == [card, None]


def test_a_text_without_a_card_says_what_it_should_look_like(admin_client: Client, db: None) -> None:
    page = admin_client.post(f"{CARDS}lspci/", {"text": "eth0: flags=4163<UP>"}).content.decode()
    assert "This text has no network card" in page


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
    assert "Enter the MAC addresses" in response.content.decode()


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
