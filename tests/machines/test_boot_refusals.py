"""Requests that are refused: by address, by identity, behind proxies."""

from __future__ import annotations

import ipaddress

import pytest
from django.conf import LazySettings
from django.test import Client

from machines.models import Actor, AuditEntry, Machine, RescueImage, audit
from tests.conftest import MAC
from tests.machines.boot_requests import UNKNOWN, elsewhere
from tests.machines.support import (
    REFUSED_LINE,
    ask,
    at,
    boots,
    enable,
    everything,
    kind,
    noon,
    stored,
)

__all__ = ["elsewhere"]


UUID = "4c4c4544-0044-4810-8031-b4c04f4a4b31"


# Refusals


@pytest.fixture
def daily(monkeypatch: pytest.MonkeyPatch) -> int:
    """A day's entries of one kind, fewer than the site's so that tests need not write as many."""
    monkeypatch.setattr(audit, "DAILY_ENTRIES", 6)
    return 6


def test_a_machine_that_asks_from_elsewhere_is_refused(client: Client, elsewhere: Machine, image: RescueImage) -> None:
    enable(elsewhere)
    lines = ask(client, f"mac={UNKNOWN}&ip=127.0.0.1").splitlines()
    assert lines[1:4] == ["set rescuesite refused", REFUSED_LINE, "echo Rescue refused: address_not_allowed"]


def test_a_machine_without_networks_must_claim_the_address_it_asks_from(
    client: Client, actor: Actor, image: RescueImage
) -> None:
    machine = Machine.objects.add("web03", macs=[MAC], allowed_networks=[], actor=actor)
    enable(machine)
    assert "echo Rescue refused: address_mismatch" in ask(client, f"mac={MAC}&ip=192.0.2.9")
    assert kind(ask(client, f"mac={MAC}&ip=127.0.0.1")) == "rescue"


def test_a_refused_request_changes_no_state(client: Client, elsewhere: Machine, image: RescueImage) -> None:
    rescue = enable(elsewhere)
    before = {name: rows for name, rows in everything().items() if name != "AuditEntry"}
    ask(client, f"mac={UNKNOWN}")
    assert {name: rows for name, rows in everything().items() if name != "AuditEntry"} == before
    assert stored(rescue).state == "armed"


def test_a_refusal_does_not_use_up_a_rescue_that_is_up(client: Client, elsewhere: Machine, image: RescueImage) -> None:
    rescue = enable(elsewhere)
    with at(noon()):
        ask(client, f"mac={UNKNOWN}", source="192.0.2.9")
        client.get(f"/boot/{rescue.token}/ready", REMOTE_ADDR="192.0.2.9")
    with at(noon(minutes=3)):
        assert kind(ask(client, f"mac={UNKNOWN}")) == "refused"
    assert stored(rescue).state == "booting"


def test_refused_rows_of_a_machine_are_capped(
    client: Client, elsewhere: Machine, image: RescueImage, daily: int
) -> None:
    enable(elsewhere)
    for number in range(daily + 20):
        with at(noon(minutes=2 * number)):
            ask(client, f"mac={UNKNOWN}", source=f"198.51.100.{number}")
    refused = boots(outcome="refused")
    assert len(refused) == daily
    assert sum(entry.count for entry in refused) == daily + 20


def test_the_cap_is_the_documented_one() -> None:
    assert audit.DAILY_ENTRIES == 100


def test_a_day_later_refusals_are_written_down_again(
    client: Client, elsewhere: Machine, image: RescueImage, daily: int
) -> None:
    enable(elsewhere)
    for number in range(daily + 1):
        with at(noon()):
            ask(client, f"mac={UNKNOWN}", source=f"198.51.100.{number}")
    with at(noon(days=1, seconds=1)):
        ask(client, f"mac={UNKNOWN}", source="198.51.100.250")
    assert len(boots(outcome="refused")) == daily + 1


def test_refusals_beyond_the_cap_keep_no_room_from_other_answers(
    client: Client, elsewhere: Machine, image: RescueImage, daily: int
) -> None:
    enable(elsewhere)
    with at(noon()):
        for number in range(daily + 1):
            ask(client, f"mac={UNKNOWN}", source=f"198.51.100.{number}")
        ask(client, f"mac={UNKNOWN}", source="192.0.2.9")
    assert [entry.source for entry in boots(outcome="rescue")] == ["192.0.2.9"]


def test_a_served_rescue_has_its_own_entry_though_the_machine_has_had_a_days_worth(
    client: Client, machine: Machine, image: RescueImage, daily: int, actor: Actor
) -> None:
    with at(noon()):
        first = enable(machine)
        for number in range(daily):
            AuditEntry.objects.record(
                "boot",
                machine=machine,
                rescue=first,
                source=f"198.51.100.{number}",
                reason="rescue_armed",
                outcome="rescue",
            )
        first.disable(actor)
        second = enable(machine)
        ask(client)
    assert len(boots(rescue_pk=second.pk)) == 1


