"""One way in: the same change leaves the same entry, all errors come at once, and what is sent is what is described."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client

from machines.api import notification_serializers, serializers
from machines.models import Actor, AuditEntry, Machine, NotificationRule, Rescue, RescueImage, Sighting
from machines.models.rescue_terms import RescueRequest
from machines.timeline import machine_timeline
from rescuesite.api.serializers import ReadSerializer
from tests.conftest import MAC

ALICE = Actor("alice")
OTHER = "52:54:00:00:00:01"


def send(client: Client, method: str, path: str, data: Any) -> Any:
    return client.generic(method, path, json.dumps(data), content_type="application/json")


# The same entry


def machine_by_form(client: Client, machine: Machine, folder: Path) -> None:
    mac, network = machine.macs.get(), machine.allowed_networks.get()
    form = {
        "name": "web01", "identity": '{"serial": "CZ1"}', "notes": "rack 3",
        "macs-TOTAL_FORMS": 2, "macs-INITIAL_FORMS": 1, "macs-0-id": mac.pk, "macs-0-machine": machine.pk,
        "macs-0-address": MAC, "macs-1-machine": machine.pk, "macs-1-address": OTHER,
        "allowed_networks-TOTAL_FORMS": 1, "allowed_networks-INITIAL_FORMS": 1,
        "allowed_networks-0-id": network.pk, "allowed_networks-0-machine": machine.pk,
        "allowed_networks-0-network": "127.0.0.1",
        "installed_roms-TOTAL_FORMS": 0, "installed_roms-INITIAL_FORMS": 0,
    }  # fmt: skip
    assert client.post(f"/admin/machines/machine/{machine.pk}/change/", form).status_code == 302


def machine_by_program(client: Client, machine: Machine, folder: Path) -> None:
    values = {"macs": [MAC, OTHER], "identity": {"serial": "CZ1"}, "notes": "rack 3"}
    assert send(client, "PATCH", "/api/machines/web01/", values).status_code == 200


def machine_by_import(client: Client, machine: Machine, folder: Path) -> None:
    table = folder / "machines.csv"
    table.write_text(f"name,macs,serial,notes\nweb01,{MAC} {OTHER},CZ1,rack 3\n")
    call_command("import_machines", str(table), by="admin")


@pytest.mark.parametrize("change", [machine_by_form, machine_by_program, machine_by_import])
def test_a_change_of_a_machine_leaves_the_same_entry(
    change: Callable[[Client, Machine, Path], None], admin_client: Client, machine: Machine, tmp_path: Path
) -> None:
    change(admin_client, machine, tmp_path)
    entry = AuditEntry.objects.exclude(action="machine_added").get()
    assert (entry.action, entry.actor, entry.machine, entry.subject) == ("machine_changed", "admin", "web01", "web01")
    assert entry.details == {
        "before": {"macs": [MAC], "identity": {}, "notes": ""},
        "after": {"macs": [MAC, OTHER], "identity": {"serial": "CZ1"}, "notes": "rack 3"},
    }


def image_by_form(client: Client, image: RescueImage) -> None:
    files = list(image.files.order_by("pk"))
    form: dict[str, Any] = {
        "name": "tiny", "architecture": "x86_64", "command_line": "quiet", "description": "better",
        "make_default": "on", "files-TOTAL_FORMS": len(files), "files-INITIAL_FORMS": len(files),
    }  # fmt: skip
    for n, file in enumerate(files):
        form |= {f"files-{n}-{name}": getattr(file, name) for name in ("kind", "name", "position")}
        form |= {f"files-{n}-id": file.pk, f"files-{n}-image": image.pk}
    form["files-0-upload"] = SimpleUploadedFile("vmlinuz", b"newer kernel")
    assert client.post(f"/admin/machines/rescueimage/{image.pk}/change/", form).status_code == 302


def image_by_program(client: Client, image: RescueImage) -> None:
    # Django's test client makes a multipart body of a POST alone.
    from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart

    values = {"command_line": "quiet", "description": "better", "kernel": SimpleUploadedFile("k", b"newer kernel")}
    body = encode_multipart(BOUNDARY, values)
    assert client.patch("/api/images/tiny/", body, content_type=MULTIPART_CONTENT).status_code == 200


@pytest.mark.parametrize("change", [image_by_form, image_by_program])
def test_a_change_of_an_image_leaves_the_same_entry(
    change: Callable[[Client, RescueImage], None], admin_client: Client, image: RescueImage
) -> None:
    before = image.snapshot()
    change(admin_client, image)
    (entry,) = AuditEntry.objects.all()
    assert (entry.action, entry.actor, entry.subject) == ("rescueimage_changed", "admin", "tiny")
    assert entry.details["before"] == {
        "description": "", "command_line": "console=ttyS0", "files": before["files"]
    }  # fmt: skip
    after = RescueImage.objects.get().snapshot()
    assert entry.details["after"] == {"description": "better", "command_line": "quiet", "files": after["files"]}
    assert sorted(after["files"], key=str) != sorted(before["files"], key=str)


def test_a_new_image_leaves_the_same_entry_by_form_and_by_program(admin_client: Client, db: None) -> None:
    chain = "#!ipxe\nexit\n"
    form = {
        "name": "by-form", "architecture": "x86_64", "chain_script": chain, "make_default": "on",
        "files-TOTAL_FORMS": 0, "files-INITIAL_FORMS": 0,
    }  # fmt: skip
    assert admin_client.post("/admin/machines/rescueimage/add/", form).status_code == 302
    order = {"name": "by-program", "chain_script": chain, "default": True}
    assert send(admin_client, "POST", "/api/images/", order).status_code == 201
    entries = list(AuditEntry.objects.order_by("pk"))
    assert [entry.action for entry in entries] == ["rescueimage_added", "default_image_changed"] * 2
    assert {**entries[0].details, "name": ""} == {**entries[2].details, "name": ""}


def test_a_deleted_image_leaves_the_same_entry_by_page_and_by_program(
    admin_client: Client, machine: Machine, db: None
) -> None:
    details = []
    for delete in (
        lambda image: admin_client.post(f"/admin/machines/rescueimage/{image.pk}/delete/", {"post": "yes"}),
        lambda image: admin_client.delete("/api/images/menu/"),
    ):
        image = RescueImage.objects.add({"name": "menu", "chain_script": "#!ipxe\nexit\n"}, [], ALICE)
        machine.revise({"image": image}, ALICE)
        delete(image)  # type: ignore[no-untyped-call]
        details.append(AuditEntry.objects.filter(action="rescueimage_deleted").latest("pk").details)
    assert details[0] == details[1]
    assert details[0]["machines"] == ["web01"]


# All errors at once

WRONG = {
    "name": "web 01", "macs": ["zz"], "allowed_networks": ["10.0.0.1/8"], "image": "nope", "identity": {"uuid": "x"},
    "rescue_network": {"gateways": ["192.0.2.1"]}, "notes": "n" * 10_001, "colour": "red",
}  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PATCH", "web01/"), ("PUT", "web01/")])
def test_all_that_is_wrong_with_a_machine_is_told_at_once(
    method: str, path: str, admin_client: Client, machine: Machine
) -> None:
    response = send(admin_client, method, f"/api/machines/{path}", WRONG)
    assert (response.status_code, set(response.json())) == (400, set(WRONG))


def test_a_bad_name_hides_no_mac_that_is_taken(admin_client: Client, machine: Machine) -> None:
    response = send(admin_client, "POST", "/api/machines/", {"name": "web 02", "macs": [MAC]})
    assert set(response.json()) == {"name", "macs"}


def test_all_that_is_wrong_with_an_image_is_told_at_once(admin_client: Client, image: RescueImage) -> None:
    wrong = {"name": "a b", "architecture": "vax", "command_line": "initrd=x", "chain_script": "x", "colour": "red"}
    for method, path in (("POST", ""), ("PATCH", "tiny/")):
        response = send(admin_client, method, f"/api/images/{path}", wrong)
        assert (response.status_code, set(response.json())) == (400, set(wrong))


# What is sent is what is described


def leaves(shown: Any) -> Any:
    return {name: leaves(value) for name, value in shown.items()} if isinstance(shown, dict) else None


@pytest.fixture
def instances(machine: Machine, image: RescueImage, admin_user: Any) -> dict[type, Any]:
    """One of everything that answers hold."""
    enabled = Rescue.objects.enable(machine, RescueRequest(password=True), ALICE)
    rule = NotificationRule(name="n", url="https://hooks.example.net/", events=["rescue.up"])
    rule.issue([machine], ALICE)
    return {
        serializers.MachineSerializer: Machine.objects.for_lists().get(),
        serializers.RescueSerializer: enabled,
        serializers.EnabledRescueSerializer: enabled,
        serializers.ImageSerializer: image,
        serializers.EventSerializer: machine_timeline(machine)[0],
        serializers.AuditSerializer: AuditEntry.objects.first(),
        serializers.SightingSerializer: Sighting.objects.create(mac=OTHER, said={"serial": "x"}),
        notification_serializers.NotificationRuleSerializer: rule,
        notification_serializers.NewNotificationRuleSerializer: rule,
        notification_serializers.DeliverySerializer: rule.send_test(ALICE),
    }


def test_each_field_that_is_represented_is_described(instances: dict[type, Any], rf: Any, admin_user: Any) -> None:
    """What `represent` gives, and no field is for, would not be sent."""
    request = rf.get("/")
    request.user = admin_user
    for kind, instance in instances.items():
        serializer = kind(instance, context={"request": request})
        represented = serializer.represent(instance)
        assert serializer.data.keys() == represented.keys(), kind
        assert leaves(json.loads(json.dumps(serializer.data))) == leaves(represented), kind


def test_every_serializer_of_answers_is_in_this_test(instances: dict[type, Any]) -> None:
    read = {
        one for module in (serializers, notification_serializers) for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, ReadSerializer) and one.__module__ == module.__name__
    }  # fmt: skip
    assert read <= set(instances)
