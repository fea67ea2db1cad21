"""While a rescue is active, who its machine is says what it starts: who may not enable one changes only notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, Sighting
from machines.models.machine import MachineLockedError
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC

PAGE = "/admin/machines/machine/{}/change/"
OTHER_MAC = "52:54:00:00:00:01"
RIGHTS = ("view_machine", "change_machine", "add_machine", "delete_machine", "view_sighting", "change_sighting")


@pytest.fixture
def rescue(machine: Machine, image: RescueImage) -> Rescue:
    machine.revise({"identity": {"serial": "CZ1234"}, "rescue_network": {"addresses": ["192.0.2.7/24"]}}, Actor("a"))
    return Rescue.objects.enable(machine, RescueRequest(), Actor("alice"))


@pytest.fixture
def log_in(client: Client, db: None) -> Callable[..., Client]:
    def log_in(*more: str) -> Client:
        user = User.objects.create_user("bob", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=[*RIGHTS, *more]))
        client.force_login(user)
        return client

    return log_in


def bob(*permissions: str) -> Actor:
    user = User.objects.create_user("bob")
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return Actor.of_user(user)


CHANGES: list[tuple[str, Any]] = [
    ("name", "web02"),
    ("macs", [MAC, OTHER_MAC]),
    ("macs", []),
    ("allowed_networks", []),
    ("allowed_networks", ["127.0.0.1", "0.0.0.0/0"]),
    ("identity", {}),
    ("identity", {"serial": "CZ1234", "uuid": "03020100-0504-0706-0809-0a0b0c0d0e0f"}),
    ("rescue_network", {}),
    ("rescue_network", {"addresses": ["198.51.100.9/24"]}),
    ("image", "other"),
]
_EACH = pytest.mark.parametrize(("name", "value"), CHANGES)


@_EACH
def test_the_model_refuses(name: str, value: Any, rescue: Rescue) -> None:
    wanted = RescueImage.objects.create(name="other") if name == "image" else value
    before = Machine.objects.get().snapshot()
    with pytest.raises(MachineLockedError, match="A rescue of web01 is active"):
        Machine.objects.get().revise({name: wanted}, bob(*RIGHTS))
    assert Machine.objects.get().snapshot() == before
    assert not AuditEntry.objects.filter(action="machine_changed", actor="bob").exists()


@_EACH
def test_the_api_refuses(name: str, value: Any, rescue: Rescue, log_in: Callable[..., Client]) -> None:
    RescueImage.objects.create(name="other")
    before = Machine.objects.get().snapshot()
    client = log_in()
    for method in ("patch", "put"):
        order = json.dumps({"name": "web01", name: value})
        response = getattr(client, method)("/api/machines/web01/", order, content_type="application/json")
        assert response.status_code == 403, response.content
        assert "A rescue of web01 is active" in response.json()["detail"]
    assert Machine.objects.get().snapshot() == before


@_EACH
def test_who_may_enable_rescues_may(name: str, value: Any, rescue: Rescue) -> None:
    wanted = RescueImage.objects.create(name="other") if name == "image" else value
    assert Machine.objects.get().revise({name: wanted}, bob("change_machine", "enable_rescue"))


def test_notes_are_everybodys(rescue: Rescue, log_in: Callable[..., Client]) -> None:
    client = log_in()
    changed = client.patch("/api/machines/web01/", '{"notes": "fan is loud"}', content_type="application/json")
    assert changed.status_code == 200
    page = PAGE.format(rescue.machine_id)
    assert "A rescue of web01 is active" in client.get(page).content.decode()
    assert client.post(page, rendered(client, page) | {"notes": "fan is broken"}).status_code == 302
    assert Machine.objects.get().notes == "fan is broken"
    assert Machine.objects.get().snapshot()["macs"] == [MAC]


def test_once_the_rescue_is_over_all_can_be_changed_again(rescue: Rescue) -> None:
    rescue.disable(Actor("alice"))
    assert Machine.objects.get().revise({"identity": {}}, bob("change_machine"))


def rendered(client: Client, page: str) -> dict[str, Any]:
    """The fields of the form that a page shows, as a browser would post them."""
    response: Any = client.get(page)
    form = response.context["adminform"].form
    fields = {name: "" if (value := form[name].value()) is None else value for name in form.fields}
    for inline in response.context["inline_admin_formsets"]:
        formset = inline.formset
        fields |= {f"{formset.prefix}-{name}": value for name, value in formset.management_form.initial.items()}
        for row in formset.initial_forms if inline.has_change_permission else ():
            fields |= {f"{row.prefix}-{name}": row[name].value() or "" for name in row.fields}
    return fields


FORM = [
    {"name": "web02"},
    {"identity": "{}"},
    {"rescue_network_addresses": ""},
    {"macs-0-address": OTHER_MAC},
    {"macs-0-DELETE": "on"},
    {"allowed_networks-0-network": "0.0.0.0/0"},
]


@pytest.mark.parametrize("changed", FORM, ids=lambda changed: next(iter(changed)))
def test_a_page_opened_before_the_rescue_is_refused(
    changed: dict[str, str], machine: Machine, image: RescueImage, log_in: Callable[..., Client]
) -> None:
    client, page = log_in(), PAGE.format(machine.pk)
    opened = rendered(client, page) | changed
    Rescue.objects.enable(machine, RescueRequest(), Actor("alice"))
    before = Machine.objects.get().snapshot()
    refused = client.post(page, opened)
    assert refused.status_code == 403
    assert "A rescue of web01 is active" in refused.content.decode()
    assert Machine.objects.get().snapshot() == before


@pytest.mark.parametrize("changed", FORM, ids=lambda changed: next(iter(changed)))
def test_a_page_opened_during_the_rescue_changes_nothing_but_notes(
    changed: dict[str, str], rescue: Rescue, log_in: Callable[..., Client]
) -> None:
    client, page = log_in(), PAGE.format(rescue.machine_id)
    before = Machine.objects.get().snapshot()
    client.post(page, rendered(client, page) | changed)
    assert Machine.objects.get().snapshot() == before


def test_an_import_is_refused(rescue: Rescue, log_in: Callable[..., Client]) -> None:
    client = log_in()
    before = Machine.objects.get().snapshot()
    for table in (
        "name,serial\nweb01,\n",
        "name,uuid\nweb01,03020100-0504-0706-0809-0a0b0c0d0e0f\n",
        "name,image\nweb01,tiny\n",
        "name\nWEB01\n",
    ):
        page = client.post("/admin/machines/machine/import/", {"contents": table}).content.decode()
        assert "A rescue of web01 is active" in page, table
    assert Machine.objects.get().snapshot() == before
    assert client.post("/admin/machines/machine/import/", {"contents": "name,notes\nweb01,n\n"}).status_code == 302


def test_a_sighting_is_not_attached(rescue: Rescue, log_in: Callable[..., Client]) -> None:
    sighting = Sighting.objects.create(mac=OTHER_MAC)
    path = f"/admin/machines/sighting/{sighting.pk}/attach/"
    assert log_in().post(path, {"machine": rescue.machine_id}).status_code == 403
    assert Machine.objects.get().macs.get().address == MAC


def test_it_is_not_deleted(rescue: Rescue, log_in: Callable[..., Client]) -> None:
    client = log_in()
    pk = rescue.machine_id
    assert client.delete("/api/machines/web01/").status_code == 403
    assert client.post(f"/admin/machines/machine/{pk}/delete/", {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": pk, "post": "yes"}
    assert client.post("/admin/machines/machine/", chosen).status_code == 403
    assert Rescue.objects.active().count() == 1


def test_the_command_line_may(rescue: Rescue, tmp_path: Any) -> None:
    table = tmp_path / "machines.csv"
    table.write_text("name,serial\nweb01,\n")
    User.objects.create_user("bob")
    call_command("import_machines", str(table), by="bob")
    assert Machine.objects.get().identity == {}


def test_a_rescue_enabled_just_before_the_change_is_seen(
    machine: Machine, image: RescueImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check comes after the lock, so nothing is enabled between the two."""
    read = Machine.objects.get()
    lock = Machine.lock

    def late(one: Machine) -> bool:
        monkeypatch.undo()
        Rescue.objects.enable(one, RescueRequest(), Actor("alice"))
        return lock(one)

    monkeypatch.setattr(Machine, "lock", late)
    with pytest.raises(MachineLockedError):
        read.revise({"identity": {"serial": "x"}}, bob("change_machine"))