# Identity


@pytest.fixture
def identified(db: None, actor: Actor) -> Machine:
    return Machine.objects.add(
        "web04",
        macs=[MAC],
        allowed_networks=[],
        identity={"uuid": UUID.upper(), "gateway": "192.0.2.1", "user_agent": "iPXE/1.21"},
        actor=actor,
    )


@pytest.mark.parametrize(
    ("said", "agent", "outcome", "reason"),
    [
        (f"uuid={UUID}&gateway=192.0.2.1", "iPXE/1.21.1+git", "rescue", "rescue_armed"),
        (f"uuid={UUID}", "iPXE/1.21.1", "refused", "identity_missing"),
        (f"uuid={UUID}&gateway=", "iPXE/1.21.1", "refused", "identity_missing"),
        (f"uuid={UUID}&gateway=192.0.2.2", "iPXE/1.21.1", "refused", "identity_mismatch"),
        (f"uuid={UUID}&gateway=192.0.2.1", "curl/8", "refused", "identity_mismatch"),
        (f"uuid={UUID}&gateway=192.0.2.1", "", "refused", "identity_missing"),
    ],
)
def test_a_recorded_identity_must_be_sent_and_match(
    client: Client, identified: Machine, image: RescueImage, said: str, agent: str, outcome: str, reason: str
) -> None:
    enable(identified)
    made = ask(client, f"mac={MAC}&ip=127.0.0.1&{said}", HTTP_USER_AGENT=agent)
    assert kind(made) == outcome
    assert [entry.reason for entry in boots()] == [reason]


def test_a_refused_identity_says_so_at_the_console(client: Client, identified: Machine, image: RescueImage) -> None:
    enable(identified)
    lines = ask(client, f"mac={MAC}&ip=127.0.0.1").splitlines()
    assert lines[1:4] == [
        "set rescuesite refused",
        "echo Identity Failed Match",
        "echo Rescue refused: identity_missing",
    ]


@pytest.mark.parametrize(
    ("networks", "identity", "unverified"),
    [([], {}, True), (["192.0.2.0/24"], {}, False), ([], {"serial": "S"}, False)],
)
def test_a_machine_with_neither_networks_nor_identity_is_unverified(
    db: None,
    actor: Actor,
    networks: list[str],
    identity: dict[str, str],
    unverified: bool,
) -> None:
    machine = Machine.objects.add("m", macs=[], allowed_networks=networks, identity=identity, actor=actor)
    assert machine.is_unverified is unverified


# The source behind proxies


def test_a_forwarded_address_counts_from_a_trusted_proxy(
    client: Client, elsewhere: Machine, image: RescueImage, settings: LazySettings
) -> None:
    settings.RESCUESITE_TRUSTED_PROXIES = (ipaddress.ip_network("127.0.0.1"),)
    enable(elsewhere)
    assert kind(ask(client, f"mac={UNKNOWN}", HTTP_X_FORWARDED_FOR="203.0.113.1, 192.0.2.9")) == "rescue"
    assert [entry.source for entry in boots()] == ["192.0.2.9"]


def test_a_forwarded_address_does_not_count_from_anybody_else(
    client: Client, elsewhere: Machine, image: RescueImage
) -> None:
    enable(elsewhere)
    assert kind(ask(client, f"mac={UNKNOWN}", HTTP_X_FORWARDED_FOR="192.0.2.9")) == "refused"
    assert [entry.source for entry in boots()] == ["127.0.0.1"]


def test_a_request_over_a_unix_socket_has_no_source(client: Client, machine: Machine, image: RescueImage) -> None:
    enable(machine)
    assert kind(ask(client, source="")) == "refused"
    assert [entry.source for entry in boots()] == [None]


def test_a_trusted_unix_peer_names_the_source(
    client: Client, elsewhere: Machine, image: RescueImage, settings: LazySettings
) -> None:
    settings.RESCUESITE_TRUST_UNIX_PEER = True
    enable(elsewhere)
    assert kind(ask(client, f"mac={UNKNOWN}", source="", HTTP_X_FORWARDED_FOR="192.0.2.9")) == "rescue"


def test_an_ipv4_card_on_an_ipv6_socket_is_in_its_ipv4_network(
    client: Client, elsewhere: Machine, image: RescueImage
) -> None:
    enable(elsewhere)
    assert kind(ask(client, f"mac={UNKNOWN}", source="::ffff:192.0.2.9")) == "rescue"
