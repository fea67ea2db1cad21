"""manage.py machine: adding, listing and showing machines at a terminal."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.test import Client

from machines.models import Actor, AuditEntry, Machine, RescueImage
from tests.conftest import MAC
from tests.machines.commands import ada, manage, manage_json
from tests.machines.support import ask, at, boot_to_ready, enable, noon

__all__ = ["ada"]

UUID = "4c4c4544-0044-4810-8031-b4c04f4a4b31"


def test_machine_add_adds_a_machine_with_all_that_is_said(image: RescueImage) -> None:
    shown = manage_json(
        *("machine", "add", "web01", "--mac", "0002B39D948C", "--mac", "52-54-00-00-00-01"),
        *("--network", "192.0.2.0/24", "--network", "2001:db8::1/128", "--image", "tiny"),
        *("--identity", "serial=A=B", "--identity", f"uuid={UUID}", "--notes", "rack 7"),
        *("--static-address", "192.0.2.7/24", "--gateway", "192.0.2.1", "--dns", "192.0.2.53"),
    )
    assert shown == {
        "name": "web01",
        "macs": [MAC, "52:54:00:00:00:01"],
        "allowed_networks": ["192.0.2.0/24", "2001:db8::1"],
        "image": "tiny",
        "identity": {"serial": "A=B", "uuid": UUID},
        "rescue_network": {"addresses": ["192.0.2.7/24"], "gateways": ["192.0.2.1"], "dns": ["192.0.2.53"]},
        "notes": "rack 7",
        "state": "local",
        "unverified": False,
        "last_seen": None,
    }
    machine = Machine.objects.get()
    assert (machine.name, machine.notes, machine.identity) == ("web01", "rack 7", {"serial": "A=B", "uuid": UUID})


def test_machine_add_says_what_it_did(db: None) -> None:
    assert manage("machine", "add", "web01", "--mac", MAC) == "Machine web01 added.\n"


def test_machine_add_leaves_an_entry_of_who_sat_at_the_console(db: None) -> None:
    manage("machine", "add", "web01", "--mac", MAC)
    assert AuditEntry.objects.get(action="machine_added").actor.startswith("console:")


def test_machine_add_may_be_done_in_a_users_name(ada: User) -> None:
    manage("machine", "add", "web01", "--mac", MAC, "--by", "ada")
    assert AuditEntry.objects.get(action="machine_added").actor == "ada"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["web 01", "--mac", MAC], "name: Use letters"),
        (["-", "--mac", MAC], "name"),
        (["WEB01", "--mac", "52:54:00:00:00:01"], "A machine with this name already exists."),
        (["web02", "--mac", MAC.upper()], "This MAC address already belongs to a machine."),
        (["web02", "--mac", "nonsense"], "is not a valid MAC address"),
        (["web02", "--mac", "ff:ff:ff:ff:ff:ff"], "single network card"),
        (["web02", "--mac", "52:54:00:00:00:01", "--mac", "525400000001"], "52:54:00:00:00:01 is listed twice"),
        (["web02", "--mac", "52:54:00:00:00:01", "--network", "192.0.2.1/24"], "Did you mean 192.0.2.0/24"),
        (["web02", "--mac", "52:54:00:00:00:01", "--network", "here"], "is not a valid address or network"),
        (["web02", "--mac", "52:54:00:00:00:01", "--identity", "serial"], "Enter it like serial=CZ1234"),
        (["web02", "--mac", "52:54:00:00:00:01", "--identity", "colour=blue"], "is not a valid name"),
        (["web02", "--mac", "52:54:00:00:00:01", "--identity", "serial="], "1 to 255 characters"),
        (["web02", "--mac", "52:54:00:00:00:01", "--image", "none"], "There is no image “none”"),
        (["web02", "--mac", "52:54:00:00:00:01", "--by", "nobody"], "There is no user “nobody”"),
        (["web02"], "--mac"),
    ],
)
def test_machine_add_says_what_is_wrong_and_adds_nothing(machine: Machine, arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError) as refused:
        manage("machine", "add", *arguments)
    assert said in str(refused.value)
    assert [one.name for one in Machine.objects.all()] == ["web01"]
    assert AuditEntry.objects.count() == 1


def test_machine_list_shows_each_machine(machine: Machine, image: RescueImage, actor: Actor) -> None:
    Machine.objects.add("db01", macs=["52:54:00:00:00:01"], allowed_networks=[], actor=actor)
    enable(machine)
    lines = manage("machine", "list").splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "STATE", "MACS", "NETWORKS", "LAST", "SEEN"],
        ["db01", "local", "52:54:00:00:00:01", "-", "never"],
        ["web01", "armed", MAC, "127.0.0.1", "never"],
    ]


def test_machine_list_as_json_is_a_list_of_what_show_shows(machine: Machine, client: Client) -> None:
    ask(client)
    assert manage_json("machine", "list") == [manage_json("machine", "show", "web01")]


def test_machine_list_of_none_is_an_empty_list(db: None) -> None:
    assert manage_json("machine", "list") == []


def test_machine_show_says_when_it_was_last_seen(machine: Machine, client: Client) -> None:
    with at(noon()):
        ask(client)
    assert manage_json("machine", "show", "web01")["last_seen"] == "2026-03-01T12:00:00Z"


def test_machine_show_finds_a_name_whatever_its_case(machine: Machine) -> None:
    assert "name:" in manage("machine", "show", "WEB01")


def test_machine_show_of_none_says_where_to_look(db: None) -> None:
    with pytest.raises(CommandError, match=r"no machine “web01”.*machine list"):
        manage("machine", "show", "web01")


@pytest.mark.parametrize(("state", "shown"), [("armed", "armed"), ("expired", "local"), ("silent", "up")])
def test_machine_show_shows_the_state_as_it_stands(
    machine: Machine, image: RescueImage, client: Client, state: str, shown: str
) -> None:
    with at(noon()):
        rescue = enable(machine, expires_at=noon(hours=1))
        if state == "silent":
            boot_to_ready(client, rescue)
    with at(noon(hours=2) if state == "expired" else noon(minutes=10)):
        assert manage_json("machine", "show", "web01")["state"] == shown
        assert manage_json("machine", "list")[0]["state"] == shown


def test_no_control_character_reaches_the_terminal(machine: Machine) -> None:
    Machine.objects.update(notes="\x1b[31mred\x9b")
    shown = manage("machine", "show", "web01")
    assert "\ufffd[31mred\ufffd" in shown
    assert all(character == "\n" or character.isprintable() for character in shown)
