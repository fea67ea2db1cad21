"""Notifications: what is told, of what, to whom, once; and how often it is tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from machines.models import Actor, AuditEntry, Delivery, Machine, NotificationRule, Rescue, RescueImage
from machines.notifications.timed_events import queue_timed_events
from tests.machines.notifications import ALICE, furnished, messages, receiver, rule, texts
from tests.machines.support import HOST_KEY, ask, at, body, enable, fetch, kind, noon, report
from tests.receiver import Receiver

__all__ = ["furnished", "receiver"]


# What is an event


def test_the_life_of_a_rescue_is_told(furnished: Machine, client: Client) -> None:
    rule()
    RescueImage.objects.update(reports=True)
    rescue = enable(furnished, reason="RAID lost a disk")
    assert kind(ask(client)) == "rescue"
    body(fetch(client, rescue, "ready"))
    report(client, rescue, address="127.0.0.1", host_keys=HOST_KEY)
    report(client, rescue, address="127.0.0.1", host_keys=HOST_KEY)
    assert kind(ask(client)) == "local"
    assert messages() == [("rescue.enabled", "web01"), ("rescue.up", "web01"), ("rescue.ended", "web01")]
    assert texts() == [
        "web01: rescue enabled by tester: RAID lost a disk",
        "web01: rescue system is up, ssh root@127.0.0.1",
        "web01: rescue ended, it has booted again",
    ]
    up = Delivery.objects.get(event="rescue.up").payload["data"]
    assert (up["rescue"]["state"], up["rescue"]["host_keys"]) == ("up", [HOST_KEY])
    assert up["audit"]["action"] == "up"


def test_a_rescue_that_is_disabled_is_told_with_who_did_it(furnished: Machine) -> None:
    rule(events=["rescue.ended"])
    enable(furnished).disable(Actor("bob"), "not needed")
    assert texts() == ["web01: rescue disabled by bob: not needed"]


def test_a_refused_request_is_told_once_a_minute(furnished: Machine, client: Client) -> None:
    rule(events=["rescue.refused"])
    ask(client, source="192.0.2.99")
    assert messages() == []
    rescue = enable(furnished)
    with at(noon()):
        ask(client, source="192.0.2.99")
        ask(client, source="192.0.2.99")
        fetch(client, rescue, "kernel", source="192.0.2.99")
    assert messages() == [("rescue.refused", "web01")] * 2
    assert texts()[0] == "web01: a request from 192.0.2.99 was refused: address_not_allowed"


def test_a_message_holds_no_secret(furnished: Machine) -> None:
    rule()
    rescue = enable(furnished, password=True)
    told = json.dumps(Delivery.objects.get().payload)
    for secret in (rescue.token, rescue.password, rescue.password_hash):
        assert str(secret) not in told


def test_what_is_rolled_back_is_not_told(furnished: Machine) -> None:
    rule()
    with transaction.atomic():
        enable(furnished)
        transaction.set_rollback(True)
    assert messages() == []


def test_a_boot_that_is_no_event_asks_for_no_rules(furnished: Machine, client: Client) -> None:
    rule()
    with CaptureQueriesContext(connection) as captured:
        ask(client)
    assert not [query for query in captured if "notification" in query["sql"]]


def test_an_error_of_ours_keeps_nobody_from_a_rescue(
    furnished: Machine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule()
    monkeypatch.setattr(Delivery, "build", lambda *_: 1 / 0)
    enable(furnished)
    assert kind(ask(client, source="192.0.2.99")) == "refused"
    assert kind(ask(client)) == "rescue"
    assert messages() == []


# Whom


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, True),
        ({"events": ["rescue.up"]}, False),
        ({"events": ["rescue.up", "rescue.enabled"]}, True),
        ({"is_active": False}, False),
    ],
)
def test_a_rule_tells_of_its_events_while_it_is_active(furnished: Machine, values: dict[str, Any], told: bool) -> None:
    rule(**values)
    enable(furnished)
    assert bool(messages()) is told


def test_a_rule_of_some_machines_tells_of_no_others(furnished: Machine, add_machine: Callable[[int], Machine]) -> None:
    other = add_machine(1)
    rule(None, other)
    enable(furnished)
    assert messages() == []
    enable(other)
    assert messages() == [("rescue.enabled", "node1")]


def test_a_rule_whose_only_machine_is_gone_does_not_become_everybodys(
    furnished: Machine, add_machine: Callable[[int], Machine]
) -> None:
    other = add_machine(1)
    rule(None, other)
    other.delete_audited(ALICE)
    enable(furnished)
    assert messages() == []


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"url": "ftp://192.0.2.9/"}, "url"),
        ({"url": ""}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://[::1]/"}, "url"),
        ({"events": []}, "events"),
        ({"events": ["rescue.sneezed"]}, "events"),
        ({"overdue_minutes": 0}, "overdue_minutes"),
        ({"all_machines": False}, "machines"),
        ({"kind": "email", "recipients": "ops@example.net"}, "recipients"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_at_its_field(db: None, values: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as raised:
        rule(**values)
    assert list(raised.value.message_dict) == [where]
    assert not NotificationRule.objects.exists()


def test_the_log_says_who_made_a_rule_and_not_where_its_secret_lies(receiver: Receiver, db: None) -> None:
    made = rule(receiver)
    made.revise({"name": "pager"}, None, Actor("bob"))
    made.revise({"url": f"{receiver.url}/other"}, None, Actor("bob"))
    assert made.revise({"name": "pager"}, None, Actor("bob")) is False
    made.delete_audited(Actor("carol"))
    entries = AuditEntry.objects.filter(action__startswith="notificationrule").order_by("pk")
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("notificationrule_added", "alice"),
        ("notificationrule_changed", "bob"),
        ("notificationrule_changed", "bob"),
        ("notificationrule_deleted", "carol"),
    ]
    assert entries[1].details == {"before": {"name": "chat"}, "after": {"name": "pager"}}
    shown = json.dumps([entry.details for entry in entries])
    assert "s3cret" not in shown
    assert made.secret not in shown


# What time does


def test_an_expired_rescue_is_told_once_whoever_notices(furnished: Machine) -> None:
    with at(noon()):
        rule(events=["rescue.ended"])
        enable(furnished, lifetime="until", expires_at=noon(hours=1))
        queue_timed_events()
        assert messages() == []
    with at(noon(hours=1, seconds=1)):
        queue_timed_events()
        queue_timed_events()
        assert texts() == ["web01: rescue ended, its time is over"]
        # Nothing of the rescue was changed: a boot still gets the reason.
        assert Rescue.objects.get().state == "armed"
        Rescue.objects.end_expired()
    assert messages() == [("rescue.ended", "web01")]


def test_a_system_that_does_not_report_is_told_to_be_up(furnished: Machine, client: Client) -> None:
    with at(noon()):
        rule(events=["rescue.up"])
        rescue = enable(furnished)
        ask(client)
        body(fetch(client, rescue, "ready"))
    for seconds, told in ((119, 0), (121, 1), (180, 1)):
        with at(noon(seconds=seconds)):
            queue_timed_events()
        assert len(messages()) == told
    assert Delivery.objects.get().payload["timestamp"].startswith("2026-03-01T12:02:00")


def test_a_rescue_that_is_not_up_in_time_is_told_once(furnished: Machine, client: Client) -> None:
    with at(noon()):
        rule(events=["rescue.overdue"], overdue_minutes=10)
        rule(name="patient", events=["rescue.overdue"], overdue_minutes=60)
        enable(furnished)
    for minutes, told in ((9, 0), (11, 1), (20, 1), (59, 1), (61, 2), (90, 2)):
        with at(noon(minutes=minutes)):
            # It boots again and again, and never comes up.
            ask(client)
            queue_timed_events()
        assert len(messages()) == told, minutes
    assert texts()[0] == "web01: the rescue system is not up yet (booting)"


def test_a_second_boot_has_a_time_of_its_own(furnished: Machine, client: Client) -> None:
    RescueImage.objects.update(reports=True)
    with at(noon()):
        rule(events=["rescue.overdue"], overdue_minutes=10)
        rescue = enable(furnished, lifetime="persistent")
        ask(client)
        body(fetch(client, rescue, "ready"))
        report(client, rescue)
    with at(noon(hours=3)):
        queue_timed_events()
        ask(client)
        queue_timed_events()
    assert messages() == []
    with at(noon(hours=3, minutes=9)):
        ask(client)
        queue_timed_events()
    assert messages() == []
    with at(noon(hours=3, minutes=11)):
        queue_timed_events()
        queue_timed_events()
    assert messages() == [("rescue.overdue", "web01")]


def test_a_new_rule_does_not_tell_of_what_was_before(furnished: Machine) -> None:
    with at(noon()):
        enable(furnished, lifetime="until", expires_at=noon(hours=1))
    with at(noon(hours=2)):
        rule()
        queue_timed_events()
    assert messages() == []


def test_looking_at_the_clock_costs_a_constant_number_of_queries(
    add_machine: Callable[[int], Machine], image: RescueImage
) -> None:
    rule()

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            queue_timed_events()
        return len(captured)

    enable(add_machine(1))
    few = queries()
    for number in range(2, 12):
        enable(add_machine(number))
    assert queries() == few
