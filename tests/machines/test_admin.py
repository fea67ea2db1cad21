"""The staff's face: who may do what, what pages show, and what they cost."""

from __future__ import annotations

import csv
import errno
import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, Sighting, SSHKey, StoredFile
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBgpRzGy3PmIlAPBu0zy1RkqmzwzlwqdtnBDCsQMnnCI alice@example.net"
ENABLE, DISABLE = "/admin/machines/machine/rescue/enable/", "/admin/machines/machine/rescue/disable/"
ORDER = {"lifetime": "one-boot", "reason": "broken"}


@pytest.fixture
def staff(client: Client, db: None) -> Callable[..., Client]:
    """Log in as a staff user with the named permissions."""

    def log_in(*permissions: str, name: str = "bob") -> Client:
        user = User.objects.create_user(name, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return client

    return log_in


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
    assert "This time has passed" in response.content.decode()
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
    assert "There is no rescue image" in response.content.decode()
    assert not Rescue.objects.exists()


def test_many_machines_are_switched_at_once_and_those_that_cannot_are_named(
    admin_client: Client, machine: Machine, image: RescueImage, add_machine: Callable[[int], Machine]
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), Actor("carol"))
    others = [add_machine(n) for n in range(3)]
    response = admin_client.post(ENABLE, {"ids": [m.pk for m in (machine, *others)], **ORDER}, follow=True)
    text = response.content.decode()
    assert "node0, node1, node2" in text
    assert "web01 is active already" in text
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


def machine_form(**changes: Any) -> dict[str, Any]:
    empty = {
        f"{prefix}-{name}": "0" for prefix in ("macs", "allowed_networks") for name in ("TOTAL_FORMS", "INITIAL_FORMS")
    }
    return {"name": "db01", "identity": "{}", "notes": "", **empty, **changes}


def test_a_mac_may_be_typed_in_any_form_and_is_stored_in_one(admin_client: Client, db: None) -> None:
    form = machine_form(**{"macs-TOTAL_FORMS": "1", "macs-0-address": "0002.B39D.948C"})
    admin_client.post("/admin/machines/machine/add/", form)
    assert list(Machine.objects.get().macs.values_list("address", flat=True)) == [MAC]


def test_a_mac_of_another_machine_is_refused_with_what_was_typed_kept(admin_client: Client, machine: Machine) -> None:
    form = machine_form(**{"macs-TOTAL_FORMS": "1", "macs-0-address": MAC.upper(), "notes": "kept"})
    response = admin_client.post("/admin/machines/machine/add/", form)
    text = response.content.decode()
    assert "This MAC address belongs to a machine already." in text
    assert "kept" in text
    assert Machine.objects.count() == 1


def test_an_identity_of_something_that_no_nic_sends_is_refused(admin_client: Client, db: None) -> None:
    response = admin_client.post("/admin/machines/machine/add/", machine_form(identity='{"colour": "red"}'))
    assert "is nothing that a NIC sends" in response.content.decode()


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


# Audit log


def test_the_export_holds_the_filtered_rows_only(admin_client: Client, machine: Machine) -> None:
    Client().get("/boot", {"mac": MAC})
    response = admin_client.get("/admin/machines/auditentry/export/", {"action": "boot"})
    rows = list(csv.DictReader(io.StringIO(response.getvalue().decode())))
    assert [(row["machine"], row["action"], row["reason"]) for row in rows] == [("web01", "boot", "no_rescue")]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_exported_cell_can_start_a_formula(start: str, admin_client: Client, db: None) -> None:
    AuditEntry.objects.record("test", reason=f"{start}HYPERLINK()")
    response = admin_client.get("/admin/machines/auditentry/export/")
    cells = next(list(csv.DictReader(io.StringIO(response.getvalue().decode(), newline=""))) for _ in [0])
    assert cells[0]["reason"] == f"'{start}HYPERLINK()"


def test_what_a_nic_said_is_shown_as_text(admin_client: Client, machine: Machine) -> None:
    Client().get("/boot", {"mac": "52:54:00:00:00:01", "product": "<script>alert(1)</script>"})
    sighting = Sighting.objects.get()
    for path in ("sighting/", f"sighting/{sighting.pk}/change/", "auditentry/"):
        assert "<script>alert" not in admin_client.get(f"/admin/machines/{path}").content.decode()


# Sightings


def test_attaching_a_sighting_gives_its_mac_to_the_machine(admin_client: Client, machine: Machine) -> None:
    sighting = Sighting.objects.create(mac="52:54:00:00:00:01")
    admin_client.post(f"/admin/machines/sighting/{sighting.pk}/attach/", {"machine": machine.pk})
    assert machine.macs.filter(address="52:54:00:00:00:01").exists()
    assert not Sighting.objects.exists()
    assert AuditEntry.objects.filter(action="mac_attached", machine="web01").exists()


