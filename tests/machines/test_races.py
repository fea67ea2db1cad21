"""Races, with real threads against the real database: whoever comes second finds out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test import Client

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, Sighting
from machines.models.rescue_terms import NoActiveRescueError, RescueActiveError, RescueError, RescueRequest
from tests.conftest import MAC
from tests.machines.support import actions, ask, body, boot_to_ready, boots, enable, fetch, kind, report, stored

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 6


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Do all of `works` at one moment, each in a thread with a connection of its own; a refusal is a result."""
    barrier = threading.Barrier(len(works), timeout=30)

    def run(work: Callable[[], Any]) -> Any:
        try:
            # Connected before the start, so that all start together.
            connection.ensure_connection()
            barrier.wait()
            return work()
        except RescueError as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(run, work) for work in works]]


def enable_as(name: str) -> Rescue:
    return enable(Machine.objects.get(), Actor(name))


def disable(rescue: Rescue, done: threading.Event | None = None) -> None:
    stored(rescue).disable(Actor("staff"))
    if done:
        done.set()


def asking_until(done: threading.Event) -> list[str]:
    """What a card is told that asks again and again; marked once `done` had been set before it asked."""
    answers: list[str] = []
    while not answers or not answers[-1].startswith("after "):
        mark = "after " if done.is_set() else ""
        answers.append(mark + kind(ask(Client())))
    return answers


def report_status(rescue: Rescue, boot_id: str = "b-1") -> int:
    return report(Client(), rescue, boot_id=boot_id).status_code


def file_status(rescue: Rescue, name: str, source: str = "127.0.0.1") -> int:
    response = fetch(Client(), rescue, name, source=source)
    body(response)
    return response.status_code


@pytest.fixture
def reporting(image: RescueImage) -> RescueImage:
    image.reports = True
    image.save()
    return image


@pytest.fixture(autouse=True)
def _pools_are_closed(transactional_db: None) -> Iterator[None]:
    """A pool's own threads end with the test."""
    yield
    for one in connections.all(initialized_only=True):
        one.close()


def test_of_two_staff_who_enable_at_once_one_does(machine: Machine, image: RescueImage) -> None:
    results = at_once(*[partial(enable_as, f"staff{n}") for n in range(4)])
    assert len([result for result in results if isinstance(result, RescueActiveError)]) == 3
    [rescue] = Rescue.objects.all()
    assert actions(machine) == ["machine_added", "rescue_enabled"]
    assert AuditEntry.objects.get(action="rescue_enabled").actor == rescue.enabled_by_name


def test_whoever_enables_second_is_told_of_the_first(machine: Machine, image: RescueImage) -> None:
    results = at_once(*[partial(enable_as, f"staff{n}") for n in range(2)])
    [refusal] = [result for result in results if isinstance(result, RescueActiveError)]
    assert refusal.rescue == Rescue.objects.get()


def test_enabling_at_once_over_an_expired_rescue_ends_it_once(machine: Machine, image: RescueImage) -> None:
    expiry = datetime.now(UTC) + timedelta(hours=1)
    expired = enable(machine, lifetime="until", expires_at=expiry)
    Rescue.objects.filter(pk=expired.pk).update(expires_at=expiry - timedelta(hours=2))
    results = at_once(*[partial(enable_as, f"staff{n}") for n in range(3)])
    assert len([result for result in results if isinstance(result, RescueActiveError)]) == 2
    assert actions(machine) == ["machine_added", "rescue_enabled", "rescue_ended", "rescue_enabled"]
    assert stored(expired).ended_at == expiry - timedelta(hours=2)


