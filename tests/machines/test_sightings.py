"""Sightings are bounded: in all, from one address, and in what is stored of each."""

from __future__ import annotations

import ipaddress
from datetime import datetime

import pytest
from django.test import Client

from machines.boot.request import MAX_VALUE, UNDERSTOOD, BootRequest
from machines.models import Actor, Machine, Sighting
from machines.models import sighting as sighting_module
from tests.machines.support import ask, noon


def mac(number: int) -> str:
    return f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"


def note(number: int, at: datetime, source: str = "192.0.2.1") -> bool:
    asked = BootRequest.parse(f"mac={mac(number)}", source=ipaddress.ip_address(source))
    return Sighting.objects.record(asked, at)


@pytest.fixture
def few(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for six sightings in all, three from one address."""
    monkeypatch.setattr(sighting_module, "MAX_SIGHTINGS", 6)
    monkeypatch.setattr(sighting_module, "MAX_PER_SOURCE", 3)


def fill(at: datetime) -> None:
    assert all(note(number, at, source=f"192.0.2.{number // 3}") for number in range(6))


def macs() -> set[str]:
    return set(Sighting.objects.values_list("mac", flat=True))


def test_one_address_leaves_room_for_others(few: None) -> None:
    assert [note(number, noon()) for number in range(5)] == [True, True, True, False, False]
    assert note(9, noon(), source="192.0.2.9")


def test_a_full_table_takes_no_more(few: None) -> None:
    fill(noon())
    assert not note(100, noon(minutes=59), source="192.0.2.99")
    assert Sighting.objects.count() == 6


def test_a_full_table_drops_the_one_seen_longest_ago_if_that_is_an_hour(few: None) -> None:
    for number in range(6):
        note(number, noon(minutes=number), source=f"192.0.2.{number // 3}")
    assert note(100, noon(minutes=61), source="192.0.2.99")
    assert macs() == {mac(number) for number in (1, 2, 3, 4, 5, 100)}


def test_one_seen_again_lately_is_kept(few: None) -> None:
    fill(noon())
    note(0, noon(hours=2))
    note(100, noon(hours=2), source="192.0.2.99")
    assert mac(0) in macs()


def test_one_that_staff_ignored_is_kept(few: None) -> None:
    fill(noon())
    Sighting.objects.update(ignored=True)
    assert not note(100, noon(days=100), source="192.0.2.99")


def test_a_known_sighting_is_counted_even_where_the_table_is_full(few: None) -> None:
    fill(noon())
    assert note(3, noon(minutes=5), source="192.0.2.1")
    assert Sighting.objects.get(mac=mac(3)).count == 2


def test_one_that_is_ignored_stays_ignored_when_it_asks_again(few: None) -> None:
    note(1, noon())
    Sighting.objects.update(ignored=True)
    note(1, noon(minutes=5))
    assert (Sighting.objects.get().ignored, Sighting.objects.waiting().exists()) == (True, False)


def test_one_without_a_source_is_bounded_too(few: None) -> None:
    asked = [BootRequest.parse(f"mac={mac(number)}", source=None) for number in range(5)]
    assert [Sighting.objects.record(one, noon()) for one in asked] == [True, True, True, False, False]


def test_the_bounds_are_those_that_are_documented() -> None:
    assert (sighting_module.MAX_SIGHTINGS, sighting_module.MAX_PER_SOURCE) == (2000, 500)


def test_what_a_sighting_said_is_bounded(db: None, client: Client) -> None:
    said = "&".join(f"{name}={'x' * 300}" for name in UNDERSTOOD)
    ask(client, f"mac={mac(1)}&{said}&more=1", HTTP_USER_AGENT="y" * 3000)
    stored = Sighting.objects.get().said
    assert set(stored) == {*UNDERSTOOD, "user_agent"}
    assert {len(value) for value in stored.values()} == {MAX_VALUE}


def test_a_sighting_goes_when_its_mac_becomes_a_machine(db: None, client: Client, actor: Actor) -> None:
    ask(client, f"mac={mac(1)}")
    ask(client, f"mac={mac(2)}")
    Machine.objects.add("new", macs=[mac(1).upper()], allowed_networks=[], actor=actor)
    assert macs() == {mac(2)}
