"""manage.py rescue: enabling, disabling and following a rescue at a terminal."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.test import Client

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage
from tests.machines.commands import ada, manage, manage_json, warned
from tests.machines.support import HOST_KEY, ask, at, enable, fetch, noon, report, stored

__all__ = ["ada"]


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
    assert "Switch its power off and on" in said


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
        (["web01", "--lifetime", "until"], "expires_at: Enter the time when the rescue ends."),
        (["web01", "--lifetime", "forever"], "invalid choice"),
        (["web01", "--lifetime", "persistent", "--until", "2026-03-01T14:00"], "A persistent rescue has no end"),
        (["web01", "--until", "2026-03-01T11:00"], "This time is in the past"),
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
    with pytest.raises(CommandError, match="already has an active rescue"):
        manage("rescue", "enable", "web01")


def test_rescue_enable_without_an_image_is_refused(machine: Machine) -> None:
    with pytest.raises(CommandError, match="There is no default rescue image"):
        manage("rescue", "enable", "web01")


def test_rescue_disable_ends_it_with_who_and_why(machine: Machine, image: RescueImage, ada: User) -> None:
    enable(machine)
    shown = manage_json("rescue", "disable", "web01", "--reason", "repaired", "--by", "ada")
    assert (shown["state"], shown["end_cause"]) == ("ended", "disabled")
    entry = AuditEntry.objects.get(action="rescue_disabled")
    assert (entry.actor, entry.reason) == ("ada", "repaired")


def test_rescue_disable_says_what_the_machine_does_now(machine: Machine, image: RescueImage) -> None:
    enable(machine)
    assert "It boots its disk" in manage("rescue", "disable", "web01")


def test_rescue_disable_without_one_is_refused(machine: Machine) -> None:
    with pytest.raises(CommandError, match="web01 has no active rescue"):
        manage("rescue", "disable", "web01")


def test_rescue_disable_of_an_expired_one_is_refused(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        enable(machine, expires_at=noon(hours=1))
    with at(noon(hours=2)), pytest.raises(CommandError, match="web01 has no active rescue"):
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
