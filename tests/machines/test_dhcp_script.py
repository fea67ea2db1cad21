"""The script that DHCP names: bounded, the same for everybody, and given out without the database."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client

from machines.boot import script
from machines.boot.script import longest_question
from roms.toolchain.ipxe.script.checks import check_text
from roms.toolchain.ipxe.script.parser import parse
from tests.machines.test_silence import SILENT, Downloads, Fetching

#: IPv4 addresses, a UUID and iPXE's own words.
COLONLESS = {"ip", "uuid", "netmask", "gateway", "dns", "platform", "buildarch"}
AT = "/boot/dhcp.ipxe"


def test_it_asks_where_it_came_from(client: Client) -> None:
    answer = client.get(AT)
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["Cache-Control"] == "no-store"
    asked = re.findall(r"chain --autofree --timeout (\d+) (\S+)", answer.content.decode())
    assert asked == [("8000", script.boot_url("/boot", mac="${netX/mac:hexhyp}"))] * 3


def test_no_value_in_the_relative_address_brings_a_colon() -> None:
    # iPXE takes what stands before one for a protocol. “:uristring” escapes it; the others are no texts.
    (question, *_) = re.findall(r"/boot\?(\S+)", script.for_dhcp())
    for name, value in (pair.split("=") for pair in question.split("&")):
        assert re.search(r":(uristring|hexhyp)\}$", value) or name in COLONLESS, name


def test_it_needs_no_database_and_no_known_host(client: Client) -> None:
    # Without the mark, a test that touches the database fails.
    assert client.get(AT, HTTP_HOST="any_host.example").content.startswith(b"#!ipxe\n")


def test_head_has_its_length_and_another_method_boots_the_disk(client: Client) -> None:
    head = client.head(AT)
    assert (head.content, head["Content-Length"]) == (b"", str(len(script.for_dhcp())))
    assert client.post(AT).status_code == 405


@pytest.mark.parametrize("platform", ["pcbios", "efi"])
def test_with_a_silent_site_it_ends_at_the_disk_in_time(platform: str) -> None:
    run = Fetching(script.for_dhcp(), Downloads(answers=[(SILENT, False, 1)]), platform)
    assert run.seconds <= longest_question()
    assert run.status == (1 if platform == "efi" else 0)


def test_it_is_not_warned_of_and_uses_nothing_that_an_old_ipxe_lacks() -> None:
    assert check_text(script.for_dhcp("http://192.0.2.10/boot")) == []
    used = {command.name for line in parse(script.for_dhcp()) for command in line.commands}
    assert used - {""} == {"clear", "chain", "isset", "goto", "sleep", "set", "echo", "iseq", "exit"}


def written(*arguments: str) -> str:
    out = io.StringIO()
    call_command("dhcp_script", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_writes_it_for_another_server_with_the_sites_address(tmp_path: Path) -> None:
    text = script.for_dhcp("http://192.0.2.10:8000/boot")
    assert written("--site", "http://192.0.2.10:8000") == text
    assert written("--site", "http://192.0.2.10:8000/") == text
    file = tmp_path / "dhcp.ipxe"
    assert str(file) in written("--site", "http://192.0.2.10:8000", "--output", str(file))
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("http://127.0.0.1:8000", "cannot reach"),
        ("http://localhost/", "cannot reach"),
        ("192.0.2.10", "is not a valid site URL"),
        ("http://192.0.2.10/ || shell", "is not a valid site URL"),
        ("http://192.0.2.10/${uuid}", "is not a valid site URL"),
        ("http://192.0.2.10/\nshell", "is not a valid site URL"),
        ("tftp://192.0.2.10/x", "is not a valid site URL"),
    ],
)
def test_the_command_refuses_what_no_card_can_ask(site: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        written("--site", site)


def test_the_command_says_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Cannot write"):
        written("--site", "http://192.0.2.10", "--output", str(tmp_path / "no" / "dhcp.ipxe"))
