"""The pages that order a build and show it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from machines.models import AuditEntry
from roms.models import Build, Card, JobState
from roms.models.job import LOST_AFTER
from roms.toolchain.ipxe.script.checks import likely_options
from roms.toolchain.ipxe.script.spec import from_json
from roms.toolchain.ipxe.script.waits import worst_case
from roms.wording import seconds_text
from tests.roms.admin_pages import BUILDS, EVIL, build, build_form, errors, queued
from tests.roms.conftest import SCRIPT, succeeded

__all__ = ["build"]


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
        ({"card": ""}, "card", "A ROM needs a card"),
        ({"card": "999"}, "card", "Select a valid choice"),
        ({"target": "exe"}, "target", "Select a valid choice"),
        ({"options": "NTP CMD"}, "options", "is not a valid option"),
        ({"banner": "601"}, "banner", "less than or equal to 600"),
        ({"site": "gopher://x"}, "site", "The address must start with http://"),
        ({"site": "http://127.0.0.1:8000"}, "site", "A network card cannot reach 127.0.0.1"),
        ({"network": "static", "ip": "x", "netmask": "24"}, "ip", "Write it like 192.0.2.7"),
        ({"network": "static", "ip": "192.0.2.7", "netmask": "x"}, "netmask", "Write it like 255.255.255.0"),
        ({"network": "static", "ip": "198.51.100.7", "netmask": "24"}, "gateway", "A gateway is required"),
        (
            {"network": "static", "ip": "192.0.2.7", "netmask": "24", "site": "http://rescue.example"},
            "dns",
            "A DNS server is required to find the site",
        ),
        ({"variables": ["password"]}, "variables", "Select a valid choice"),
        ({"tries": "11"}, "tries", "Must be between 1 and 10"),
        ({"tries": "x"}, "tries", "Enter a whole number"),
        ({"timeout": "0"}, "timeout", "Must be between 1 and 60"),
        ({"nic": "32"}, "nic", "Must be between 0 and 31"),
        ({"source": "hand", "text": "echo hello"}, "text", "The first line must be “#!ipxe”"),
    ],
)
def test_what_is_wrong_with_a_build_is_said_at_its_field(
    changes: dict[str, Any], field: str, error: str, admin_client: Client, card: Card, data_dir: Path
) -> None:
    response = admin_client.post(f"{BUILDS}add/", build_form(card, **changes))
    assert list(errors(response)) == [field]
    assert error in errors(response)[field][0]
    assert "No job has been submitted" in response.content.decode()
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
    assert (
        f"If the site is down, the machine boots its disk after at most {seconds_text(case.no_site)}" in shown["html"]
    )
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
        "iPXE has no command “frobnicate”",
        "“ntp” needs NTP_CMD, which is off in this build",
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
    kept_out = "The build switches off IMAGE_ELF, IMAGE_MULTIBOOT, IMAGE_PXE, PXE_MENU, PXE_STACK:"
    assert kept_out in preview(admin_client, card=card, profile="standard")["html"]
    assert "The build switches off" not in preview(admin_client, card=card)["html"]
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
    assert "Use “" not in html


def test_where_the_default_does_not_fit_the_profile_that_does_is_offered_with_both_sizes(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    sizes(card)
    html = preview(admin_client, card=card, profile="standard")["html"]
    assert "Does not fit the chip" in html
    assert "80,000 bytes" in html
    assert "65,536" in html
    assert "“minimal” fits: it has 60,000 bytes." in html
    assert 'data-profile="minimal"' in html


def test_before_anything_was_built_the_typical_sizes_tell_which_profile_to_take(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    html = preview(admin_client, card=card, profile="standard")["html"]
    assert "Probably does not fit the chip" in html
    assert "“standard” typically has about 72,192 bytes" in html
    assert "“minimal” fits: it typically has about 51,712 bytes." in html


def test_of_targets_that_have_no_typical_size_it_is_not_said_whether_they_fit(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    assert (
        "The site does not know yet whether the ROM fits" in preview(admin_client, card=card, target="efirom")["html"]
    )


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
    assert "If the site is down" in page.content.decode()
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
    assert "The worker stopped while it ran the job. Read the log, then retry." in panel["panel"]
    assert [b.pk for b in admin_client.get(BUILDS, {"state": "lost"}).context["cl"].queryset] == [build.pk]
    assert not admin_client.get(BUILDS, {"state": "running"}).context["cl"].queryset.exists()


def test_a_build_that_is_too_large_offers_the_profile_that_fits(
    admin_client: Client, card: Card, data_dir: Path
) -> None:
    sizes(card)
    build = Build.objects.get(profile="standard")
    page = admin_client.get(f"{BUILDS}{build.pk}/change/").content.decode()
    assert "“minimal” fits: it has 60,000 bytes. This ROM has 80,000 bytes, and the chip 65,536." in page
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
    assert "The job has already finished." in page
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
