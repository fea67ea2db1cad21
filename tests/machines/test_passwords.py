"""A password for a rescue: made, shown once, delivered as a hash."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.test import Client
from passlib.hash import sha512_crypt

from machines.boot.delivery import rescue_archive
from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC

WITH_PASSWORD = RescueRequest(password=True)


def test_the_password_is_on_the_enabled_rescue_only(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = Rescue.objects.enable(machine, WITH_PASSWORD, actor)
    assert rescue.password
    assert Rescue.objects.get().password is None
    assert sha512_crypt.verify(rescue.password, Rescue.objects.get().password_hash)


def test_without_being_asked_for_there_is_none(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = Rescue.objects.enable(machine, RescueRequest(), actor)
    assert (rescue.password, rescue.password_hash) == (None, "")
    assert b"password_hash" not in rescue_archive(rescue, "http://site")


def test_the_archive_carries_the_hash_and_not_the_password(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = Rescue.objects.enable(machine, WITH_PASSWORD, actor)
    archive = rescue_archive(Rescue.objects.get(), "http://site")
    assert rescue.password_hash.encode() in archive
    assert str(rescue.password).encode() not in archive


def test_an_unverified_machine_gets_no_password(image: RescueImage, actor: Actor) -> None:
    machine = Machine.objects.add("open", macs=[MAC], allowed_networks=[], actor=actor)
    with pytest.raises(ValidationError, match="open is unverified"):
        Rescue.objects.enable(machine, WITH_PASSWORD, actor)
    assert not Rescue.objects.exists()


def test_a_machine_that_became_unverified_is_not_given_the_hash(
    machine: Machine, image: RescueImage, actor: Actor
) -> None:
    Rescue.objects.enable(machine, WITH_PASSWORD, actor)
    machine.allowed_networks.all().delete()
    assert b"$6$" not in rescue_archive(Rescue.objects.get(), "http://site")


def test_the_hash_goes_when_the_rescue_ends(machine: Machine, image: RescueImage, actor: Actor) -> None:
    Rescue.objects.enable(machine, WITH_PASSWORD, actor).disable(actor)
    assert Rescue.objects.get().password_hash == ""


def test_neither_password_nor_hash_is_in_the_audit_log(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = Rescue.objects.enable(machine, WITH_PASSWORD, actor)
    with connection.cursor() as cursor:
        cursor.execute("SELECT details FROM machines_auditentry")
        everything = str(cursor.fetchall())
    assert str(rescue.password) not in everything
    assert "$6$" not in everything
    assert AuditEntry.objects.get(action="rescue_enabled").details["password"] is True


def test_the_command_prints_it_once(machine: Machine, image: RescueImage) -> None:
    out = StringIO()
    call_command("rescue", "enable", "web01", "--password", "--json", stdout=out, stderr=StringIO())
    assert sha512_crypt.verify(json.loads(out.getvalue())["password"], Rescue.objects.get().password_hash)
    status = StringIO()
    call_command("rescue", "status", "web01", "--json", stdout=status)
    assert "password" not in json.loads(status.getvalue())


def test_the_admin_shows_it_once_and_asks_nobody_to_keep_the_page(
    admin_client: Client, machine: Machine, image: RescueImage
) -> None:
    form = {"ids": machine.pk, "lifetime": "one-boot", "reason": "no key at hand", "password": "on"}
    response = admin_client.post("/admin/machines/machine/rescue/enable/", form)
    shown = response.content.decode().split('<code class="password">')[1].split("<")[0]
    assert sha512_crypt.verify(shown, Rescue.objects.get().password_hash)
    assert "no-store" in response["Cache-Control"]
    assert shown not in admin_client.get(f"/admin/machines/machine/{machine.pk}/change/").content.decode()
