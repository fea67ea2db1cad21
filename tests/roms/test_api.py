"""The API of builds, flash jobs, cards, stations and the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from machines.models import AuditEntry
from roms.api import serializers, views
from roms.models import Build, Card, JobState
from roms.models.job import LOST_AFTER
from roms.toolchain.ipxe.script.spec import from_json
from tests.machines.support import body
from tests.roms.api_requests import ALICE, BUILDS, ORDER, ROM, build, built, ended, post
from tests.roms.conftest import SCRIPT, succeeded

__all__ = ["build", "built"]


# Who may do what


def test_a_view_that_names_no_permission_is_nobodys(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, card: Card
) -> None:
    monkeypatch.setattr(views.CardViewSet, "permissions", {})
    assert admin_client.get("/api/cards/").status_code == 403


def test_a_lists_parameters_are_not_asked_of_a_single_one(admin_client: Client, build: Build) -> None:
    assert admin_client.get(f"{BUILDS}{build.pk}/", {"state": "failed"}).status_code == 200


def test_a_session_that_changes_something_needs_its_csrf_token(admin_user: User, card: Card) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    response = post(client, BUILDS, ORDER)
    assert response.status_code == 403
    assert "CSRF" in response.json()["detail"]
    assert not Build.objects.exists()


# Builds


def test_a_build_is_ordered(admin_client: Client, card: Card, data_dir: Path) -> None:
    order = ORDER | {"options": ["PING_CMD", "NTP_CMD=off"], "banner": 20}
    response = post(admin_client, BUILDS, order)
    build = Build.objects.get()
    assert response.status_code == 201
    assert response.json() == serializers.BuildSerializer(build).data
    assert response["Location"] == f"http://testserver{BUILDS}{build.pk}/"
    assert (build.state, build.requested_by_name, build.options, build.banner) == (
        "queued",
        "admin",
        ["PING_CMD", "NTP_CMD=off"],
        20,
    )
    assert build.script.startswith("#!ipxe\n")


def test_an_order_leaves_an_entry_of_who_gave_it_and_from_where(admin_client: Client, card: Card) -> None:
    post(admin_client, BUILDS, ORDER)
    entry = AuditEntry.objects.get(action="build_requested")
    assert (entry.actor, entry.source) == ("admin", "127.0.0.1")


def test_a_build_embeds_a_text_that_somebody_wrote(admin_client: Client, card: Card) -> None:
    response = post(admin_client, BUILDS, ORDER | {"script": {"text": "#!ipxe\r\nexit\r\n"}})
    assert response.status_code == 201
    assert response.json()["script"] == {"text": "#!ipxe\nexit\n"}


def test_a_medium_for_all_cards_needs_no_card(admin_client: Client, db: None) -> None:
    response = post(admin_client, BUILDS, {"target": "iso", "script": SCRIPT})
    assert response.status_code == 201
    assert response.json()["card"] is None


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"script": {"site": "gopher://x"}}, "script", "site: The address must start with http://"),
        ({"script": {}}, "script", "site: This field is required"),
        ({"script": {"sight": "http://192.0.2.1"}}, "script", "sight: There is no such field"),
        (
            {"script": {"site": "http://192.0.2.1", "network": {"ip": "x"}}},
            "script",
            "network.netmask: This field is",
        ),
        ({"script": {"text": "echo"}}, "script", "first line must be “#!ipxe”"),
        ({"script": {"text": 5}}, "script", "It is a text"),
        ({"script": {"text": "#!ipxe\n", "site": "http://192.0.2.1"}}, "script", "not both"),
        ({"script": "#!ipxe"}, "script", "Expected a dictionary"),
        ({"script": None}, "script", "may not be null"),
        ({"card": "ffff:ffff"}, "card", "does not exist"),
        ({"card": ["8086:1229"]}, "card", ""),
        ({"card": None}, "card", "A ROM needs a card"),
        ({"target": "floppy"}, "target", "not a valid choice"),
        ({"profile": ""}, "profile", "not a valid choice"),
        ({"options": ["rm -rf /"]}, "options", "is not a valid option"),
        ({"options": "PING_CMD"}, "options", "Expected a list"),
        ({"options": [{}]}, "options", "Not a valid string"),
        ({"banner": 601}, "banner", "600"),
        ({"banner": 10**30}, "banner", ""),
        ({"banner": -1}, "banner", ""),
        ({"profil": "minimal"}, "profil", "There is no such field"),
    ],
)
def test_what_is_wrong_with_an_order_is_told_by_field(
    change: dict[str, Any], field: str, text: str, admin_client: Client, card: Card
) -> None:
    response = post(admin_client, BUILDS, ORDER | change)
    assert response.status_code == 400
    assert list(response.json()) == [field]
    assert any(text in one for one in response.json()[field])
    assert not Build.objects.exists()


def test_all_that_is_wrong_is_told_at_once(admin_client: Client, card: Card) -> None:
    wrong = {"card": "ffff:ffff", "profile": "tiny", "script": {"site": "x"}}
    assert set(post(admin_client, BUILDS, wrong).json()) == {"card", "profile"}


def test_builds_are_listed_newest_first_in_pages(admin_client: Client, build: Build, built: Build) -> None:
    page = admin_client.get(BUILDS, {"page_size": 1}).json()
    assert (page["count"], [one["id"] for one in page["results"]]) == (2, [built.pk])
    assert page["previous"] is None
    second = admin_client.get(page["next"]).json()
    assert [one["id"] for one in second["results"]] == [build.pk]


def test_a_page_is_bounded(admin_client: Client, build: Build) -> None:
    Build.objects.bulk_create([Build(card=build.card, script="#!ipxe\n") for _ in range(600)])
    assert len(admin_client.get(BUILDS, {"page_size": 10**9}).json()["results"]) == 500
    assert admin_client.get(BUILDS, {"page": 10**9}).status_code == 404


def test_builds_are_ordered_as_wished(admin_client: Client, build: Build, built: Build) -> None:
    ids = [one["id"] for one in admin_client.get(BUILDS, {"ordering": "id"}).json()["results"]]
    assert ids == [build.pk, built.pk]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state=queued", ["queued"]),
        ("state=queued&state=lost", ["queued", "lost"]),
        ("state=running", []),
        ("state=lost", ["lost"]),
        ("card=8086:1229", ["queued", "lost"]),
        ("card=practice", ["practice"]),
        ("target=mrom", ["practice"]),
        ("profile=everything", ["practice"]),
        ("requested_by=alice", ["queued", "lost"]),
        ("state=queued&profile=everything", []),
    ],
)
def test_builds_are_found_by(
    query: str, found: list[str], admin_client: Client, build: Build, card: Card, practice: Card
) -> None:
    lost = Build.of(from_json(SCRIPT), card=card).submit(ALICE)
    lost.claim("worker")
    Build.objects.filter(pk=lost.pk).update(heartbeat_at=timezone.now() - LOST_AFTER * 2)
    names = {build.pk: "queued", lost.pk: "lost", succeeded(practice, ROM, "everything", "mrom").pk: "practice"}
    results = admin_client.get(f"{BUILDS}?{query}").json()["results"]
    assert sorted(names[one["id"]] for one in results) == sorted(found)


@pytest.mark.parametrize("query", ["state=done", "target=floppy", "card=%00", "requested_by=a%00b"])
def test_a_filter_that_cannot_be_is_told(query: str, admin_client: Client, build: Build) -> None:
    response = admin_client.get(f"{BUILDS}?{query}")
    assert response.status_code == 400
    assert list(response.json()) == [query.partition("=")[0]]


def test_a_build_whose_worker_has_gone_is_shown_as_lost_with_what_to_do(admin_client: Client, build: Build) -> None:
    build.claim("worker")
    Build.objects.filter(pk=build.pk).update(heartbeat_at=timezone.now() - LOST_AFTER * 2)
    shown = admin_client.get(f"{BUILDS}{build.pk}/").json()
    assert shown["state"] == "lost"
    assert "retry" in shown["error"]


@pytest.mark.parametrize("number", ["0", "99", "9" * 40])
def test_a_build_that_is_not_there(number: str, admin_client: Client, build: Build) -> None:
    response = admin_client.get(f"{BUILDS}{number}/")
    assert (response.status_code, list(response.json())) == (404, ["detail"])


# Logs


def test_a_log_is_read_on_from_where_it_was_left(admin_client: Client, build: Build) -> None:
    build.log_path.write_bytes("== compile\nähm\n".encode())
    first = admin_client.get(f"{BUILDS}{build.pk}/log/")
    assert first["Content-Type"] == "text/plain; charset=utf-8"
    assert body(first).decode() == "== compile\nähm\n"
    with build.log_path.open("ab") as log:
        log.write(b"more\n")
    then = admin_client.get(f"{BUILDS}{build.pk}/log/", {"offset": first["X-Log-Offset"]})
    assert (body(then), then["X-Log-Offset"]) == (b"more\n", "21")


def test_a_log_that_is_long_comes_whole(admin_client: Client, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_CHUNK", 1000)
    build.log_path.write_bytes(b"0123456789\n" * 1000)
    assert body(admin_client.get(f"{BUILDS}{build.pk}/log/")) == b"0123456789\n" * 1000


@pytest.mark.parametrize(
    ("offset", "status", "text"), [("-3", 200, b"og\n"), ("99", 200, b""), ("-99", 200, b"log\n"), ("x", 400, None)]
)
def test_a_log_from_an_offset(offset: str, status: int, text: bytes, admin_client: Client, build: Build) -> None:
    build.log_path.write_bytes(b"log\n")
    response = admin_client.get(f"{BUILDS}{build.pk}/log/", {"offset": offset})
    assert response.status_code == status
    if text is not None:
        assert (body(response), response["X-Log-Offset"]) == (text, "4")


def test_a_log_of_what_has_not_begun_is_empty(admin_client: Client, build: Build) -> None:
    response = admin_client.get(f"{BUILDS}{build.pk}/log/")
    assert (response.status_code, body(response), response["X-Log-Offset"]) == (200, b"", "0")


# ROMs


def test_a_rom_is_downloaded(admin_client: Client, built: Build) -> None:
    response = admin_client.get(f"{BUILDS}{built.pk}/rom/")
    assert body(response) == ROM
    assert response["Content-Type"] == "application/octet-stream"
    assert response["Content-Length"] == str(len(ROM))
    assert response["Content-Disposition"] == f'attachment; filename="ipxe-80861229-{built.pk}.rom"'


@pytest.mark.parametrize(("pad", "size"), [("chip", 65536), ("2048", 2048), (str(len(ROM)), len(ROM))])
def test_a_rom_is_filled_up(pad: str, size: int, admin_client: Client, built: Build) -> None:
    response = admin_client.get(f"{BUILDS}{built.pk}/rom/", {"pad": pad})
    assert response.content == ROM.ljust(size, b"\xff")
    assert "attachment" in response["Content-Disposition"]


@pytest.mark.parametrize("pad", ["1023", "0", "-1", "64k", "", "1e9", str(1 << 30)])
def test_a_rom_is_filled_up_only_to_what_it_fits(pad: str, admin_client: Client, built: Build) -> None:
    response = admin_client.get(f"{BUILDS}{built.pk}/rom/", {"pad": pad})
    assert response.status_code == 400
    assert list(response.json()) == ["pad"]


def test_a_rom_that_does_not_fit_is_told_with_both_sizes(admin_client: Client, built: Build) -> None:
    assert admin_client.get(f"{BUILDS}{built.pk}/rom/", {"pad": "512"}).json() == {
        "pad": ["The ROM has 1,024 bytes, more than 512."]
    }


def test_a_rom_is_not_filled_up_to_a_chip_of_unknown_size(admin_client: Client, built: Build) -> None:
    Card.objects.update(chip_size=None)
    Build.objects.update(chip_size=None)
    response = admin_client.get(f"{BUILDS}{built.pk}/rom/", {"pad": "chip"})
    assert (response.status_code, list(response.json())) == (400, ["pad"])


def test_a_build_that_has_no_rom_yet(admin_client: Client, build: Build) -> None:
    response = admin_client.get(f"{BUILDS}{build.pk}/rom/")
    assert response.status_code == 404
    assert "queued" in response.json()["detail"]


@pytest.mark.parametrize("query", ["", "?pad=chip"])
def test_a_rom_whose_file_is_gone(query: str, admin_client: Client, built: Build) -> None:
    assert built.artifact
    built.artifact.path.unlink()
    response = admin_client.get(f"{BUILDS}{built.pk}/rom/{query}")
    assert response.status_code == 404
    assert "gone" in response.json()["detail"]


# Cancelling, and once more


def test_a_queued_build_is_cancelled_at_once(admin_client: Client, build: Build) -> None:
    response = post(admin_client, f"{BUILDS}{build.pk}/cancel/")
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert AuditEntry.objects.get(action="build_cancel_requested").actor == "admin"


def test_a_running_build_is_asked_to_stop(admin_client: Client, build: Build) -> None:
    build.claim("worker")
    response = post(admin_client, f"{BUILDS}{build.pk}/cancel/")
    assert (response.status_code, response.json()["state"]) == (200, "running")
    assert build.should_stop()


def test_a_finished_build_cannot_be_cancelled(admin_client: Client, built: Build) -> None:
    response = post(admin_client, f"{BUILDS}{built.pk}/cancel/")
    assert response.status_code == 409
    assert response.json() == {"detail": "It is succeeded already."}


def test_a_build_is_made_once_more(admin_client: Client, build: Build) -> None:
    ended(build, JobState.FAILED, "No.")
    response = post(admin_client, f"{BUILDS}{build.pk}/retry/")
    assert (response.status_code, response.json()["state"]) == (201, "queued")
    assert response.json()["id"] != build.pk
    assert response.json()["script"] == build.script_spec


def test_a_build_that_goes_on_is_not_made_once_more(admin_client: Client, build: Build) -> None:
    assert post(admin_client, f"{BUILDS}{build.pk}/retry/").status_code == 409
    assert Build.objects.count() == 1
