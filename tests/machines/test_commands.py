"""The commands for people at a terminal, and for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from machines.models import Actor, APIToken, AuditEntry, Machine, Rescue, RescueImage
from tests.conftest import MAC
from tests.machines.support import HOST_KEY, ask, at, boot_to_ready, enable, fetch, noon, report, stored

UUID = "4c4c4544-0044-4810-8031-b4c04f4a4b31"


def manage(*arguments: str | Path) -> str:
    """What a command prints."""
    out = io.StringIO()
    call_command(*[str(argument) for argument in arguments], stdout=out, stderr=io.StringIO())
    return out.getvalue()


def manage_json(*arguments: str | Path) -> Any:
    return json.loads(manage(*arguments, "--json"))


def warned(*arguments: str) -> str:
    """What a command prints on standard error."""
    err = io.StringIO()
    call_command(*arguments, stdout=io.StringIO(), stderr=err)
    return err.getvalue()


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_user("ada")


# machine


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
        (["WEB01", "--mac", "52:54:00:00:00:01"], "There is a machine of this name already."),
        (["web02", "--mac", MAC.upper()], "This MAC address belongs to a machine already."),
        (["web02", "--mac", "nonsense"], "is not a MAC address"),
        (["web02", "--mac", "ff:ff:ff:ff:ff:ff"], "single network card"),
        (["web02", "--mac", "52:54:00:00:00:01", "--mac", "525400000001"], "52:54:00:00:00:01 is listed twice"),
        (["web02", "--mac", "52:54:00:00:00:01", "--network", "192.0.2.1/24"], "did you mean 192.0.2.0/24"),
        (["web02", "--mac", "52:54:00:00:00:01", "--network", "here"], "neither an address nor a network"),
        (["web02", "--mac", "52:54:00:00:00:01", "--identity", "serial"], "write it like serial=CZ1234"),
        (["web02", "--mac", "52:54:00:00:00:01", "--identity", "colour=blue"], "nothing that a NIC sends"),
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


# rescue


def test_rescue_enable_arms_the_machine(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        shown = manage_json("rescue", "enable", "web01", "--reason", "disk is dead")
    rescue = Rescue.objects.get()
    assert shown == {
        "machine": "web01",
        "state": "armed",
        "lifetime": "one-boot",
        "expires_at": None,
        "image": "tiny",
        "reason": "disk is dead",
        "enabled_by": rescue.enabled_by_name,
        "enabled_at": "2026-03-01T12:00:00Z",
        "served_at": None,
        "up_at": None,
        "ended_at": None,
        "end_cause": None,
        "address": None,
        "host_keys": [],
        "tries": 0,
    }
    assert rescue.enabled_by_name.startswith("console:")


def test_rescue_enable_says_what_to_do_next(machine: Machine, image: RescueImage) -> None:
    said = manage("rescue", "enable", "web01")
    assert "armed with image tiny" in said
    assert "Power it off and on" in said


def test_rescue_enable_prints_no_token(machine: Machine, image: RescueImage) -> None:
    said = manage("rescue", "enable", "web01") + manage("rescue", "status", "web01", "--json")
    token = Rescue.objects.get().token
    assert token
    assert token not in said


def test_rescue_enable_warns_on_standard_error(machine: Machine, image: RescueImage) -> None:
    assert "No SSH key will be delivered" in warned("rescue", "enable", "web01", "--json")


def test_rescue_enable_in_a_users_name_delivers_that_users_keys(
    machine: Machine, image: RescueImage, ada: User
) -> None:
    ada.ssh_keys.create(public_key=HOST_KEY, fingerprint="f")
    assert warned("rescue", "enable", "web01", "--by", "ada") == ""
    assert Rescue.objects.get().enabled_by == ada


def test_rescue_enable_until_a_time(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        shown = manage_json("rescue", "enable", "web01", "--until", "2026-03-01T14:00")
    assert (shown["lifetime"], shown["expires_at"]) == ("until", "2026-03-01T14:00:00Z")


def test_rescue_enable_until_a_time_in_another_zone(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        shown = manage_json("rescue", "enable", "web01", "--until", "2026-03-01T14:00+01:00")
    assert shown["expires_at"] == "2026-03-01T13:00:00Z"


def test_rescue_enable_for_one_boot_with_an_end(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        shown = manage_json("rescue", "enable", "web01", "--until", "2026-03-01T14:00", "--lifetime", "one-boot")
    assert (shown["lifetime"], shown["expires_at"]) == ("one-boot", "2026-03-01T14:00:00Z")


def test_rescue_enable_persistent(machine: Machine, image: RescueImage) -> None:
    assert manage_json("rescue", "enable", "web01", "--lifetime", "persistent")["lifetime"] == "persistent"


def test_rescue_enable_with_another_image(machine: Machine, image: RescueImage) -> None:
    RescueImage.objects.create(name="other").attach("kernel", [b"kernel bytes"])
    assert manage_json("rescue", "enable", "web01", "--image", "other")["image"] == "other"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "There is no machine “nobody”"),
        (["web01", "--lifetime", "until"], "expires_at: Say until when."),
        (["web01", "--lifetime", "forever"], "invalid choice"),
        (["web01", "--lifetime", "persistent", "--until", "2026-03-01T14:00"], "A persistent rescue has no end"),
        (["web01", "--until", "2026-03-01T11:00"], "This time has passed"),
        (["web01", "--until", "tomorrow"], "“tomorrow” is not a valid time"),
        (["web01", "--until", "2026-02-30T11:00"], "“2026-02-30T11:00” is not a valid time"),
        (["web01", "--image", "none"], "There is no image “none”"),
        (["web01", "--by", "nobody"], "There is no user “nobody”"),
        (["web01", "--reason", "x" * 501], "reason"),
    ],
)
def test_rescue_enable_says_what_is_wrong_and_enables_nothing(
    machine: Machine, image: RescueImage, arguments: list[str], said: str
) -> None:
    with at(noon()), pytest.raises(CommandError) as refused:
        manage("rescue", "enable", *arguments)
    assert said in str(refused.value)
    assert not Rescue.objects.exists()


def test_rescue_enable_twice_is_refused(machine: Machine, image: RescueImage) -> None:
    manage("rescue", "enable", "web01")
    with pytest.raises(CommandError, match="active already"):
        manage("rescue", "enable", "web01")


def test_rescue_enable_without_an_image_is_refused(machine: Machine) -> None:
    with pytest.raises(CommandError, match="There is no rescue image"):
        manage("rescue", "enable", "web01")


def test_rescue_disable_ends_it_with_who_and_why(machine: Machine, image: RescueImage, ada: User) -> None:
    enable(machine)
    shown = manage_json("rescue", "disable", "web01", "--reason", "repaired", "--by", "ada")
    assert (shown["state"], shown["end_cause"]) == ("ended", "disabled")
    entry = AuditEntry.objects.get(action="rescue_disabled")
    assert (entry.actor, entry.reason) == ("ada", "repaired")


def test_rescue_disable_says_what_the_machine_does_now(machine: Machine, image: RescueImage) -> None:
    enable(machine)
    assert "it boots its disk" in manage("rescue", "disable", "web01")


def test_rescue_disable_without_one_is_refused(machine: Machine) -> None:
    with pytest.raises(CommandError, match="No rescue of web01 is active"):
        manage("rescue", "disable", "web01")


def test_rescue_disable_of_an_expired_one_is_refused(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        enable(machine, expires_at=noon(hours=1))
    with at(noon(hours=2)), pytest.raises(CommandError, match="No rescue of web01 is active"):
        manage("rescue", "disable", "web01")


def test_rescue_status_without_any_says_so(machine: Machine) -> None:
    assert "There has been no rescue of web01" in manage("rescue", "status", "web01")
    assert manage_json("rescue", "status", "web01") is None


def test_rescue_status_follows_its_life(machine: Machine, image: RescueImage, client: Client) -> None:
    image.reports = True
    image.save()
    rescue = enable(machine)
    states = [manage_json("rescue", "status", "web01")["state"]]
    ask(client)
    states.append(manage_json("rescue", "status", "web01")["state"])
    fetch(client, rescue, "ready")
    report(client, rescue, address="192.0.2.50", host_keys=HOST_KEY)
    shown = manage_json("rescue", "status", "web01")
    states.append(shown["state"])
    ask(client)
    states.append(manage_json("rescue", "status", "web01")["state"])
    assert states == ["armed", "booting", "up", "ended"]
    assert (shown["address"], shown["host_keys"]) == ("192.0.2.50", [HOST_KEY])


def test_rescue_status_shows_the_latest(machine: Machine, image: RescueImage, actor: Actor) -> None:
    enable(machine, reason="first").disable(actor)
    enable(machine, reason="second")
    assert manage_json("rescue", "status", "web01")["reason"] == "second"


def test_rescue_status_is_readable(machine: Machine, image: RescueImage) -> None:
    enable(machine, reason="disk is dead")
    lines = manage("rescue", "status", "web01").splitlines()
    assert ["state:", "armed"] in [line.split() for line in lines]
    assert ["reason:", "disk", "is", "dead"] in [line.split() for line in lines]


def test_rescue_status_of_an_expired_one_says_ended(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        rescue = enable(machine, expires_at=noon(hours=1))
    with at(noon(hours=2)):
        assert manage_json("rescue", "status", "web01")["end_cause"] == "expired"
    assert stored(rescue).state == "armed"


# image


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    for name in ("vmlinuz", "one.img", "two.img", "root.squashfs"):
        (tmp_path / name).write_bytes(f"{name} bytes".encode())
    (tmp_path / "chain.ipxe").write_text("#!ipxe\nboot\n")
    return tmp_path


def test_image_add_adds_an_image_of_files(db: None, uploads: Path) -> None:
    shown = manage_json(
        *("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--initrd", uploads / "one.img"),
        *("--initrd", uploads / "two.img", "--file", uploads / "root.squashfs"),
        *("--command-line", "quiet", "--architecture", "arm64", "--reports", "--default", "--description", "Mine"),
    )
    assert {name: value for name, value in shown.items() if name != "files"} == {
        "name": "debian",
        "description": "Mine",
        "architecture": "arm64",
        "command_line": "quiet",
        "chain_script": "",
        "reports": True,
        "default": True,
    }
    assert [(file["kind"], file["name"], file["size"]) for file in shown["files"]] == [
        ("kernel", "kernel", 13),
        ("initrd", "initrd", 13),
        ("initrd", "initrd-2", 13),
        ("file", "root.squashfs", 19),
    ]
    assert RescueImage.objects.default() == RescueImage.objects.get(name="debian")


def test_image_add_serves_a_file_by_the_name_that_is_said(db: None, uploads: Path) -> None:
    named = f"live/filesystem.squashfs={uploads / 'root.squashfs'}"
    shown = manage_json("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--file", named)
    assert [file["name"] for file in shown["files"]] == ["kernel", "live/filesystem.squashfs"]


def test_image_add_leaves_an_entry(ada: User, uploads: Path) -> None:
    manage("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--by", "ada")
    entry = AuditEntry.objects.get(action="rescueimage_added")
    assert (entry.actor, entry.subject) == ("ada", "debian")


def test_image_add_adds_an_image_that_chains(db: None, uploads: Path) -> None:
    shown = manage_json("image", "add", "chain", "--chain-script", uploads / "chain.ipxe")
    assert (shown["chain_script"], shown["files"]) == ("#!ipxe\nboot\n", [])


def test_image_add_as_default_takes_the_place_of_the_earlier(image: RescueImage, uploads: Path) -> None:
    manage("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--default")
    assert [one.name for one in RescueImage.objects.filter(is_default=True)] == ["debian"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["debian"], "has no kernel"),
        (["debian", "--kernel", "none"], "Cannot read"),
        (["debian", "--kernel", "."], "Cannot read"),
        (["debian", "--kernel", "vmlinuz", "--file", "one img"], "cannot be a file's name"),
        (["debian", "--kernel", "vmlinuz", "--file", "../a=one.img"], "cannot be a file's name"),
        (["debian", "--kernel", "vmlinuz", "--command-line", "a={url}/b"], "has no file “b”"),
        (["debian", "--kernel", "vmlinuz", "--command-line", "a || b"], "command_line: The command line holds"),
        (["a b", "--kernel", "vmlinuz"], "name: Use letters"),
        (["tiny", "--kernel", "vmlinuz"], "already exists"),
        (["debian", "--chain-script", "vmlinuz"], "chain_script: An iPXE script begins with"),
        (["debian", "--chain-script", "chain.ipxe", "--command-line", "a"], "no kernel command line"),
        (["debian", "--kernel", "vmlinuz", "--architecture", "sparc"], "invalid choice"),
        (["debian", "--kernel", "vmlinuz", "--by", "nobody"], "There is no user “nobody”"),
    ],
)
def test_image_add_says_what_is_wrong_and_adds_nothing(
    image: RescueImage, uploads: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(uploads)
    with pytest.raises(CommandError) as refused:
        manage("image", "add", *arguments)
    assert said in str(refused.value)
    assert [one.name for one in RescueImage.objects.all()] == ["tiny"]
    assert not AuditEntry.objects.exists()


def test_image_list_shows_each_image(image: RescueImage, uploads: Path) -> None:
    manage("image", "add", "debian", "--kernel", uploads / "vmlinuz")
    lines = [line.split() for line in manage("image", "list").splitlines()]
    assert lines[1:] == [["debian", "x86_64", "kernel"], ["tiny", "x86_64", "default", "kernel,", "initrd"]]


def test_image_list_as_json_is_a_list_of_what_show_shows(image: RescueImage) -> None:
    assert manage_json("image", "list") == [manage_json("image", "show", "tiny")]


def test_image_show_has_sizes_and_sums(image: RescueImage) -> None:
    shown = manage("image", "show", "tiny")
    stored_file = image.files.get(name="kernel").stored
    assert ["kernel", "12", stored_file.sha256] in [line.split() for line in shown.splitlines()]


def test_image_show_of_none_says_where_to_look(db: None) -> None:
    with pytest.raises(CommandError, match=r"no image “debian”.*image list"):
        manage("image", "show", "debian")


@pytest.mark.parametrize("command", ["machine", "rescue", "image"])
def test_a_command_without_an_action_says_which_there_are(command: str) -> None:
    with pytest.raises(CommandError, match="ACTION"):
        manage(command)


# Tokens


def test_a_token_is_printed_alone_listed_and_revoked(ada: User) -> None:
    clear = manage("token", "add", "ada", "deploy").strip()
    found = APIToken.objects.find(clear)
    assert found
    assert found.user == ada
    (listed,) = manage_json("token", "list")
    assert (listed["user"], listed["name"], listed["expires_at"]) == ("ada", "deploy", None)
    assert clear not in manage("token", "list")
    assert "is revoked" in manage("token", "revoke", "ada", "deploy")
    assert APIToken.objects.find(clear) is None
    assert [entry.action for entry in AuditEntry.objects.order_by("pk")] == ["token_added", "token_deleted"]


def test_a_token_may_expire(ada: User) -> None:
    with at(noon()):
        shown = manage_json("token", "add", "ada", "deploy", "--expires", "2026-03-01T14:00")
        assert shown["expires_at"] == "2026-03-01T14:00:00Z"
        assert APIToken.objects.find(shown["token"])
    with at(noon(hours=3)):
        assert APIToken.objects.find(shown["token"]) is None


# Exit status


@pytest.mark.parametrize(
    "arguments",
    [
        ["machine", "show", "nobody"],
        ["machine", "add", "web01", "--mac", "52:54:00:00:00:01"],
        ["machine", "add", "a b", "--mac", "52:54:00:00:00:01"],
        ["rescue", "enable", "nobody"],
        ["rescue", "enable", "web01", "--until", "tomorrow"],
        ["rescue", "disable", "web01"],
        ["token", "add", "nobody", "x"],
        ["token", "revoke", "ada", "none"],
        ["import_machines", "/nonexistent.csv"],
        ["prune_audit", "--days", "0"],
        ["prune_jobs", "--days", "0"],
    ],
)
def test_what_was_not_done_ends_with_status_2(arguments: list[str], machine: Machine, ada: User) -> None:
    with pytest.raises(CommandError) as raised:
        manage(*arguments)
    assert raised.value.returncode == 2


def test_what_was_waited_for_in_vain_ends_with_status_1(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = enable(machine)
    with pytest.raises(CommandError) as raised:
        manage("rescue", "status", "web01", "--wait", "--timeout", "0")
    assert raised.value.returncode == 1
    rescue.disable(actor)
    with pytest.raises(CommandError) as raised:
        manage("rescue", "status", "web01", "--wait")
    assert raised.value.returncode == 1


def test_pruning_speaks_json(machine: Machine) -> None:
    assert manage_json("prune_audit") == {"audit_entries": 0, "notifications": 0, "files": 0, "rescues_ended": 0}
    assert manage_json("prune_jobs") == {"builds": 0, "flash_jobs": 0, "files": 0}
