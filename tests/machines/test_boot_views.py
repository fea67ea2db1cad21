"""The boot address: always a valid script, whatever is asked, by whom, and however the site is."""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from machines.boot import deadline, handler
from machines.boot.reasons import Reason
from machines.boot.script import pass_through
from machines.boot.unknown_clients import UnknownClientLimiter
from machines.models import Actor, AuditEntry, Machine, RescueImage, Sighting, audit
from tests.conftest import MAC
from tests.machines.support import (
    LOCAL_LINE,
    REFUSED_LINE,
    ask,
    at,
    body,
    boots,
    enable,
    everything,
    fetch,
    kind,
    noon,
    stored,
)

FORBIDDEN = ("Location", "Retry-After", "Content-Encoding", "Set-Cookie", "Vary")
UNKNOWN = "52:54:00:12:34:56"

QUERIES = {
    "nothing": "",
    "a bad MAC": "mac=nonsense",
    "an unknown MAC": f"mac={UNKNOWN}",
    "no rescue": f"mac={MAC}",
    "noise": "%00%ff&=&&mac=%0a&ip=%",
    "4,094 bytes": "mac=" + "%41" * 1360,
}

UUID = "4c4c4544-0044-4810-8031-b4c04f4a4b31"


@pytest.fixture
def elsewhere(db: None, actor: Actor) -> Machine:
    """A machine that may ask from addresses where the test client is not, unless it says so."""
    return Machine.objects.add("web02", macs=[UNKNOWN], allowed_networks=["192.0.2.0/24"], actor=actor)


def assert_valid(response: Any) -> None:
    """What holds for every answer of the boot address."""
    assert response.status_code == 200
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    assert response["Content-Length"] == str(len(response.content))
    assert response.content.startswith(b"#!ipxe\nset rescuesite ")
    assert response.content.endswith(b"\niseq ${platform} efi && exit 1 ||\nexit 0\n")
    assert not [name for name in FORBIDDEN if name in response]
    assert not response.cookies


# The answer


@pytest.mark.parametrize("path", ["/boot", "/boot/", "/rescue.php"])
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_every_answer_is_a_valid_script(client: Client, machine: Machine, path: str, query: str) -> None:
    assert_valid(client.get(path, QUERY_STRING=query))


def test_the_answer_to_a_rescue_is_a_valid_script(client: Client, machine: Machine, image: RescueImage) -> None:
    enable(machine)
    assert_valid(client.get("/boot", {"mac": MAC}))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_rescue_php_gives_the_same_answer_as_boot(client: Client, machine: Machine, query: str) -> None:
    assert ask(client, query, path="/rescue.php") == ask(client, query, path="/boot")


def test_rescue_php_gives_the_same_rescue_as_boot(client: Client, machine: Machine, image: RescueImage) -> None:
    enable(machine)
    assert ask(client, path="/rescue.php") == ask(client, path="/boot")


def test_a_machine_without_a_rescue_boots_its_disk(client: Client, machine: Machine) -> None:
    assert ask(client) == (f"#!ipxe\nset rescuesite local\n{LOCAL_LINE}\niseq ${{platform}} efi && exit 1 ||\nexit 0\n")


