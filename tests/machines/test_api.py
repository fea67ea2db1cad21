"""The API of machines, their rescues, images, and what the site has seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, Sighting
from machines.models.rescue_terms import RescueRequest
from machines.representation import machine_json, rescue_json
from tests.conftest import MAC

ALICE = Actor("alice")
MACHINES, IMAGES = "/api/machines/", "/api/images/"
RESCUE = f"{MACHINES}web01/rescue/"
OTHER_MAC = "52:54:00:00:00:01"


def send(client: Client, method: str, path: str, data: Any = None) -> Any:
    return client.generic(method, path, _json(data), content_type="application/json")


def _json(data: Any) -> str:
    return json.dumps({} if data is None else data)


def may(client: Client, *permissions: str) -> Client:
    """Log in as a user who has just these permissions."""
    user = User.objects.create_user("program")
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


@pytest.fixture
def rescue(machine: Machine, image: RescueImage) -> Rescue:
    return Rescue.objects.enable(machine, RescueRequest(reason="RAID"), ALICE)


# Machines


def test_a_machine_is_added(admin_client: Client, image: RescueImage) -> None:
    order = {
        "name": "db01",
        "macs": ["52-54-00-00-00-01"],
        "allowed_networks": ["192.0.2.0/24"],
        "image": "tiny",
        "identity": {"serial": "CZ1"},
        "rescue_network": {"addresses": ["192.0.2.7/24"], "gateways": ["192.0.2.1"]},
        "notes": "rack 3",
    }
    response = send(admin_client, "POST", MACHINES, order)
    machine = Machine.objects.get()
    assert (response.status_code, response["Location"]) == (201, f"http://testserver{MACHINES}db01/")
    assert response.json() == machine_json(machine)
    assert response.json()["macs"] == [OTHER_MAC]
    assert response.json()["rescue_network"] == {"addresses": ["192.0.2.7/24"], "gateways": ["192.0.2.1"], "dns": []}
    entry = AuditEntry.objects.get(action="machine_added")
    assert (entry.actor, entry.machine, entry.source) == ("admin", "db01", "127.0.0.1")


@pytest.mark.parametrize(
    ("order", "field", "said"),
    [
        ({"name": "a b"}, "name", ""),
        ({"name": "WEB01"}, "detail", "A machine with this name already exists."),
        ({}, "name", "This field is required."),
        ({"name": "db01", "macs": [MAC, "nonsense", OTHER_MAC, OTHER_MAC]}, "macs", "“nonsense” is not a valid MAC"),
        ({"name": "db01", "macs": [MAC]}, "macs", f"{MAC}: This MAC address already belongs to a machine."),
        ({"name": "db01", "macs": "x"}, "macs", "Expected a list"),
        ({"name": "db01", "allowed_networks": ["192.0.2.1/24"]}, "allowed_networks", "Did you mean 192.0.2.0/24"),
        ({"name": "db01", "allowed_networks": ["192.0.2.1", "192.0.2.1"]}, "allowed_networks", "is listed twice"),
        ({"name": "db01", "image": "none"}, "image", "none"),
        ({"name": "db01", "identity": {"colour": "blue"}}, "identity", "is not a valid name"),
        ({"name": "db01", "rescue_network": {"gateways": ["192.0.2.1"]}}, "rescue_network", "Enter an address too"),
        ({"name": "db01", "mac": [MAC]}, "mac", "There is no such field."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_machine_is_said_of_its_field_and_nothing_is_added(
    order: dict[str, Any], field: str, said: str, admin_client: Client, machine: Machine
) -> None:
    response = send(admin_client, "POST", MACHINES, order)
    assert response.status_code == 400
    assert said in str(response.json()[field])
    assert Machine.objects.count() == 1


def test_all_addresses_that_are_wrong_are_named_at_once(admin_client: Client, machine: Machine) -> None:
    response = send(admin_client, "POST", MACHINES, {"name": "db01", "macs": ["a", "b", OTHER_MAC, OTHER_MAC]})
    assert len(response.json()["macs"]) == 3


def test_patching_changes_what_is_named_alone(admin_client: Client, machine: Machine) -> None:
    response = send(admin_client, "PATCH", f"{MACHINES}WEB01/", {"macs": [MAC, OTHER_MAC], "notes": "new"})
    assert response.status_code == 200
    assert response.json() == machine_json(Machine.objects.get())
    assert (response.json()["macs"], response.json()["allowed_networks"]) == ([MAC, OTHER_MAC], ["127.0.0.1"])
    entry = AuditEntry.objects.get(action="machine_changed")
    assert entry.details == {
        "before": {"macs": [MAC], "notes": ""},
        "after": {"macs": [MAC, OTHER_MAC], "notes": "new"},
    }


def test_a_change_that_changes_nothing_leaves_no_entry(admin_client: Client, machine: Machine) -> None:
    assert send(admin_client, "PATCH", f"{MACHINES}web01/", {"macs": [MAC.upper()]}).status_code == 200
    assert not AuditEntry.objects.filter(action="machine_changed").exists()


def test_putting_empties_what_is_not_named(admin_client: Client, machine: Machine) -> None:
    response = send(admin_client, "PUT", f"{MACHINES}web01/", {"name": "web02", "macs": [OTHER_MAC]})
    assert response.status_code == 200
    changed = response.json()
    assert (changed["name"], changed["macs"], changed["allowed_networks"]) == ("web02", [OTHER_MAC], [])
    assert Machine.objects.get().macs.get().address == OTHER_MAC


def test_a_change_that_fails_half_way_changes_nothing(admin_client: Client, machine: Machine) -> None:
    Machine.objects.add("db01", macs=[OTHER_MAC], allowed_networks=[], actor=ALICE)
    response = send(admin_client, "PATCH", f"{MACHINES}web01/", {"notes": "new", "macs": [OTHER_MAC]})
    assert response.status_code == 400
    assert Machine.objects.get(name="web01").snapshot()["macs"] == [MAC]
    assert Machine.objects.get(name="web01").notes == ""


def test_a_deleted_machines_rescue_ends_first(admin_client: Client, rescue: Rescue) -> None:
    assert send(admin_client, "DELETE", f"{MACHINES}web01/").status_code == 204
    assert not Machine.objects.exists()
    actions = list(AuditEntry.objects.order_by("pk").values_list("action", flat=True))
    assert actions[-2:] == ["rescue_disabled", "machine_deleted"]


@pytest.mark.parametrize(
    ("method", "data"),
    [("PATCH", {"macs": [OTHER_MAC]}), ("PATCH", {"allowed_networks": []}), ("PUT", {"name": "x"}), ("DELETE", None)],
)
def test_while_a_rescue_is_active_its_machine_is_for_those_who_may_switch(
    method: str, data: Any, client: Client, rescue: Rescue
) -> None:
    may(client, "view_machine", "change_machine", "delete_machine")
    response = send(client, method, f"{MACHINES}web01/", data)
    assert response.status_code == 403
    assert "A rescue of web01 is active" in response.json()["detail"]


def test_machines_are_found_and_filtered(admin_client: Client, machine: Machine, rescue: Rescue) -> None:
    Machine.objects.add("db01", macs=[OTHER_MAC], allowed_networks=[], actor=ALICE, notes="rack 3")

    def names(**asked: str) -> list[str]:
        return [one["name"] for one in admin_client.get(MACHINES, asked).json()["results"]]

    assert names() == ["db01", "web01"]
    assert names(ordering="-name") == ["web01", "db01"]
    assert names(q="rack db") == ["db01"]
    assert names(mac="52-54-00-00-00-01") == ["db01"]
    assert names(state="armed") == ["web01"]
    assert names(state="local") == ["db01"]
    assert names(unverified="true") == ["db01"]
    assert admin_client.get(MACHINES, {"mac": "x"}).status_code == 400


@pytest.mark.parametrize("path", [MACHINES, "/api/rescues/", "/api/audit/", IMAGES, "/api/sightings/"])
def test_a_lists_queries_do_not_grow_with_its_rows(
    path: str, admin_client: Client, image: RescueImage, add_machine: Callable[[int], Machine]
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            response = admin_client.get(path)
        assert len(response.json()["results"]) == response.json()["count"]
        return len(captured)

    def more(numbers: range) -> None:
        for number in numbers:
            Rescue.objects.enable(add_machine(number), RescueRequest(), ALICE)
            copy = RescueImage.objects.create(name=f"image{number}")
            copy.attach("kernel", [b"kernel bytes"])
            Sighting.objects.create(mac=f"52:54:00:00:01:{number:02x}")

    more(range(2))
    few = queries()
    more(range(2, 9))
    assert queries() == few


# Rescues


def test_a_rescue_is_enabled(admin_client: Client, machine: Machine, image: RescueImage) -> None:
    response = send(admin_client, "POST", RESCUE, {"reason": "RAID", "lifetime": "persistent"})
    rescue = Rescue.objects.get()
    assert response.status_code == 201
    shown = response.json()
    assert shown.pop("warnings") == list(rescue.warnings())
    assert shown == rescue_json(rescue)
    assert (shown["state"], shown["lifetime"], shown["enabled_by"]) == ("armed", "persistent", "admin")
    assert response["Cache-Control"] == "no-store"
    assert rescue.token not in response.content.decode()


def test_a_second_rescue_is_a_conflict_that_says_whose_the_first_is(admin_client: Client, rescue: Rescue) -> None:
    response = send(admin_client, "POST", RESCUE)
    assert response.status_code == 409
    assert "web01 already has an active rescue. It was enabled by alice at " in response.json()["detail"]


def test_without_an_image_there_is_no_rescue(admin_client: Client, machine: Machine) -> None:
    response = send(admin_client, "POST", RESCUE)
    assert (response.status_code, Rescue.objects.count()) == (409, 0)
    assert "There is no default rescue image" in response.json()["detail"]


def test_a_password_is_in_this_answer_and_in_no_other(
    admin_client: Client, machine: Machine, image: RescueImage
) -> None:
    password = send(admin_client, "POST", RESCUE, {"password": True}).json()["password"]
    assert len(password) > 10
    paths = (RESCUE, "/api/rescues/", "/api/audit/", f"{MACHINES}web01/", f"{MACHINES}web01/timeline/")
    assert not any(password in admin_client.get(path).content.decode() for path in paths)


def test_an_unverified_machine_gets_no_password(admin_client: Client, image: RescueImage) -> None:
    Machine.objects.add("open01", macs=[OTHER_MAC], allowed_networks=[], actor=ALICE)
    response = send(admin_client, "POST", f"{MACHINES}open01/rescue/", {"password": True})
    assert response.status_code == 400
    assert "open01 is unverified" in response.json()["password"][0]


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"lifetime": "for ever"}, "lifetime"),
        ({"lifetime": "until"}, "expires_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59Z"}, "expires_at"),
        ({"image": "none"}, "image"),
        ({"reason": "x" * 501}, "reason"),
        ({"until": "x"}, "until"),
    ],
)
def test_an_order_that_makes_no_sense_enables_nothing(
    order: dict[str, Any], field: str, admin_client: Client, machine: Machine, image: RescueImage
) -> None:
    response = send(admin_client, "POST", RESCUE, order)
    assert (response.status_code, list(response.json())) == (400, [field])
    assert not Rescue.objects.exists()


def test_an_end_makes_it_last_until_then(admin_client: Client, machine: Machine, image: RescueImage) -> None:
    until = timezone.now() + timedelta(hours=2)
    assert send(admin_client, "POST", RESCUE, {"expires_at": until.isoformat()}).json()["lifetime"] == "until"


def test_a_rescue_is_disabled(admin_client: Client, rescue: Rescue) -> None:
    response = send(admin_client, "DELETE", RESCUE, {"reason": "mended"})
    assert response.status_code == 200
    assert (response.json()["state"], response.json()["end_cause"]) == ("ended", "disabled")
    entry = AuditEntry.objects.get(action="rescue_disabled")
    assert (entry.actor, entry.reason) == ("admin", "mended")


def test_a_delete_needs_no_body(admin_client: Client, rescue: Rescue) -> None:
    assert admin_client.delete(RESCUE).status_code == 200


def test_disabling_what_is_not_enabled_is_a_conflict(admin_client: Client, machine: Machine) -> None:
    response = send(admin_client, "DELETE", RESCUE)
    assert (response.status_code, response.json()["detail"]) == (409, "Machine web01 has no active rescue.")


def test_the_latest_rescue_is_shown_also_once_it_has_ended(admin_client: Client, rescue: Rescue) -> None:
    rescue.disable(ALICE)
    assert admin_client.get(RESCUE).json() == rescue_json(Rescue.objects.get())


def test_rescues_are_filtered_as_time_has_it(admin_client: Client, rescue: Rescue) -> None:
    Rescue.objects.filter(pk=rescue.pk).update(expires_at=timezone.now() - timedelta(minutes=1))

    def count(**asked: str) -> int:
        return int(admin_client.get("/api/rescues/", asked).json()["count"])

    assert (count(state="ended"), count(state="armed"), count(machine="WEB01"), count(machine="x")) == (1, 0, 1, 0)
    tomorrow = (timezone.now() + timedelta(days=1)).isoformat()
    assert (count(since=tomorrow), count(until=tomorrow)) == (0, 1)


# What it would be told, and what happened


def test_the_preview_tells_and_changes_nothing(admin_client: Client, rescue: Rescue) -> None:
    before = AuditEntry.objects.count()
    shown = admin_client.get(f"{MACHINES}web01/preview/", {"source": "127.0.0.1"}).json()
    assert (shown["outcome"], shown["script"].splitlines()[0]) == ("rescue", "#!ipxe")
    assert rescue.token not in shown["script"]
    refused = admin_client.get(f"{MACHINES}web01/preview/", {"source": "192.0.2.1"}).json()
    assert refused["outcome"] == "refused"
    rescue.refresh_from_db()
    assert (rescue.state, AuditEntry.objects.count()) == ("armed", before)


def test_the_preview_is_asked_as_the_machine_would_ask(admin_client: Client, rescue: Rescue) -> None:
    Machine.objects.get().revise({"identity": {"serial": "CZ1"}}, ALICE)
    path = f"{MACHINES}web01/preview/"
    assert admin_client.get(path).json()["outcome"] == "rescue"
    assert admin_client.get(path, {"serial": "CZ2"}).json()["outcome"] == "refused"


@pytest.mark.parametrize(("field", "value"), [("source", "here"), ("ip", "x"), ("mac", "x"), ("mac", OTHER_MAC)])
def test_the_preview_says_what_it_cannot_imagine(
    field: str, value: str, admin_client: Client, machine: Machine
) -> None:
    response = admin_client.get(f"{MACHINES}web01/preview/", {field: value})
    assert (response.status_code, list(response.json())) == (400, [field])


def test_the_timeline_is_that_of_the_admin(admin_client: Client, rescue: Rescue) -> None:
    shown = admin_client.get(f"{MACHINES}web01/timeline/").json()
    assert shown["count"] == 2
    latest = shown["results"][0]
    assert (latest["kind"], latest["title"], latest["text"], latest["actor"]) == (
        "armed",
        "Rescue enabled",
        "RAID",
        "alice",
    )
    assert {"label": "image", "value": "tiny"} in latest["facts"]


def test_the_audit_log_is_filtered(admin_client: Client, rescue: Rescue) -> None:
    def actions(**asked: str) -> list[str]:
        return [one["action"] for one in admin_client.get("/api/audit/", asked).json()["results"]]

    assert actions(machine="web01") == ["rescue_enabled", "machine_added"]
    assert actions(action="machine_added", ordering="at") == ["machine_added"]
    assert actions(since=(timezone.now() + timedelta(days=1)).isoformat()) == []
    assert actions(mac=MAC) == []


@pytest.mark.parametrize(
    ("moment", "status"),
    [
        ("1181-04-17T02:55:41-16:37", 200),
        ("2026-01-01T00:00:00+19:39", 200),
        ("0001-01-01T00:00:00+05:00", 400),
        ("9999-12-31T23:59:59-05:00", 400),
    ],
)
def test_times_of_any_offset_can_be_asked_for(moment: str, status: int, admin_client: Client, machine: Machine) -> None:
    assert admin_client.get("/api/audit/", {"since": moment}).status_code == status


def test_sightings_are_shown_with_what_they_said(admin_client: Client) -> None:
    Sighting.objects.create(mac=OTHER_MAC, said={"serial": "CZ1"}, source="192.0.2.7")
    shown = admin_client.get("/api/sightings/", {"mac": "525400000001"}).json()["results"]
    assert [(one["mac"], one["said"], one["source"]) for one in shown] == [(OTHER_MAC, {"serial": "CZ1"}, "192.0.2.7")]
    assert admin_client.get("/api/sightings/", {"ignored": "true"}).json()["count"] == 0


# Images


def file(name: str, content: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content)


def test_an_image_is_uploaded(admin_client: Client, image: RescueImage) -> None:
    order = {
        "name": "grml",
        "command_line": "fetch={url}/live/root.squashfs",
        "reports": "true",
        "default": "true",
        "kernel": file("vmlinuz", b"kernel"),
        "initrd": [file("a", b"one"), file("b", b"two")],
        "files": [file("root.squashfs", b"root")],
        "file_names": ["live/root.squashfs"],
    }
    response = admin_client.post(IMAGES, order)
    assert response.status_code == 201, response.json()
    shown = response.json()
    assert shown == RescueImage.objects.get(name="grml").snapshot()
    assert [one["name"] for one in shown["files"]] == ["kernel", "initrd", "initrd-2", "live/root.squashfs"]
    assert shown["default"] is True
    assert RescueImage.objects.default() == RescueImage.objects.get(name="grml")
    assert AuditEntry.objects.filter(action="rescueimage_added", subject="grml", actor="admin").exists()


@pytest.mark.parametrize(
    ("order", "field", "said"),
    [
        ({"name": "x"}, "detail", "has no kernel"),
        ({"name": "x", "kernel": file("k", b"k"), "command_line": "a\nb"}, "command_line", ""),
        ({"name": "x", "kernel": file("k", b"k"), "files": [file("a b", b"x")]}, "files", "is not a valid file name"),
        ({"name": "x", "kernel": file("k", b"k"), "files": [file("up", b"x")]}, "files", "The site uses the name"),
        ({"name": "x", "kernel": file("k", b"k"), "file_names": ["a"]}, "file_names", "Give a name for each"),
        ({"name": "x", "kernel": "text"}, "kernel", "not a file"),
        ({"name": "tiny", "kernel": file("k", b"k")}, "name", "already exists"),
        ({"name": "x", "kernel": file("k", b"k"), "colour": "blue"}, "colour", "There is no such field."),
    ],
)
def test_what_is_wrong_with_an_image_is_said_and_nothing_is_added(
    order: dict[str, Any], field: str, said: str, admin_client: Client, image: RescueImage
) -> None:
    response = admin_client.post(IMAGES, order)
    assert response.status_code == 400
    assert said in str(response.json()[field])
    assert RescueImage.objects.count() == 1


def test_an_image_that_chains_needs_no_files(admin_client: Client) -> None:
    order = {"name": "menu", "chain_script": "#!ipxe\nshell\n"}
    assert send(admin_client, "POST", IMAGES, order).json()["chain_script"] == "#!ipxe\nshell\n"


def test_a_changed_image_has_new_files_in_the_place_of_the_old(admin_client: Client, image: RescueImage) -> None:
    data = {"initrd": file("new", b"new"), "description": "better"}
    response = admin_client.patch(f"{IMAGES}tiny/", encode_multipart(BOUNDARY, data), MULTIPART_CONTENT)
    assert response.status_code == 200, response.json()
    assert [(one["name"], one["size"]) for one in response.json()["files"]] == [("kernel", 12), ("initrd", 3)]
    assert response.json()["command_line"] == "console=ttyS0"
    assert AuditEntry.objects.get(action="rescueimage_changed").details["after"]["description"] == "better"


def test_a_change_that_would_keep_an_image_from_booting_is_refused(admin_client: Client, image: RescueImage) -> None:
    response = send(admin_client, "PATCH", f"{IMAGES}tiny/", {"command_line": "fetch={url}/root.squashfs"})
    assert response.status_code == 400
    assert "has no file “root.squashfs”" in response.json()["detail"]
    image.refresh_from_db()
    assert image.command_line == "console=ttyS0"


def test_the_default_is_switched(admin_client: Client, image: RescueImage) -> None:
    other = RescueImage.objects.create(name="other", chain_script="#!ipxe\n")
    assert send(admin_client, "PATCH", f"{IMAGES}other/", {"default": True}).json()["default"] is True
    assert RescueImage.objects.default() == other
    assert send(admin_client, "PATCH", f"{IMAGES}other/", {"default": False}).json()["default"] is False
    assert RescueImage.objects.default() is None


def test_a_deleted_images_machines_are_named(admin_client: Client, image: RescueImage, machine: Machine) -> None:
    machine.revise({"image": image}, ALICE)
    assert send(admin_client, "DELETE", f"{IMAGES}tiny/").status_code == 204
    assert AuditEntry.objects.get(action="rescueimage_deleted").details["machines"] == ["web01"]
    machine.refresh_from_db()
    assert machine.image is None
