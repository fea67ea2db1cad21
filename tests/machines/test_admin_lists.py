"""The pages of the log, of sightings, images, keys and users."""

from __future__ import annotations

import csv
import errno
import io
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, Sighting, SSHKey, StoredFile
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC
from tests.machines.admin_pages import DISABLE, ENABLE, KEY, machine_form, staff

__all__ = ["staff"]


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
    assert "The site uses the name" in response.content.decode()
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
    assert "has no kernel. Upload one" in response.content.decode()


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
    assert "This key has already been added." in response.content.decode()
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
    assert "cannot store the file: No space left on device" in response.content.decode()
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
    assert ("the firmware tries its own network boot entries" in page) is told


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