def test_of_two_staff_who_disable_at_once_one_does(machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    results = at_once(*[partial(disable, rescue)] * 3)
    assert len([result for result in results if isinstance(result, NoActiveRescueError)]) == 2
    assert actions(machine) == ["machine_added", "rescue_enabled", "rescue_disabled"]


def test_a_card_that_asks_while_staff_disable_gets_a_rescue_only_before(machine: Machine, image: RescueImage) -> None:
    for _ in range(ROUNDS):
        rescue = enable(machine)
        disabled = threading.Event()

        keep_asking = partial(asking_until, disabled)
        results = at_once(partial(disable, rescue, disabled), keep_asking, keep_asking)
        answers = [*results[1], *results[2]]
        assert "after rescue" not in answers
        assert answers.count("after local") >= 2
        assert stored(rescue).state == "ended"
        counted = sum(entry.count for entry in boots(rescue_pk=rescue.pk, outcome="rescue"))
        assert counted == answers.count("rescue")


def test_a_card_never_wakes_a_rescue_that_was_disabled(machine: Machine, image: RescueImage) -> None:
    for _ in range(ROUNDS):
        rescue = enable(machine)
        at_once(lambda: ask(Client()), partial(disable, rescue))
        assert (stored(rescue).state, stored(rescue).token) == ("ended", None)
        served = boots(rescue_pk=rescue.pk, outcome="rescue")
        assert bool(served) is (stored(rescue).served_at is not None)


def test_many_requests_of_one_machine_at_once_share_an_entry_with_their_count(machine: Machine) -> None:
    answers = at_once(*[lambda: [kind(ask(Client())) for _ in range(5)]] * 8)
    assert answers == [["local"] * 5] * 8
    assert [(entry.reason, entry.count) for entry in boots()] == [("no_rescue", 40)]


def test_many_requests_for_a_rescue_at_once_are_all_served(machine: Machine, image: RescueImage) -> None:
    for _ in range(ROUNDS):
        rescue = enable(machine)
        answers = at_once(*[lambda: kind(ask(Client()))] * 8)
        assert answers == ["rescue"] * 8
        found = boots(rescue_pk=rescue.pk)
        assert [(entry.reason, entry.count) for entry in found] == [("rescue_armed", 1), ("rescue_booting", 7)]
        assert stored(rescue).state == "booting"
        disable(rescue)


def test_many_strangers_at_once_share_an_entry_with_their_count(transactional_db: None) -> None:
    at_once(*[lambda: [ask(Client(), "mac=nonsense") for _ in range(5)]] * 8)
    # A minute may end in between.
    assert len(boots()) <= 2
    assert sum(entry.count for entry in boots()) == 40


def test_an_unknown_card_that_asks_at_once_is_one_sighting(transactional_db: None) -> None:
    at_once(*[lambda: ask(Client(), "mac=52:54:00:12:34:56")] * 6)
    assert Sighting.objects.count() == 1


def test_of_two_reports_at_once_one_is_the_first(machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(Client(), rescue)
    results = at_once(*[partial(report_status, rescue)] * 4)
    assert results == [200] * 4
    assert actions(machine).count("up") == 1


def test_of_two_boots_that_report_at_once_one_is_up(machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(Client(), rescue)
    results = at_once(*[partial(report_status, rescue, f"b-{n}") for n in range(3)])
    assert sorted(results, key=str) == [200, 409, 409]
    assert (actions(machine).count("up"), stored(rescue).state) == (1, "up")
    assert sum(entry.count for entry in AuditEntry.objects.filter(action="up_refused")) == 2


def test_reports_of_another_boot_at_once_share_an_entry(machine: Machine, reporting: RescueImage) -> None:
    for _ in range(ROUNDS):
        rescue = enable(machine)
        boot_to_ready(Client(), rescue)
        report(Client(), rescue)
        at_once(*[partial(report_status, rescue, "b-2")] * 6)
        found = AuditEntry.objects.filter(action="up_refused", rescue_pk=rescue.pk)
        assert [entry.count for entry in found] == [6]
        disable(rescue)


def test_a_report_while_staff_disable_is_heard_or_too_late(machine: Machine, reporting: RescueImage) -> None:
    for _ in range(ROUNDS):
        rescue = enable(machine)
        boot_to_ready(Client(), rescue)
        results = at_once(partial(report_status, rescue), partial(disable, rescue))
        assert results[0] in {200, 404}
        assert stored(rescue).end_cause == "disabled"
        assert (stored(rescue).up_at is not None) is (results[0] == 200)


def test_files_asked_for_at_once_are_all_sent(machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    ask(Client())
    works = [
        lambda n=n: Client().get(f"/boot/{rescue.token}/{n}").getvalue() for n in ("kernel", "initrd", "ready") * 2
    ]
    at_once(*works)
    found = AuditEntry.objects.filter(outcome="sent").values_list("subject", "count").order_by("subject")
    assert list(found) == [("initrd", 2), ("kernel", 2), ("ready", 2)]
    assert stored(rescue).ready_at is not None


def test_files_refused_at_once_share_an_entry(machine: Machine, image: RescueImage) -> None:
    for _ in range(ROUNDS):
        rescue = enable(machine)
        at_once(*[partial(file_status, rescue, "kernel", source="192.0.2.9")] * 6)
        found = AuditEntry.objects.filter(action="file_refused", rescue_pk=rescue.pk)
        assert [entry.count for entry in found] == [6]
        disable(rescue)


def test_a_card_that_asks_while_its_machine_is_deleted_boots_its_disk(image: RescueImage, actor: Actor) -> None:
    for _ in range(ROUNDS):
        machine = Machine.objects.add("gone", macs=[MAC], allowed_networks=["127.0.0.1"], actor=actor)
        enable(machine)
        answers = at_once(lambda: kind(ask(Client())), machine.delete)
        assert answers[0] in {"rescue", "local"}
        assert kind(ask(Client())) == "local"


def test_enabling_and_asking_at_the_moment_of_expiry_do_not_block_each_other(
    machine: Machine, image: RescueImage
) -> None:
    """A card decides just before the expiry and writes just after it, while staff enable anew."""
    rescue = enable(machine, lifetime="until", expires_at=datetime.now(UTC) + timedelta(hours=1))
    locked, go_on = threading.Event(), threading.Event()

    def serve() -> str:
        late = stored(rescue)
        with transaction.atomic():
            machine.lock()
            locked.set()
            # Staff have come as far as they can; where they wait for us, that is far enough.
            go_on.wait(1)
            return str(late.serve(datetime.now(UTC), None, MAC))

    def enable_anew() -> str:
        assert locked.wait(10)
        Rescue.objects.filter(pk=rescue.pk).update(expires_at=datetime.now(UTC))
        try:
            return str(Rescue.objects.enable(Machine.objects.get(), RescueRequest(), Actor("staff")).state)
        finally:
            go_on.set()

    if connection.vendor == "sqlite":
        # One writer at a time: there, whoever comes second waits before it has locked anything.
        locked.set()
    results = at_once(serve, enable_anew)
    assert results[1] == "armed"
    assert Rescue.objects.unended().count() == 1
