"""Import and export of machines in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from machines.admin.import_export import MAX_UPLOAD
from machines.models import AuditEntry, Machine, Rescue, RescueImage
from machines.models.audit import Actor
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC
from tests.machines.support import body

IMPORT, EXPORT = "/admin/machines/machine/import/", "/admin/machines/machine/export/"
LIST = "/admin/machines/machine/"
OTHER_MAC = "52:54:00:00:00:01"


def upload(client: Client, contents: str | bytes) -> Any:
    data = contents.encode() if isinstance(contents, str) else contents
    return client.post(IMPORT, {"file": SimpleUploadedFile("machines.csv", data)})


def may(client: Client, *permissions: str) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


def test_what_would_be_done_is_shown_and_nothing_is_done(admin_client: Client, machine: Machine) -> None:
    page = upload(admin_client, f"name,macs,notes\nweb01,{MAC},new <b>\ndb01,{OTHER_MAC},\n").content.decode()
    assert "1 to add, 1 to change, 0 unchanged" in page
    assert f"add, with {OTHER_MAC}" in page
    assert "<b>notes</b>: nothing → new &lt;b&gt;" in page
    assert Machine.objects.count() == 1


def test_once_confirmed_it_is_done_in_the_name_of_who_did(admin_client: Client, machine: Machine) -> None:
    contents = upload(admin_client, '\ufeffname,notes\nweb01,"one\ntwo"\ndb01,=x\n').context["contents"]
    answer = admin_client.post(IMPORT, {"contents": contents}, follow=True)
    assert "1 machine added, 1 changed, 0 unchanged." in answer.content.decode()
    assert {one.name: one.notes for one in Machine.objects.all()} == {"web01": "one\ntwo", "db01": "=x"}
    assert AuditEntry.objects.get(action="machine_changed").actor == "admin"


def test_what_is_wrong_is_shown_by_line(admin_client: Client, machine: Machine) -> None:
    page = upload(admin_client, f"name,macs\ndb01,{MAC}\na b,\n").content.decode()
    assert f"Line 2: {MAC} already belongs to web01." in page
    assert "Line 3: " in page
    assert "Nothing was changed." in page


def test_what_was_confirmed_is_checked_again(admin_client: Client, machine: Machine) -> None:
    page = admin_client.post(IMPORT, {"contents": f"name,macs\ndb01,{MAC}"}).content.decode()
    assert "already belongs to web01" in page
    assert Machine.objects.count() == 1


def test_a_file_that_is_too_large_is_for_the_command(admin_client: Client) -> None:
    page = upload(admin_client, b"x" * (MAX_UPLOAD + 1)).content.decode()
    assert "Use manage.py import_machines on the server" in page


@pytest.mark.parametrize(
    ("permissions", "status"),
    [
        ((), 403),
        (("view_machine",), 403),
        (("add_machine",), 403),
        (("change_machine",), 403),
        (("add_machine", "change_machine"), 200),
    ],
)
def test_importing_needs_to_add_and_to_change(
    permissions: tuple[str, ...], status: int, client: Client, db: None
) -> None:
    may(client, *permissions)
    assert client.get(IMPORT).status_code == status
    assert client.post(IMPORT, {"contents": "name\ndb01"}).status_code == (302 if status == 200 else 403)
    assert Machine.objects.count() == (status == 200)


def test_addresses_of_a_machine_in_rescue_are_for_those_who_may_switch(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    Rescue.objects.enable(machine, RescueRequest(), Actor("alice"))
    may(client, "add_machine", "change_machine", "view_machine")
    page = upload(client, f"name,macs\nweb01,{OTHER_MAC}\n").content.decode()
    assert "Line 2: A rescue of web01 is active" in page
    client.post(IMPORT, {"contents": f"name,macs\nweb01,{OTHER_MAC}\n"})
    assert machine.macs.get().address == MAC


def test_the_export_is_what_the_list_shows(admin_client: Client, machine: Machine) -> None:
    Machine.objects.add("db01", macs=[OTHER_MAC], allowed_networks=[], actor=Actor("alice"))
    assert len(body(admin_client.get(EXPORT)).splitlines()) == 3
    found = body(admin_client.get(EXPORT, {"q": "db"})).decode().splitlines()
    assert found[1:] == [f"db01,{OTHER_MAC},,,,,"]


def test_exporting_needs_to_view(client: Client, machine: Machine) -> None:
    may(client)
    assert client.get(EXPORT).status_code == 403


def test_the_list_leads_to_both(admin_client: Client, client: Client, db: None) -> None:
    page = admin_client.get(LIST).content.decode()
    assert IMPORT in page
    assert EXPORT in page


def test_what_of_a_file_was_not_taken_is_said_before_it_is_done(admin_client: Client) -> None:
    php = b'<?php\n// "52:54:00:00:00:07"\nswitch ($mac) {\ncase "52:54:00:00:00:08": // web08\n}\n'
    page = upload(admin_client, php).content.decode()
    assert "Line 2: 52:54:00:00:00:07 was not imported: it is in a comment." in page
    assert "1 to add" in page