def test_an_ignored_sighting_waits_no_more(admin_client: Client, db: None) -> None:
    sighting = Sighting.objects.create(mac="52:54:00:00:00:01")
    admin_client.post("/admin/machines/sighting/", {"action": "ignore", "_selected_action": sighting.pk})
    assert not Sighting.objects.waiting().exists()
    assert AuditEntry.objects.get().action == "sighting_ignored"


# Images


def image_form(*rows: dict[str, Any], initial: int = 0, **changes: Any) -> dict[str, Any]:
    form: dict[str, Any] = {
        "name": "grml", "description": "", "architecture": "x86_64", "command_line": "", "chain_script": "",
        "files-TOTAL_FORMS": str(len(rows)), "files-INITIAL_FORMS": str(initial), **changes,
    }  # fmt: skip
    for n, row in enumerate(rows):
        form |= {f"files-{n}-{name}": value for name, value in row.items()}
    return form


def upload(kind: str, content: bytes, *, filename: str = "file", name: str = "", position: int = 0) -> dict[str, Any]:
    return {"kind": kind, "upload": SimpleUploadedFile(filename, content), "name": name, "position": position}


def test_uploaded_files_get_the_names_by_which_they_are_served(admin_client: Client, db: None) -> None:
    rows = [
        upload("kernel", b"k"),
        upload("initrd", b"i1"),
        upload("initrd", b"i2"),
        upload("file", b"f", filename="grml.squashfs"),
    ]
    admin_client.post("/admin/machines/rescueimage/add/", image_form(*rows))
    image = RescueImage.objects.get()
    assert {file.name: file.stored.size for file in image.files.all()} == {
        "kernel": 1, "initrd": 2, "initrd-2": 2, "grml.squashfs": 1,
    }  # fmt: skip
    assert AuditEntry.objects.get().action == "rescueimage_added"


def test_a_file_named_like_one_of_the_sites_own_is_refused(admin_client: Client, db: None) -> None:
    response = admin_client.post(
        "/admin/machines/rescueimage/add/", image_form(upload("kernel", b"k"), upload("file", b"f", name="rescue.cpio"))
    )
    assert "is a name that the site uses itself" in response.content.decode()
    assert not RescueImage.objects.exists()


def test_a_kernel_is_replaced_by_uploading_another_in_its_row(admin_client: Client, image: RescueImage) -> None:
    kernel, initrd = image.files.all()
    rows = [
        {"id": kernel.pk, "image": image.pk, **upload("kernel", b"new kernel")},
        {"id": initrd.pk, "image": image.pk, "kind": "initrd", "name": "initrd", "position": 1},
    ]
    admin_client.post(
        f"/admin/machines/rescueimage/{image.pk}/change/", image_form(*rows, initial=2, name="tiny", make_default="on")
    )
    assert {file.name: file.stored.path.read_bytes() for file in image.files.all()} == {
        "kernel": b"new kernel", "initrd": b"initrd bytes",
    }  # fmt: skip


def test_making_an_image_the_default_takes_the_place_of_the_earlier_one(
    admin_client: Client, image: RescueImage
) -> None:
    admin_client.post("/admin/machines/rescueimage/add/", image_form(upload("kernel", b"k"), make_default="on"))
    assert list(RescueImage.objects.filter(is_default=True).values_list("name", flat=True)) == ["grml"]


def test_an_image_without_a_kernel_is_kept_with_a_warning(admin_client: Client, db: None) -> None:
    response = admin_client.post("/admin/machines/rescueimage/add/", image_form(), follow=True)
    assert "has no kernel; upload one" in response.content.decode()


# SSH keys


def test_everybody_on_the_staff_adds_their_own_key_without_any_permission(staff: Callable[..., Client]) -> None:
    staff().post("/admin/machines/sshkey/add/", {"public_key": f"  {KEY}\n"})
    key = SSHKey.objects.get()
    assert (key.user.username, key.public_key) == ("bob", KEY)


def test_nobody_adds_a_key_for_somebody_else(staff: Callable[..., Client], admin_user: User) -> None:
    staff().post("/admin/machines/sshkey/add/", {"public_key": KEY, "user": admin_user.pk})
    assert SSHKey.objects.get().user.username == "bob"


