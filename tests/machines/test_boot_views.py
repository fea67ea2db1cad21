"""The boot address: always a valid script, whatever is asked, by whom, and however the site is."""

from __future__ import annotations

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from machines.boot import handler
from machines.boot.unknown_clients import UnknownClientLimiter
from machines.models import Actor, AuditEntry, Machine, RescueImage, Sighting
from tests.conftest import MAC
from tests.machines.boot_requests import UNKNOWN, assert_valid, elsewhere
from tests.machines.support import (
    LOCAL_LINE,
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

__all__ = ["elsewhere"]


QUERIES = {
    "nothing": "",
    "a bad MAC": "mac=nonsense",
    "an unknown MAC": f"mac={UNKNOWN}",
    "no rescue": f"mac={MAC}",
    "noise": "%00%ff&=&&mac=%0a&ip=%",
    "4,094 bytes": "mac=" + "%41" * 1360,
}


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
    monkeypatch.setattr(handler, "limiter", budget)
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
    monkeypatch.setattr(handler, "limiter", UnknownClientLimiter(rate=0, burst=0))
    with CaptureQueriesContext(connection) as queries:
        ask(client, f"mac={UNKNOWN}")
    assert len(queries) == 1