def test_the_image_of_an_active_rescue_changes_nothing_that_it_boots(rescue: Rescue) -> None:
    image = RescueImage.objects.get(name="tiny")
    booted = [file.stored.sha256 for file in rescue.files.all()]
    changer = bob("change_rescueimage", "delete_rescueimage")
    image.revise({"command_line": "init=/bin/sh"}, [], changer)
    image.attach("kernel", [b"another kernel"])
    image.revise({"reports": True}, [], changer)
    image.delete_audited(changer)
    again = Rescue.objects.get()
    assert [file.stored.sha256 for file in again.files.all()] == booted
    assert (again.command_line, again.chain_script, again.reports) == ("console=ttyS0", "", False)


def test_the_form_leaves_the_same_entry_as_the_api(admin_client: Client, machine: Machine) -> None:
    page = PAGE.format(machine.pk)
    changed = rendered(admin_client, page) | {"notes": "rack 3", "macs-0-address": OTHER_MAC.upper()}
    assert admin_client.post(page, changed).status_code == 302
    entry = AuditEntry.objects.filter(action="machine_changed").get()
    assert entry.details == {
        "before": {"macs": [MAC], "notes": ""},
        "after": {"macs": [OTHER_MAC], "notes": "rack 3"},
    }


def test_the_form_says_what_the_model_refuses(admin_client: Client, machine: Machine) -> None:
    page = PAGE.format(machine.pk)
    row = {"macs-TOTAL_FORMS": 2, "macs-1-machine": machine.pk, "macs-1-address": MAC.upper().replace(":", "-")}
    response = admin_client.post(page, rendered(admin_client, page) | row, follow=True)
    assert MAC in response.content.decode()
    assert Machine.objects.get().macs.count() == 1
