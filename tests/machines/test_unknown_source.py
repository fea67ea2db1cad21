"""Behind a proxy, a request whose address cannot be read comes from nobody, never from the proxy."""

from __future__ import annotations

import ipaddress

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client

from machines.models import AuditEntry, LoginFailure, Machine, Rescue, RescueImage
from tests.conftest import MAC
from tests.machines.support import ask, boot_to_ready, boots, enable, fetch, kind, stored

UNREADABLE = ["unknown", "198.51.100.99:x", ""]


@pytest.fixture(autouse=True)
def _proxy(settings: LazySettings) -> None:
    """The test client is a proxy."""
    settings.RESCUESITE_TRUSTED_PROXIES = (ipaddress.ip_network("127.0.0.1"),)


@pytest.fixture
def rescue(machine: Machine, image: RescueImage) -> Rescue:
    """Of a machine that may ask from the proxy's own address."""
    return enable(machine)


@pytest.mark.parametrize(
    ("forwarded", "outcome", "source"),
    [
        ("198.51.100.99", "refused", "198.51.100.99"),
        ("198.51.100.99:5555", "refused", "198.51.100.99"),
        ('"[2001:db8::99]:5555"', "refused", "2001:db8::99"),
        ("127.0.0.1:51234,", "rescue", "127.0.0.1"),
        *((forwarded, "refused", None) for forwarded in UNREADABLE),
    ],
)
def test_a_card_behind_a_proxy_is_never_taken_for_the_proxy(
    client: Client, rescue: Rescue, forwarded: str, outcome: str, source: str | None
) -> None:
    assert kind(ask(client, f"mac={MAC}&ip=198.51.100.99", HTTP_X_FORWARDED_FOR=forwarded)) == outcome
    assert [entry.source for entry in boots()] == [source]


@pytest.mark.parametrize("forwarded", UNREADABLE)
@pytest.mark.parametrize("networks", [["127.0.0.1"], []])
def test_an_unknown_source_gets_no_file(client: Client, rescue: Rescue, networks: list[str], forwarded: str) -> None:
    boot_to_ready(client, rescue)
    rescue.machine.allowed_networks.exclude(network__in=networks).delete()
    assert fetch(client, rescue, "kernel", HTTP_X_FORWARDED_FOR=forwarded).status_code == 404
    assert AuditEntry.objects.get(action="file_refused").source is None


@pytest.mark.parametrize("forwarded", UNREADABLE)
@pytest.mark.parametrize("networks", [["127.0.0.1"], []])
def test_an_unknown_source_is_not_heard(client: Client, rescue: Rescue, networks: list[str], forwarded: str) -> None:
    boot_to_ready(client, rescue)
    rescue.machine.allowed_networks.exclude(network__in=networks).delete()
    reported = client.post(f"/boot/{rescue.token}/up", {"boot_id": "b-1"}, HTTP_X_FORWARDED_FOR=forwarded)
    assert (reported.status_code, stored(rescue).state) == (404, "booting")


@pytest.mark.parametrize("forwarded", UNREADABLE)
def test_failures_from_unknown_sources_are_counted_together(client: Client, admin_user: User, forwarded: str) -> None:
    client.post("/admin/login/", {"username": "admin", "password": "wrong"}, HTTP_X_FORWARDED_FOR=forwarded)
    assert [failure.address for failure in LoginFailure.objects.all()] == ["unknown"]


def test_staff_see_that_the_source_was_unknown(admin_client: Client, rescue: Rescue) -> None:
    ask(admin_client, HTTP_X_FORWARDED_FOR="unknown")
    entry = AuditEntry.objects.get(action="boot")
    pages = ("/admin/machines/auditentry/", f"/admin/machines/auditentry/{entry.pk}/change/", "/admin/")
    machine = f"/admin/machines/machine/{rescue.machine_id}/change/"
    assert ["unknown address" in admin_client.get(page).content.decode() for page in (*pages, machine)] == [True] * 4


def test_what_the_command_line_did_has_no_unknown_source(admin_client: Client, rescue: Rescue) -> None:
    assert "unknown address" not in admin_client.get("/admin/machines/auditentry/").content.decode()