def test_nobody_sees_or_deletes_somebody_elses_key(staff: Callable[..., Client], admin_user: User) -> None:
    key = SSHKey(user=admin_user, public_key=KEY)
    key.full_clean(exclude=["fingerprint"])
    key.save()
    client = staff()
    assert key.fingerprint not in client.get("/admin/machines/sshkey/").content.decode()
    assert client.post(f"/admin/machines/sshkey/{key.pk}/delete/", {"post": "yes"}).status_code in {302, 403}
    assert SSHKey.objects.filter(pk=key.pk).exists()


def test_the_same_key_twice_is_refused(staff: Callable[..., Client]) -> None:
    client = staff()
    client.post("/admin/machines/sshkey/add/", {"public_key": KEY})
    response = client.post("/admin/machines/sshkey/add/", {"public_key": KEY})
    assert "This key has been added already." in response.content.decode()
    assert SSHKey.objects.count() == 1


# Users


def test_a_new_permission_of_a_user_leaves_an_audit_entry(admin_client: Client, admin_user: User) -> None:
    bob = User.objects.create_user("bob", is_staff=True)
    permission = Permission.objects.get(codename="enable_rescue")
    admin_client.post(
        f"/admin/auth/user/{bob.pk}/change/",
        {"username": "bob", "is_active": "on", "is_staff": "on", "user_permissions": permission.pk,
         "date_joined_0": "2026-01-01", "date_joined_1": "00:00"},
    )  # fmt: skip
    entry = AuditEntry.objects.get(action="user_changed")
    assert entry.details == {"before": {"permissions": []}, "after": {"permissions": ["enable_rescue"]}}


# What a review found


def test_an_emptied_identity_expects_nothing(admin_client: Client, db: None) -> None:
    assert admin_client.post("/admin/machines/machine/add/", machine_form(identity="")).status_code == 302
    assert Machine.objects.get().identity == {}


@pytest.mark.parametrize(
    ("prefix", "field", "first", "second"),
    [
        ("macs", "address", "0002B39D94c0", "00-02-b3-9d-94-c0"),
        ("allowed_networks", "network", "10.0.0.1", "10.0.0.1/32"),
    ],
)
def test_the_same_address_twice_in_two_forms_is_refused(
    prefix: str, field: str, first: str, second: str, admin_client: Client, db: None
) -> None:
    form = {f"{prefix}-TOTAL_FORMS": "2", f"{prefix}-0-{field}": first, f"{prefix}-1-{field}": second}
    response = admin_client.post("/admin/machines/machine/add/", machine_form(**form))
    assert "Please correct the duplicate data" in response.content.decode()
    assert not Machine.objects.exists()


def test_a_reason_pasted_with_odd_spaces_disables(
    admin_client: Client, machine: Machine, image: RescueImage, actor: Actor
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), actor)
    admin_client.post(DISABLE, {"ids": machine.pk, "reason": "wrong\xa0machine"})
    assert AuditEntry.objects.get(action="rescue_disabled").reason == "wrong machine"


@pytest.mark.parametrize("query", ["foo=1", "machine_pk=abc", "at__year=foo"])
def test_an_export_of_a_filter_that_makes_no_sense_leads_back_to_the_list(
    query: str, admin_client: Client, db: None
) -> None:
    assert admin_client.get(f"/admin/machines/auditentry/export/?{query}").status_code == 302


def test_switching_needs_permission_to_see_machines(
    staff: Callable[..., Client], machine: Machine, image: RescueImage
) -> None:
    assert staff("enable_rescue").get(ENABLE, {"ids": machine.pk}).status_code == 403


def test_a_number_that_no_row_can_have_is_no_machine(admin_client: Client, db: None) -> None:
    assert admin_client.get(ENABLE, {"ids": "9" * 30}).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_an_upload_is_stored_outside_of_any_transaction(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []
    store = StoredFile.objects.store

    def watched(chunks: Any) -> StoredFile:
        inside.append(connection.in_atomic_block)
        return store(chunks)

    monkeypatch.setattr(StoredFile.objects, "store", watched)
    admin_client.post("/admin/machines/rescueimage/add/", image_form(upload("kernel", b"k")))
    assert inside == [False]
    assert RescueImage.objects.get().files.get().stored.path.read_bytes() == b"k"


def test_a_full_disk_is_said_at_the_upload(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(chunks: Any) -> StoredFile:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoredFile.objects, "store", full)
    response = admin_client.post("/admin/machines/rescueimage/add/", image_form(upload("kernel", b"k")))
    assert "cannot be kept in the data directory: No space left on device" in response.content.decode()
    assert not RescueImage.objects.exists()


def test_deleting_a_machine_ends_its_rescue_with_an_entry(
    admin_client: Client, machine: Machine, image: RescueImage, actor: Actor
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), actor)
    admin_client.post(f"/admin/machines/machine/{machine.pk}/delete/", {"post": "yes"})
    assert not Machine.objects.exists()
    assert list(AuditEntry.objects.filter(actor="admin").values_list("action", "reason")) == [
        ("machine_deleted", ""),
        ("rescue_disabled", "machine deleted"),
    ]


