"""The staff's face: who may do what, what pages show, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, Sighting, SSHKey
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC
from tests.machines.admin_pages import DISABLE, ENABLE, KEY, machine_form, staff

__all__ = ["staff"]


ORDER = {"lifetime": "one-boot", "reason": "broken"}


LISTS = [
    "machines/machine",
    "machines/rescueimage",
    "machines/sighting",
    "machines/auditentry",
    "machines/sshkey",
    "auth/user",
    "auth/group",
]


def furnish(first: int, count: int, user: User) -> None:
    """Machines with all that a line of a list shows, images, sightings, keys."""
    actor = Actor("tester")
    image = RescueImage.objects.filter(is_default=True).get()
    for n in range(first, first + count):
        machine = Machine.objects.add(
            f"node{n}", macs=[f"52:54:00:00:00:{n:02x}"], allowed_networks=["127.0.0.1", f"192.0.2.{n}"], actor=actor
        )
        Rescue.objects.enable(machine, RescueRequest(), actor)
        Client().get("/boot", {"mac": f"52:54:00:00:00:{n:02x}"})
        Client().get("/boot", {"mac": f"52:54:00:00:01:{n:02x}"})
        other = RescueImage.objects.create(name=f"image{n}")
        other.attach("kernel", [b"%d" % n])
        key = SSHKey(user=User.objects.create(username=f"user{n}"), public_key=KEY)
        key.full_clean(exclude=["fingerprint"])
        key.save()
    assert image.is_default


@pytest.mark.parametrize("model", LISTS)
def test_a_list_page_costs_the_same_number_of_queries_for_any_number_of_rows(
    model: str, admin_client: Client, admin_user: User, image: RescueImage
) -> None:
    furnish(1, 2, admin_user)
    admin_client.get(f"/admin/{model}/")
    with CaptureQueriesContext(connection) as few:
        assert admin_client.get(f"/admin/{model}/").status_code == 200
    furnish(10, 10, admin_user)
    with CaptureQueriesContext(connection) as many:
        assert admin_client.get(f"/admin/{model}/").status_code == 200
    assert len(many) == len(few)


def test_the_front_page_costs_the_same_number_of_queries_for_any_number_of_rows(
    admin_client: Client, admin_user: User, image: RescueImage
) -> None:
    furnish(1, 2, admin_user)
    admin_client.get("/admin/")
    with CaptureQueriesContext(connection) as few:
        admin_client.get("/admin/")
    furnish(10, 10, admin_user)
    with CaptureQueriesContext(connection) as many:
        admin_client.get("/admin/")
    assert len(many) == len(few)


# Who may do what


def test_enabling_needs_its_own_permission_on_the_page_and_on_the_post(
    staff: Callable[..., Client], machine: Machine, image: RescueImage
) -> None:
    client = staff("view_machine", "change_machine", "add_machine", "delete_machine", "change_rescueimage")
    assert client.get(ENABLE, {"ids": machine.pk}).status_code == 403
    assert client.post(ENABLE, {"ids": machine.pk, **ORDER}).status_code == 403
    assert not Rescue.objects.exists()


def test_disabling_needs_its_own_permission_on_the_page_and_on_the_post(
    staff: Callable[..., Client], machine: Machine, image: RescueImage, actor: Actor
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), actor)
    client = staff("view_machine", "change_machine")
    assert client.get(DISABLE, {"ids": machine.pk}).status_code == 403
    assert client.post(DISABLE, {"ids": machine.pk}).status_code == 403
    assert Rescue.objects.active().exists()


def test_a_forged_action_is_refused_without_permission(
    staff: Callable[..., Client], machine: Machine, image: RescueImage
) -> None:
    client = staff("view_machine")
    client.post("/admin/machines/machine/", {"action": "enable_rescue", "_selected_action": machine.pk})
    assert not Rescue.objects.exists()


def test_who_may_enable_need_not_be_able_to_edit(
    staff: Callable[..., Client], machine: Machine, image: RescueImage
) -> None:
    client = staff("view_machine", "enable_rescue")
    assert client.get(ENABLE, {"ids": machine.pk}).status_code == 200
    client.post(ENABLE, {"ids": machine.pk, **ORDER})
    rescue = Rescue.objects.get()
    assert (rescue.enabled_by_name, rescue.reason) == ("bob", "broken")
    edited = client.post(f"/admin/machines/machine/{machine.pk}/change/", {"name": "other"})
    assert edited.status_code == 403


@pytest.mark.parametrize(
    "path", ["machine/1/panel/", "machine/1/preview/", "machine/rescue/enable/?ids=1", "auditentry/"]
)
def test_a_page_asks_who_is_not_logged_in_to_log_in(path: str, client: Client, machine: Machine) -> None:
    response = client.get(f"/admin/machines/{path}")
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


def test_attaching_a_sighting_needs_permission_to_edit_machines(staff: Callable[..., Client], machine: Machine) -> None:
    sighting = Sighting.objects.create(mac="52:54:00:00:00:01")
    client = staff("view_sighting", "change_sighting", "view_machine")
    url = f"/admin/machines/sighting/{sighting.pk}/attach/"
    assert client.get(url).status_code == 403
    assert client.post(url, {"machine": machine.pk}).status_code == 403


def test_nobody_can_edit_or_delete_an_audit_entry(admin_client: Client, machine: Machine) -> None:
    entry = AuditEntry.objects.get()
    for path in (f"{entry.pk}/delete/", "add/"):
        assert admin_client.post(f"/admin/machines/auditentry/{path}", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"/admin/machines/auditentry/{entry.pk}/change/", {"actor": "x"}).status_code == 403
    admin_client.post(
        "/admin/machines/auditentry/", {"action": "delete_selected", "_selected_action": entry.pk, "post": "yes"}
    )
    entry.refresh_from_db()
    assert entry.actor == "tester"


# The switch


def post_enable(client: Client, machine: Machine, **changes: Any) -> Any:
    return client.post(ENABLE, {"ids": machine.pk, **ORDER, **changes}, follow=True)


def test_a_rescue_needs_a_reason(admin_client: Client, machine: Machine, image: RescueImage) -> None:
    response = post_enable(admin_client, machine, reason="")
    assert "Nothing has been changed" in response.content.decode()
    assert not Rescue.objects.exists()


def test_a_time_that_has_passed_is_refused(admin_client: Client, machine: Machine, image: RescueImage) -> None:
    past = timezone.now() - timedelta(days=1)
    response = post_enable(
        admin_client, machine, lifetime="until", expires_at_0=f"{past:%Y-%m-%d}", expires_at_1="00:00"
    )
    assert "This time is in the past" in response.content.decode()
    assert not Rescue.objects.exists()


def test_a_second_rescue_is_refused_and_says_whose_the_first_is(
    admin_client: Client, machine: Machine, image: RescueImage
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), Actor("carol"))
    response = post_enable(admin_client, machine)
    assert "enabled by carol" in response.content.decode()
    assert Rescue.objects.count() == 1


def test_without_an_image_nothing_is_armed_and_the_page_says_what_to_do(admin_client: Client, machine: Machine) -> None:
    response = post_enable(admin_client, machine)
    assert "There is no default rescue image" in response.content.decode()
    assert not Rescue.objects.exists()


def test_many_machines_are_switched_at_once_and_those_that_cannot_are_named(
    admin_client: Client, machine: Machine, image: RescueImage, add_machine: Callable[[int], Machine]
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), Actor("carol"))
    others = [add_machine(n) for n in range(3)]
    response = admin_client.post(ENABLE, {"ids": [m.pk for m in (machine, *others)], **ORDER}, follow=True)
    text = response.content.decode()
    assert "node0, node1, node2" in text
    assert "web01 already has an active rescue" in text
    assert Rescue.objects.active().count() == 4


def test_enabling_without_any_key_warns(admin_client: Client, machine: Machine, image: RescueImage) -> None:
    assert "No SSH key will be delivered" in post_enable(admin_client, machine).content.decode()


def test_the_audit_entry_names_person_address_and_reason(
    admin_client: Client, machine: Machine, image: RescueImage
) -> None:
    post_enable(admin_client, machine)
    entry = AuditEntry.objects.get(action="rescue_enabled")
    assert (entry.actor, entry.source, entry.reason) == ("admin", "127.0.0.1", "broken")


# Machines


def test_a_mac_may_be_typed_in_any_form_and_is_stored_in_one(admin_client: Client, db: None) -> None:
    form = machine_form(**{"macs-TOTAL_FORMS": "1", "macs-0-address": "0002.B39D.948C"})
    admin_client.post("/admin/machines/machine/add/", form)
    assert list(Machine.objects.get().macs.values_list("address", flat=True)) == [MAC]


def test_a_mac_of_another_machine_is_refused_with_what_was_typed_kept(admin_client: Client, machine: Machine) -> None:
    form = machine_form(**{"macs-TOTAL_FORMS": "1", "macs-0-address": MAC.upper(), "notes": "kept"})
    response = admin_client.post("/admin/machines/machine/add/", form)
    text = response.content.decode()
    assert "This MAC address already belongs to a machine." in text
    assert "kept" in text
    assert Machine.objects.count() == 1


def test_an_identity_of_something_that_no_nic_sends_is_refused(admin_client: Client, db: None) -> None:
    response = admin_client.post("/admin/machines/machine/add/", machine_form(identity='{"colour": "red"}'))
    assert "is not a valid name" in response.content.decode()


def test_adding_a_machine_drops_the_sighting_of_its_card(admin_client: Client, db: None) -> None:
    Sighting.objects.create(mac=MAC)
    form = machine_form(**{"macs-TOTAL_FORMS": "1", "macs-0-address": MAC})
    admin_client.post("/admin/machines/machine/add/", form)
    assert not Sighting.objects.exists()


def test_a_change_leaves_what_was_and_what_is_in_the_audit_log(admin_client: Client, machine: Machine) -> None:
    network = machine.allowed_networks.get()
    mac = machine.macs.get()
    form = machine_form(
        name="web01",
        **{
            "macs-TOTAL_FORMS": "1", "macs-INITIAL_FORMS": "1", "macs-0-id": mac.pk, "macs-0-machine": machine.pk,
            "macs-0-address": MAC,
            "allowed_networks-TOTAL_FORMS": "1", "allowed_networks-INITIAL_FORMS": "1",
            "allowed_networks-0-id": network.pk,
            "allowed_networks-0-machine": machine.pk, "allowed_networks-0-network": "0.0.0.0/0",
        },
    )  # fmt: skip
    admin_client.post(f"/admin/machines/machine/{machine.pk}/change/", form)
    entry = AuditEntry.objects.get(action="machine_changed")
    assert entry.details == {
        "before": {"allowed_networks": ["127.0.0.1"]},
        "after": {"allowed_networks": ["0.0.0.0/0"]},
    }


def test_deleting_machines_leaves_audit_entries(admin_client: Client, machine: Machine) -> None:
    admin_client.post(
        "/admin/machines/machine/", {"action": "delete_selected", "_selected_action": machine.pk, "post": "yes"}
    )
    assert not Machine.objects.exists()
    entry = AuditEntry.objects.get(action="machine_deleted")
    assert (entry.actor, entry.machine) == ("admin", "web01")


@pytest.mark.parametrize(
    "term", ["web01", "0002b39d948c", "00-02-B3-9D-94-8C", "9d:94", "127.0.0.1", "CZ1234", "4c4c-42"]
)
def test_a_machine_is_found_by_name_mac_address_and_serial(
    term: str, admin_client: Client, machine: Machine, add_machine: Callable[[int], Machine]
) -> None:
    Machine.objects.filter(pk=machine.pk).update(identity={"uuid": "4c4c-42"})
    Machine.objects.filter(pk=add_machine(1).pk).update(identity={})
    Client().get("/boot", {"mac": MAC, "serial": "CZ1234", "uuid": "4c4c-42"})
    found = admin_client.get("/admin/machines/machine/", {"q": term}).context["cl"].queryset
    assert machine in found


@pytest.mark.parametrize("state", ["local", "armed", "booting", "up"])
def test_the_state_filter_leaves_the_machines_that_stand_so(
    state: str, admin_client: Client, image: RescueImage, add_machine: Callable[[int], Machine], actor: Actor
) -> None:
    machines = {name: add_machine(n) for n, name in enumerate(["local", "armed", "booting", "up"])}
    for name in ("armed", "booting", "up"):
        rescue = Rescue.objects.enable(machines[name], RescueRequest(), actor)
        if name != "armed":
            Client().get("/boot", {"mac": machines[name].macs.get().address})
        if name == "up":
            Rescue.objects.filter(pk=rescue.pk).update(state="up", up_at=timezone.now())
    found = admin_client.get("/admin/machines/machine/", {"state": state}).context["cl"].queryset
    assert list(found) == [machines[state]]


# Previews


def test_a_preview_changes_nothing_and_shows_no_token(
    admin_client: Client, machine: Machine, image: RescueImage, actor: Actor
) -> None:
    rescue = Rescue.objects.enable(machine, RescueRequest(), actor)
    before = AuditEntry.objects.count()
    response = admin_client.get(
        f"/admin/machines/machine/{machine.pk}/preview/", {"mac": MAC, "source": "127.0.0.1", "ip": "", "query": ""}
    )
    text = response.content.decode()
    assert "/boot/&lt;token&gt;/kernel" in text
    assert str(rescue.token) not in text
    rescue.refresh_from_db()
    assert rescue.state == "armed"
    assert AuditEntry.objects.count() == before
    assert not hasattr(Machine.objects.get(), "contact")


@pytest.mark.parametrize("path", ["/admin/nothing/", "/nothing/"])
def test_an_unknown_page_says_so_without_names_of_django(admin_client: Client, path: str) -> None:
    response = admin_client.get(path)
    page = response.content.decode()
    assert (response.status_code, "This page does not exist" in page) == (404, True)
    assert "404" not in page.partition("<body>")[2]
