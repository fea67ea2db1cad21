"""What a rescue system posts is read as it was meant, and what is not understood is named."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from django.test import Client

from machines.models import AuditEntry, Machine, Rescue, RescueImage
from tests.machines.support import boot_to_ready, enable, stored

#: Its base64 holds plus signs, two of them side by side.
KEY = (
    "ssh-ed25519 "
    + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes.fromhex("fbefbeaabbccddee" * 4)).decode()
)


@pytest.fixture
def rescue(client: Client, machine: Machine, image: RescueImage) -> Rescue:
    """A rescue whose machine has fetched all files; its image reports."""
    RescueImage.objects.update(reports=True)
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    return rescue


def post(client: Client, rescue: Rescue, body: str, content_type: str = "application/x-www-form-urlencoded") -> Any:
    answer = client.post(f"/boot/{rescue.token}/up", body, content_type=content_type, REMOTE_ADDR="127.0.0.1")
    assert answer.status_code == 200
    return answer.json()


def test_the_key_of_these_tests_holds_plus_signs() -> None:
    assert "++" in KEY


@pytest.mark.parametrize(
    "sent",
    [
        KEY,
        f"{KEY} root@host",
        quote_plus(KEY),
        quote_plus(f"{KEY} root@host"),
        f"{KEY} root@host+1 more",
        quote_plus(f"{KEY} root@host\n{KEY} again\n"),
    ],
)
def test_a_key_arrives_whether_or_not_its_plus_signs_were_encoded(client: Client, rescue: Rescue, sent: str) -> None:
    assert post(client, rescue, f"boot_id=b1&host_keys={sent}") == {"state": "up"}
    assert stored(rescue).host_keys == [KEY]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_json_is_read_whatever_its_content_type(client: Client, rescue: Rescue, content_type: str) -> None:
    body = json.dumps({"boot_id": "b2", "address": "192.0.2.7", "host_keys": [KEY]})
    assert post(client, rescue, f" {body}", content_type) == {"state": "up"}
    told = stored(rescue)
    assert (told.boot_id, told.address, told.host_keys) == ("b2", "192.0.2.7", [KEY])


@pytest.mark.parametrize(
    ("sent", "address"),
    [
        ("192.0.2.7/24", "192.0.2.7"),
        ("192.0.2.7 10.0.0.5 2001:db8::7 \n", "192.0.2.7"),
        ("127.0.0.1 fe80::1 192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0/64,2001:db8::7/64", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
    ],
)
def test_an_address_is_read_as_tools_print_it(client: Client, rescue: Rescue, sent: str, address: str) -> None:
    post(client, rescue, urlencode({"boot_id": "b3", "address": sent}))
    assert stored(rescue).address == address


def test_a_list_of_addresses_in_json_is_read(client: Client, rescue: Rescue) -> None:
    body = json.dumps({"boot_id": "b3", "address": ["192.0.2.7/24", "2001:db8::7/64"]})
    assert post(client, rescue, body, "application/json") == {"state": "up"}
    assert stored(rescue).address == "192.0.2.7"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"address": "eth0"}, "address “eth0”"),
        ({"address": "127.0.0.1"}, "address “127.0.0.1”"),
        ({"adress": "192.0.2.7"}, "unknown field “adress”"),
        ({"host_keys": "ssh-ed25519 AAAA"}, "host key “ssh-ed25519 AAAA”: The key is damaged"),
        ({"host_keys": "\n".join(["x"] * 20)}, "host keys: more than 8"),
    ],
)
def test_what_is_not_understood_is_named_in_the_answer_and_to_staff(
    client: Client, rescue: Rescue, fields: dict[str, str], told: str
) -> None:
    answer = post(client, rescue, urlencode({"boot_id": "b4", **fields}))
    assert any(told in one for one in answer["not_understood"])
    assert AuditEntry.objects.get(action="up").details["not_understood"] == answer["not_understood"]


def test_what_is_not_understood_is_bounded_and_printable(client: Client, rescue: Rescue) -> None:
    fields = {f"x{number}\x1b{'y' * 500}": "1" for number in range(50)}
    told = post(client, rescue, urlencode({"boot_id": "b5", **fields}))["not_understood"]
    assert len(told) == 8
    assert all(len(one) <= 160 and one.isprintable() for one in told)