@pytest.mark.parametrize("bulk", [False, True])
def test_a_machine_in_rescue_is_not_deleted_without_permission_to_disable(
    bulk: bool,
    staff: Callable[..., Client],
    machine: Machine,
    image: RescueImage,
    actor: Actor,
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), actor)
    client = staff("view_machine", "change_machine", "delete_machine")
    if bulk:
        action = {"action": "delete_selected", "_selected_action": machine.pk, "post": "yes"}
        client.post("/admin/machines/machine/", action)
    else:
        client.post(f"/admin/machines/machine/{machine.pk}/delete/", {"post": "yes"})
    assert Machine.objects.exists()
    assert Rescue.objects.active().exists()


def test_the_macs_of_a_machine_in_rescue_are_not_changed_without_permission_to_enable(
    staff: Callable[..., Client], machine: Machine, image: RescueImage, actor: Actor
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), actor)
    form = machine_form(name="web01", **{"macs-TOTAL_FORMS": "1", "macs-0-address": "52:54:00:00:00:77"})
    staff("view_machine", "change_machine").post(f"/admin/machines/machine/{machine.pk}/change/", form)
    assert list(machine.macs.values_list("address", flat=True)) == [MAC]


def test_who_edits_users_cannot_touch_a_superuser(staff: Callable[..., Client], admin_user: User) -> None:
    client = staff("view_user", "change_user", "delete_user")
    for page in ("change", "password", "delete"):
        response = client.post(f"/admin/auth/user/{admin_user.pk}/{page}/", {"password1": "x", "password2": "x"})
        assert response.status_code in {302, 404}
    admin_user.refresh_from_db()
    assert admin_user.check_password("password")


def test_who_edits_users_cannot_hand_out_permissions(staff: Callable[..., Client]) -> None:
    client = staff("view_user", "change_user")
    bob = User.objects.get()
    permission = Permission.objects.get(codename="enable_rescue")
    client.post(
        f"/admin/auth/user/{bob.pk}/change/",
        {"username": "bob", "is_active": "on", "is_staff": "on", "is_superuser": "on",
         "user_permissions": permission.pk, "date_joined_0": "2026-01-01", "date_joined_1": "00:00"},
    )  # fmt: skip
    bob.refresh_from_db()
    assert not bob.is_superuser
    assert not bob.user_permissions.filter(pk=permission.pk).exists()


def test_changing_ones_own_password_leaves_an_entry(admin_client: Client) -> None:
    new = "a-long-new-pass-phrase"
    admin_client.post(
        "/admin/password_change/", {"old_password": "password", "new_password1": new, "new_password2": new}
    )
    assert AuditEntry.objects.get().action == "own_password_changed"


def test_a_network_that_excludes_nobody_verifies_nobody(admin_client: Client, actor: Actor, db: None) -> None:
    machine = Machine.objects.add("open", macs=[MAC], allowed_networks=["0.0.0.0/0"], actor=actor)
    assert machine.is_unverified
    assert list(Machine.objects.unverified()) == [machine]


@pytest.mark.parametrize(("platform", "told"), [("efi", True), ("pcbios", False), (None, False)])
def test_the_page_of_a_machine_with_uefi_says_what_to_set_in_its_firmware(
    admin_client: Client, client: Client, machine: Machine, platform: str | None, told: bool
) -> None:
    if platform:
        client.get("/boot", {"mac": MAC, "ip": "127.0.0.1", "platform": platform})
    page = admin_client.get(f"/admin/machines/machine/{machine.pk}/change/").content.decode()
    assert ("the firmware tries its own network entries" in page) is told


def test_the_page_that_deletes_an_image_says_whose_it_is(
    admin_client: Client, machine: Machine, image: RescueImage
) -> None:
    url = f"/admin/machines/rescueimage/{image.pk}/delete/"
    assert "default image instead" not in admin_client.get(url).content.decode()
    machine.revise({"image": image}, Actor("tester"))
    assert "These machines will use the default image instead: web01." in admin_client.get(url).content.decode()


def test_a_browser_finds_an_icon(client: Client) -> None:
    response = client.get("/favicon.ico")
    assert (response.status_code, response["Location"]) == (301, "/static/machines/icon.svg")
    assert 'rel="icon"' in client.get("/admin/login/").content.decode()
