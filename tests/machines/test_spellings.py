"""Addresses and names in the forms that people and devices write: searched, asked and refused with the way out."""

from __future__ import annotations

import pytest
from django.test import Client

from machines.models import Machine, RescueImage
from tests.machines.support import ask, enable, kind

UNKNOWN = "52:54:00:00:00:01"
SPELLINGS = ["525400000001", "5254.0000.0001", "5254-0000-0001", "525400-000001", "52:54:0:0:0:1", "52-54-00-00-00-01"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("page", ["sighting", "auditentry"])
def test_lists_find_a_mac_address_in_any_spelling(admin_client: Client, page: str, spelling: str) -> None:
    ask(admin_client, f"mac={UNKNOWN}")
    found = admin_client.get(f"/admin/machines/{page}/", {"q": spelling.upper()})
    assert found.context["cl"].result_count == 1


@pytest.mark.parametrize("spelling", ["0002b3-9d948c", "0002-b39d-948c", "0:2:b3:9d:94:8c"])
def test_a_machine_asks_in_any_spelling(client: Client, machine: Machine, image: RescueImage, spelling: str) -> None:
    enable(machine)
    assert kind(ask(client, f"mac={spelling}")) == "rescue"


def test_a_machine_that_reached_the_site_by_a_name_with_an_underscore_reaches_it_so_again(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    RescueImage.objects.update(command_line="fetch={url}/kernel")
    enable(machine)
    script = ask(client, HTTP_HOST="boot_srv.example:8000")
    assert "fetch=http://boot_srv.example:8000/boot/" in script


def test_staff_who_use_a_name_with_an_underscore_are_told_how_to_go_on(client: Client) -> None:
    page = client.get("/admin/", HTTP_HOST="rescue_site.example")
    assert page.status_code == 400
    assert "rescue_site.example</code> contains an underscore" in page.content.decode()


def test_staff_who_use_another_name_are_told_where_to_list_it(client: Client) -> None:
    page = client.get("/admin/", HTTP_HOST="evil.example").content.decode()
    assert "underscore" not in page
    assert "RESCUESITE_ALLOWED_HOSTS" in page
