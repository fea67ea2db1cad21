"""manage.py prune_audit, and rescue status --wait."""

from __future__ import annotations

import threading
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, turns
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC


def test_old_entries_are_removed_and_that_is_recorded(db: None) -> None:
    now = timezone.now()
    for days in (1, 399, 401, 800):
        AuditEntry.objects.record("test", subject=str(days), at=now - timedelta(days=days))
    call_command("prune_audit", stdout=StringIO())
    assert sorted(AuditEntry.objects.filter(action="test").values_list("subject", flat=True)) == ["1", "399"]
    assert AuditEntry.objects.get(action="audit_pruned").details["entries"] == 2


def test_many_old_entries_are_removed_in_portions_and_recorded_as_one(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PORTION", 2)
    long_ago = timezone.now() - timedelta(days=800)
    for n in range(5):
        AuditEntry.objects.record("test", subject=str(n), at=long_ago)
    with CaptureQueriesContext(connection) as queries:
        assert AuditEntry.objects.prune(timezone.now() - timedelta(days=400), Actor("tester")) == 5
    assert len([query for query in queries if query["sql"].startswith("DELETE")]) == 3
    [said] = AuditEntry.objects.all()
    assert (said.action, said.details["entries"]) == ("audit_pruned", 5)


def test_work_in_turns_pauses_as_long_as_it_took_but_for_the_first_few(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))
    pauses: list[float] = []
    fake = SimpleNamespace(monotonic=lambda: next(clock), sleep=pauses.append)
    monkeypatch.setattr(turns, "time", fake)
    assert list(turns.in_turns(range(13))) == list(range(13))
    assert pauses == [3, 3, 3]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has no single write lock")
def test_work_in_turns_begins_nothing_while_boot_answers_are_written() -> None:
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        for _ in turns.in_turns(range(1)):
            done.set()

    working = threading.Thread(target=work)
    with turns.boot_turn():
        working.start()
        assert begun.wait(30)
        assert not done.wait(0.2)
    assert done.wait(30)
    working.join()


def test_expired_rescues_are_ended_as_of_their_expiry(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = Rescue.objects.enable(machine, RescueRequest("until", timezone.now() + timedelta(hours=1)), actor)
    expiry = timezone.now() - timedelta(minutes=5)
    Rescue.objects.filter(pk=rescue.pk).update(expires_at=expiry)
    call_command("prune_audit", stdout=StringIO())
    rescue.refresh_from_db()
    assert (rescue.state, rescue.end_cause, rescue.ended_at) == ("ended", "expired", expiry)


@pytest.mark.django_db(transaction=True)
def test_waiting_ends_when_the_system_is_up_and_says_how_to_log_in(machine: Machine, image: RescueImage) -> None:
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor("tester"))

    def boot() -> None:
        client = Client()
        client.get("/boot", {"mac": MAC})
        client.get(f"/boot/{rescue.token}/ready")
        client.post(f"/boot/{rescue.token}/up", {"boot_id": "b", "address": "192.0.2.7"})
        connection.close()

    out = StringIO()
    thread = threading.Thread(target=boot)
    thread.start()
    call_command("rescue", "status", "web01", "--wait", "--timeout", "60", stdout=out, stderr=StringIO())
    thread.join()
    assert "ssh root@192.0.2.7" in out.getvalue()


def test_waiting_for_a_rescue_that_never_boots_fails_in_time(machine: Machine, image: RescueImage) -> None:
    Rescue.objects.enable(machine, RescueRequest(), Actor("tester"))
    with pytest.raises(CommandError, match="is not up after 0 s"):
        call_command("rescue", "status", "web01", "--wait", "--timeout", "0", stdout=StringIO(), stderr=StringIO())
