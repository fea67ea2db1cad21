"""The log only grows: like answers are counted, and nothing is changed or removed."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User

from machines.models import Actor, AuditEntry, Machine
from machines.models.audit import AuditIsAppendOnlyError
from machines.representation import audit_json
from tests.machines.support import noon


@pytest.fixture
def entry(machine: Machine) -> AuditEntry:
    return AuditEntry.objects.record("tested", machine=machine, reason="for a test")


def test_an_entry_holds_names_that_outlive_what_they_name(machine: Machine, actor: Actor) -> None:
    AuditEntry.objects.record("tested", actor=actor, machine=machine)
    machine.delete()
    assert AuditEntry.objects.filter(action="tested", machine="web01", actor="tester").exists()


def test_one_entry_cannot_be_deleted(entry: AuditEntry) -> None:
    with pytest.raises(AuditIsAppendOnlyError):
        entry.delete()
    assert AuditEntry.objects.filter(pk=entry.pk).exists()


def test_many_entries_cannot_be_deleted(entry: AuditEntry) -> None:
    with pytest.raises(AuditIsAppendOnlyError):
        AuditEntry.objects.filter(pk=entry.pk).delete()
    assert AuditEntry.objects.filter(pk=entry.pk).exists()


def test_many_entries_cannot_be_changed(entry: AuditEntry) -> None:
    with pytest.raises(AuditIsAppendOnlyError):
        AuditEntry.objects.all().update(reason="another")


def test_one_entry_cannot_be_changed(entry: AuditEntry) -> None:
    entry.reason = "another"
    with pytest.raises(AuditIsAppendOnlyError):
        entry.save()
    assert AuditEntry.objects.get(pk=entry.pk).reason == "for a test"


def test_one_entry_cannot_be_changed_through_a_bulk_update(entry: AuditEntry) -> None:
    entry.reason = "another"
    with pytest.raises(AuditIsAppendOnlyError):
        AuditEntry.objects.bulk_update([entry], ["reason"])


def test_nobody_can_be_given_permission_to_change_the_log() -> None:
    assert AuditEntry._meta.default_permissions == ("view",)


def test_the_error_says_how_entries_go(entry: AuditEntry) -> None:
    with pytest.raises(AuditIsAppendOnlyError, match="prune_audit"):
        entry.delete()


def test_a_user_is_an_actor_by_name(db: None) -> None:
    ada = User.objects.create_user("ada")
    assert Actor.of_user(ada, "192.0.2.1") == Actor("ada", ada.pk, "192.0.2.1")


def test_somebody_not_logged_in_is_nobody() -> None:
    assert Actor.of_user(AnonymousUser()) == Actor("", None, None)


def test_the_newest_entry_comes_first(machine: Machine) -> None:
    for minutes in (5, 3, 9):
        AuditEntry.objects.record("tested", at=noon(days=1000, minutes=minutes))
    assert [entry.at.minute for entry in AuditEntry.objects.filter(action="tested")] == [9, 5, 3]


def test_a_repeated_answer_after_another_in_between_is_still_counted(machine: Machine) -> None:
    for source in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        AuditEntry.objects.record_answer("boot", machine=machine, at=noon(), source=source, reason="no_rescue")
    found = AuditEntry.objects.filter(action="boot").order_by("pk").values_list("source", "count")
    assert list(found) == [("192.0.2.1", 2), ("192.0.2.2", 1)]


def test_the_minute_runs_from_the_entrys_first_answer(machine: Machine) -> None:
    for seconds in (0, 40, 80):
        AuditEntry.objects.record_answer("boot", machine=machine, at=noon(seconds=seconds), reason="no_rescue")
    found = AuditEntry.objects.filter(action="boot").order_by("pk").values_list("at", "count")
    assert list(found) == [(noon(), 2), (noon(seconds=80), 1)]


def test_an_entry_as_json_has_the_words_of_the_contract(machine: Machine) -> None:
    entry = AuditEntry.objects.record(
        "file_sent",
        actor=Actor("ada", source="192.0.2.1"),
        machine=machine,
        at=noon(),
        mac="00:02:b3:9d:94:8c",
        outcome="sent",
        reason="because",
        subject="kernel",
        details={"x": 1},
    )
    assert audit_json(entry) == {
        "id": entry.pk,
        "at": "2026-03-01T12:00:00Z",
        "actor": "ada",
        "source": "192.0.2.1",
        "machine": "web01",
        "mac": "00:02:b3:9d:94:8c",
        "action": "file_sent",
        "outcome": "sent",
        "reason": "because",
        "count": 1,
        "details": {"x": 1, "subject": "kernel"},
    }


def test_an_empty_entry_as_json_has_nulls(db: None) -> None:
    shown = audit_json(AuditEntry.objects.record("tested"))
    assert [shown[name] for name in ("source", "machine", "mac", "outcome")] == [None] * 4


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"machine": "web01"}, "2026-03-01 12:00:00 tested web01"),
        ({"mac": "00:02:b3:9d:94:8c"}, "2026-03-01 12:00:00 tested 00:02:b3:9d:94:8c"),
        ({}, "2026-03-01 12:00:00 tested"),
    ],
)
def test_an_entry_as_text_says_when_what_and_of_which(fields: dict[str, Any], text: str) -> None:
    assert str(AuditEntry(at=noon(), action="tested", **fields)) == text


def test_adding_a_machine_leaves_an_entry_with_all_of_it(machine: Machine) -> None:
    entry = AuditEntry.objects.get(action="machine_added")
    assert (entry.actor, entry.machine) == ("tester", "web01")
    assert entry.details == {
        "name": "web01",
        "macs": ["00:02:b3:9d:94:8c"],
        "allowed_networks": ["127.0.0.1"],
        "image": None,
        "identity": {},
        "rescue_network": {"addresses": [], "gateways": [], "dns": []},
        "notes": "",
    }