def test_a_machine_with_a_rescue_boots_it(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    lines = ask(client).splitlines()
    assert f"kernel --name kernel --timeout 10000 /boot/{rescue.token}/kernel || goto failed" in lines
    assert "imgargs kernel console=ttyS0 panic=60 BOOTIF=01-00-02-b3-9d-94-8c initrd=initrd initrd=rescue.cpio" in lines


def test_bootif_names_the_card_that_asked(client: Client, machine: Machine, image: RescueImage) -> None:
    machine.add_mac("52:54:00:00:00:02")
    enable(machine)
    assert "BOOTIF=01-52-54-00-00-00-02 " in ask(client, "mac=52-54-00-00-00-02")


def test_urls_in_scripts_are_relative(client: Client, machine: Machine, image: RescueImage) -> None:
    enable(machine)
    assert "://" not in ask(client, HTTP_HOST="rescue.example")


@pytest.mark.parametrize("host", ["192.0.2.1", "evil.example", "a b", "", "[::1", "x" * 3000, "\xff\xfe", "h\0st"])
def test_any_host_header_gets_an_answer(client: Client, machine: Machine, host: str) -> None:
    assert_valid(client.get("/boot", {"mac": MAC}, HTTP_HOST=host))


def test_the_admin_still_refuses_a_strange_host(client: Client, machine: Machine) -> None:
    assert client.get("/admin/", HTTP_HOST="evil.example").status_code == 400


def test_no_redirect_even_where_staff_must_use_https(client: Client, machine: Machine, settings: LazySettings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert client.get("/admin/login/", HTTP_HOST="localhost").status_code == 301
    assert_valid(client.get("/boot", {"mac": MAC}))


def test_no_compression_even_where_it_is_asked_for(
    client: Client, machine: Machine, image: RescueImage, settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.gzip.GZipMiddleware"]
    enable(machine)
    assert_valid(Client().get("/boot", {"mac": MAC}, HTTP_ACCEPT_ENCODING="gzip"))


def test_a_session_cookie_makes_no_difference(client: Client, machine: Machine) -> None:
    client.cookies["sessionid"] = "x"
    assert_valid(client.get("/boot", {"mac": MAC}))


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options", "trace"])
@pytest.mark.parametrize("path", ["/boot", "/rescue.php"])
def test_other_methods_are_refused_and_change_nothing(
    client: Client, machine: Machine, image: RescueImage, method: str, path: str
) -> None:
    enable(machine)
    before = everything()
    response = getattr(client, method)(f"{path}?mac={MAC}")
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")
    assert everything() == before


@hypothesis_settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    query=st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")),
    user_agent=st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    forwarded=st.text(max_size=20),
)
def test_any_bytes_get_a_valid_script(
    client: Client, machine: Machine, query: str, user_agent: str, forwarded: str
) -> None:
    assert_valid(client.get("/boot", QUERY_STRING=query, HTTP_USER_AGENT=user_agent, HTTP_X_FORWARDED_FOR=forwarded))


@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.dictionaries(st.sampled_from(["ip", "serial", "uuid", "x", "\0"]), st.binary(max_size=300), max_size=5))
def test_any_values_of_a_known_or_unknown_machine_are_stored_bounded(
    client: Client, machine: Machine, raw: dict[str, bytes]
) -> None:
    for mac in (MAC, UNKNOWN):
        assert_valid(client.get("/boot", {**raw, "mac": mac.encode()}))
    told = [entry.details for entry in boots()] + [sighting.said for sighting in Sighting.objects.all()]
    assert all(len(str(one)) < 16_000 for one in told)


# HEAD


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_head_has_the_headers_of_get_and_no_body(client: Client, machine: Machine, query: str) -> None:
    head, get = client.head("/boot", QUERY_STRING=query), client.get("/boot", QUERY_STRING=query)
    assert head.content == b""
    assert head.headers == get.headers


def test_head_of_a_rescue_has_the_length_of_its_script(client: Client, machine: Machine, image: RescueImage) -> None:
    enable(machine)
    head = client.head(f"/boot?mac={MAC}")
    assert head["Content-Length"] == client.get(f"/boot?mac={MAC}")["Content-Length"]


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_head_changes_nothing(client: Client, machine: Machine, image: RescueImage, query: str) -> None:
    enable(machine)
    before = everything()
    client.head("/boot", QUERY_STRING=query)
    assert everything() == before


def test_head_uses_nothing_up(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    with at(noon()):
        ask(client)
        client.get(f"/boot/{rescue.token}/ready")
    with at(noon(minutes=3)):
        client.head(f"/boot?mac={MAC}")
    assert stored(rescue).state == "booting"


# The record


@pytest.mark.parametrize(
    ("query", "reason", "mac"),
    [("mac=nonsense", "bad_mac", ""), ("", "bad_mac", ""), (f"mac={UNKNOWN}", "unknown_mac", UNKNOWN)],
)
def test_a_stranger_is_written_down_with_the_reason(
    db: None, client: Client, query: str, reason: str, mac: str
) -> None:
    ask(client, query)
    [entry] = boots()
    assert (entry.reason, entry.outcome, entry.mac, entry.source, entry.count) == (reason, "local", mac, "127.0.0.1", 1)


def test_a_machines_answer_is_written_down_with_what_it_said(client: Client, machine: Machine) -> None:
    ask(client, f"mac={MAC}&ip=192.0.2.9&serial=S1&colour=blue", HTTP_USER_AGENT="iPXE/1.21.1")
    [entry] = boots()
    assert (entry.machine, entry.machine_pk, entry.mac) == ("web01", machine.pk, MAC)
    assert (entry.outcome, entry.reason, entry.actor) == ("local", "no_rescue", "")
    assert entry.details == {
        "ip": "192.0.2.9",
        "user_agent": "iPXE/1.21.1",
        "params": {"serial": "S1"},
        "extra": {"colour": "blue"},
    }


def test_a_served_rescue_is_written_down(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    ask(client)
    [entry] = boots()
    assert (entry.outcome, entry.reason, entry.rescue_pk) == ("rescue", "rescue_armed", rescue.pk)


def test_no_token_is_written_down(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    ask(client)
    body(fetch(client, rescue, "kernel"))
    entries = list(AuditEntry.objects.values())
    assert rescue.token
    assert rescue.token not in str(entries)


def test_a_machine_is_last_seen_when_it_asked(client: Client, machine: Machine) -> None:
    with at(noon()):
        ask(client, f"mac={MAC}&ip=192.0.2.9&serial=S1&uuid=U1", HTTP_USER_AGENT="iPXE")
    machine.refresh_from_db()
    contact = machine.contact
    assert (contact.at, contact.mac, contact.source, contact.ip) == (noon(), MAC, "127.0.0.1", "192.0.2.9")
    assert (contact.serial, contact.uuid, contact.user_agent) == ("S1", "U1", "iPXE")


def test_a_refused_request_does_not_count_as_seen(client: Client, elsewhere: Machine, image: RescueImage) -> None:
    enable(elsewhere)
    assert kind(ask(client, f"mac={UNKNOWN}")) == "refused"
    assert not hasattr(elsewhere, "contact")


def test_an_unknown_mac_becomes_a_sighting(db: None, client: Client) -> None:
    with at(noon()):
        ask(client, f"mac={UNKNOWN}&ip=192.0.2.9&serial=S1", HTTP_USER_AGENT="iPXE")
    sighting = Sighting.objects.get()
    assert (sighting.mac, sighting.source, sighting.ip) == (UNKNOWN, "127.0.0.1", "192.0.2.9")
    assert sighting.said == {"serial": "S1", "user_agent": "iPXE"}
    assert (sighting.first_seen_at, sighting.last_seen_at, sighting.count) == (noon(), noon(), 1)


def test_an_unknown_mac_that_asks_again_is_the_same_sighting(db: None, client: Client) -> None:
    for minutes in (0, 5):
        with at(noon(minutes=minutes)):
            ask(client, f"mac={UNKNOWN}&serial=S{minutes}")
    sighting = Sighting.objects.get()
    assert (sighting.first_seen_at, sighting.last_seen_at, sighting.count) == (noon(), noon(minutes=5), 2)
    assert sighting.said == {"serial": "S5"}


def test_a_bad_mac_is_no_sighting(db: None, client: Client) -> None:
    ask(client, "mac=nonsense")
    assert not Sighting.objects.exists()


def test_a_known_mac_is_no_sighting(client: Client, machine: Machine) -> None:
    ask(client)
    assert not Sighting.objects.exists()


def test_like_answers_within_a_minute_share_an_entry_with_a_count(client: Client, machine: Machine) -> None:
    for seconds in (0, 20, 59):
        with at(noon(seconds=seconds)):
            ask(client)
    [entry] = boots()
    assert (entry.count, entry.at, entry.repeated_at) == (3, noon(), noon(seconds=59))


def test_after_a_minute_a_like_answer_has_an_entry_of_its_own(client: Client, machine: Machine) -> None:
    for seconds in (0, 60):
        with at(noon(seconds=seconds)):
            ask(client)
    assert [entry.count for entry in boots()] == [1, 1]


def test_an_answer_to_another_source_has_an_entry_of_its_own(client: Client, machine: Machine) -> None:
    with at(noon()):
        ask(client)
        ask(client, source="192.0.2.9")
        ask(client)
    assert [(entry.source, entry.count) for entry in boots()] == [("127.0.0.1", 2), ("192.0.2.9", 1)]


def test_an_answer_for_another_reason_has_an_entry_of_its_own(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    with at(noon()):
        ask(client)
        enable(machine)
        ask(client)
        ask(client)
    assert [(entry.reason, entry.count) for entry in boots()] == [
        ("no_rescue", 1),
        ("rescue_armed", 1),
        ("rescue_booting", 1),
    ]


def test_a_rescue_after_another_has_an_entry_of_its_own(client: Client, machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        first = enable(machine)
        ask(client)
        first.refresh_from_db()
        first.disable(Actor("tester"))
        second = enable(machine)
        ask(client)
    assert [entry.rescue_pk for entry in boots()] == [first.pk, second.pk]


def test_answers_to_other_machines_have_entries_of_their_own(
    client: Client, machine: Machine, elsewhere: Machine
) -> None:
    with at(noon()):
        ask(client)
        ask(client, f"mac={UNKNOWN}")
    assert [entry.machine for entry in boots()] == ["web01", "web02"]


@pytest.mark.parametrize("reason", ["bad_mac", "unknown_mac"])
def test_strangers_share_one_row_for_a_reason_and_minute(db: None, client: Client, reason: str) -> None:
    for number in range(5):
        with at(noon(seconds=number)):
            mac = f"52:54:00:00:00:{number:02x}" if reason == "unknown_mac" else f"bad{number}"
            ask(client, f"mac={mac}", source=f"192.0.2.{number}")
    assert [(entry.reason, entry.count) for entry in boots()] == [(reason, 5)]


def test_strangers_of_another_minute_have_another_row(db: None, client: Client) -> None:
    for minutes in (0, 1):
        with at(noon(minutes=minutes)):
            ask(client, "mac=nonsense")
    assert [entry.count for entry in boots()] == [1, 1]


def test_strangers_with_another_reason_have_another_row(db: None, client: Client) -> None:
    with at(noon()):
        ask(client, "mac=nonsense")
        ask(client, f"mac={UNKNOWN}")
    assert [(entry.reason, entry.count) for entry in boots()] == [("bad_mac", 1), ("unknown_mac", 1)]


def test_strangers_beyond_the_budget_are_counted_by_the_next_write(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    budget = UnknownClientLimiter(rate=1, burst=2, clock=lambda: clock[0])
    monkeypatch.setattr(handler, "budget", budget)
    with at(noon()):
        for _ in range(10):
            ask(client, "mac=nonsense")
        assert [entry.count for entry in boots()] == [2]
        clock[0] = 1.0
        ask(client, "mac=nonsense")
    assert [entry.count for entry in boots()] == [11]


def test_a_stranger_beyond_the_budget_costs_one_query(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "budget", UnknownClientLimiter(rate=0, burst=0))
    with CaptureQueriesContext(connection) as queries:
        ask(client, f"mac={UNKNOWN}")
    assert len(queries) == 1


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


# What cannot be served


def test_an_arm_machine_is_not_given_an_x86_image(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    assert kind(ask(client, f"mac={MAC}&buildarch=arm64")) == "local"
    assert [entry.reason for entry in boots()] == ["image_unavailable"]
    assert stored(rescue).state == "armed"


def test_a_bios_rom_that_says_i386_is_given_a_64_bit_image(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    enable(machine)
    assert kind(ask(client, f"mac={MAC}&buildarch=i386")) == "rescue"


@pytest.fixture
def lost(machine: Machine) -> Iterator[RescueImage]:
    """An image of bytes that no other test uses, so that they can be lost."""
    image = RescueImage.objects.create(name="lost", is_default=True)
    image.attach("kernel", [b"a kernel to lose"])
    path = image.files.get().stored.path
    yield image
    path.unlink(missing_ok=True)


def test_a_rescue_whose_file_is_lost_is_a_pass_through(client: Client, machine: Machine, lost: RescueImage) -> None:
    rescue = enable(machine)
    lost.files.get().stored.path.unlink()
    assert kind(ask(client)) == "local"
    assert [entry.reason for entry in boots()] == ["image_unavailable"]
    assert stored(rescue).state == "armed"


def test_a_rescue_whose_file_is_cut_short_is_a_pass_through(
    client: Client, machine: Machine, lost: RescueImage
) -> None:
    enable(machine)
    lost.files.get().stored.path.write_bytes(b"short")
    assert kind(ask(client)) == "local"


def test_a_rescue_whose_script_would_be_unsafe_is_a_pass_through(
    client: Client, machine: Machine, image: RescueImage, caplog: pytest.LogCaptureFixture
) -> None:
    RescueImage.objects.filter(pk=image.pk).update(command_line="quiet || shell")
    enable(machine)
    assert kind(ask(client)) == "local"
    assert [entry.reason for entry in boots()] == ["image_unavailable"]
    assert "separator" in caplog.text


# The site's own faults


@pytest.fixture
def broken() -> Callable[[Exception], AbstractContextManager[None]]:
    """Let decisions fail for a while, as a bug or a broken database would."""

    @contextmanager
    def failing_with(error: Exception) -> Iterator[None]:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(handler, "decide", fail)
            yield

    return failing_with


Broken = Callable[[Exception], AbstractContextManager[None]]
FAULTS = [(RuntimeError("a bug"), "internal_error"), (DatabaseError("it is gone"), "database_error")]


@pytest.mark.parametrize(("error", "reason"), FAULTS)
@pytest.mark.parametrize("method", ["get", "head"])
def test_a_fault_of_the_site_boots_the_disk(
    client: Client, machine: Machine, broken: Broken, error: Exception, reason: str, method: str
) -> None:
    with broken(error):
        response = getattr(client, method)("/boot", {"mac": MAC})
    assert response.status_code == 200
    assert response["Content-Length"] == str(len(pass_through(Reason(reason))))


@pytest.mark.parametrize(("error", "reason"), FAULTS)
def test_the_script_after_a_fault_is_valid_and_says_so(
    client: Client, machine: Machine, broken: Broken, error: Exception, reason: str
) -> None:
    with broken(error):
        response = client.get("/boot", {"mac": MAC})
    assert_valid(response)
    assert kind(response.content.decode()) == "local"
    assert b"echo The rescue site " in response.content


@pytest.mark.parametrize(("error", "reason"), FAULTS)
def test_a_fault_is_written_down_with_the_next_answer(
    client: Client, machine: Machine, broken: Broken, error: Exception, reason: str
) -> None:
    with broken(error):
        ask(client)
        ask(client)
    assert boots() == []
    ask(client)
    assert {entry.reason: entry.count for entry in boots()} == {"no_rescue": 1, reason: 2}


def test_a_bug_is_logged_with_its_traceback(
    client: Client, machine: Machine, broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    with broken(RuntimeError("a bug")):
        ask(client)
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


def test_a_fault_of_the_record_does_not_keep_a_stranger_waiting(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("read-only")

    monkeypatch.setattr(Sighting.objects, "record", failing)
    assert kind(ask(client, f"mac={UNKNOWN}")) == "local"
    # Counted all the same, by the next writing.
    assert [(entry.reason, entry.count) for entry in boots()] == [("unknown_mac", 1)]


def test_a_rescue_that_could_not_be_recorded_is_not_served(
    client: Client, machine: Machine, image: RescueImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("read-only")

    rescue = enable(machine)
    monkeypatch.setattr(AuditEntry.objects, "record_answer", failing)
    assert kind(ask(client)) == "local"
    assert stored(rescue).state == "armed"


def test_strangers_who_cannot_be_counted_do_not_cost_a_machine_its_rescue(
    client: Client, machine: Machine, image: RescueImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("a lock that was not given in time")

    enable(machine)
    handler.budget.restore("unknown_mac", 3)
    monkeypatch.setattr(AuditEntry.objects, "record_unknown", failing)
    assert kind(ask(client)) == "rescue"


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch, settings: LazySettings) -> Iterator[None]:
    """A database that does not answer while the test runs."""
    release = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        release.wait(30)
        raise DatabaseError

    settings.RESCUESITE_BOOT_DEADLINE = 0.05
    monkeypatch.setattr(Machine.objects, "asking_as", hang)
    with ThreadPoolExecutor(deadline.THREADS) as pool:
        monkeypatch.setattr(deadline, "_pool", pool)
        yield
        release.set()


def test_a_database_that_hangs_is_not_waited_for(db: None, client: Client, hanging: None) -> None:
    response = client.get("/boot", {"mac": MAC})
    assert_valid(response)
    assert b"echo The rescue site cannot read its database" in response.content


def test_a_database_that_hangs_is_named_in_the_log(
    db: None, client: Client, hanging: None, caplog: pytest.LogCaptureFixture
) -> None:
    client.get("/boot", {"mac": MAC})
    assert "did not answer in time" in caplog.text


# Cost


@pytest.mark.parametrize("reason", ["unknown_mac", "no_rescue", "rescue_booting"])
def test_the_number_of_queries_does_not_grow(
    client: Client,
    machine: Machine,
    image: RescueImage,
    add_machine: Callable[[int], Machine],
    actor: Actor,
    reason: str,
) -> None:
    mac = UNKNOWN if reason == "unknown_mac" else MAC
    if reason == "rescue_booting":
        enable(machine)

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            ask(client, f"mac={mac}")
        assert boots()[-1].reason == reason
        return len(queries)

    with at(noon()):
        for _ in range(2):
            ask(client, f"mac={mac}")
        before = cost()
        for number in range(20):
            other = add_machine(number)
            if reason == "rescue_booting":
                enable(other)
        for number in range(10):
            machine.add_mac(f"52:54:00:01:00:{number:02x}")
            machine.allowed_networks.create(network=f"192.0.2.{number}")
        assert cost() == before


def test_an_answer_costs_few_queries(client: Client, machine: Machine, image: RescueImage) -> None:
    enable(machine)
    ask(client)
    with CaptureQueriesContext(connection) as queries:
        ask(client)
    assert len(queries) <= 14


# Health


def test_healthz_answers_without_a_database(client: Client) -> None:
    response = client.get("/healthz", HTTP_HOST="any")
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_readyz_answers_with_a_database(db: None, client: Client) -> None:
    response = client.get("/readyz", HTTP_HOST="any")
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_readyz_says_that_the_database_is_down(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("gone")

    monkeypatch.setattr("machines.boot.views.MigrationExecutor", failing)
    assert client.get("/readyz").status_code == 503
