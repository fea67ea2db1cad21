"""Boot requests that wait together: looked up, decided and recorded together, each with its own outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from machines.addresses import parse_ip
from machines.boot import handler
from machines.boot.deadline import Deadline
from machines.boot.handler import recorder
from machines.boot.recorder import Asked
from machines.boot.request import BootRequest
from machines.models import Actor, LastContact, Machine, RescueImage
from tests.conftest import MAC
from tests.machines.support import boot_to_up, boots, enable, stored

SECOND = "00:02:b3:9d:94:8d"
UNKNOWN = "02:aa:00:00:00:01"
LOCALHOST = parse_ip("127.0.0.1")


def asked(mac: str, deadline: float | None = None) -> Asked:
    return Asked(BootRequest.parse(f"mac={mac}", source=LOCALHOST), Deadline(deadline))


def together(*macs: str) -> list[str]:
    """The reasons of what is answered to cards that ask at once."""
    jobs = [asked(mac) for mac in macs]
    recorder.do(jobs)
    assert [job.error for job in jobs] == [None] * len(jobs)
    return reasons(jobs)


def reasons(jobs: Sequence[Asked]) -> list[str]:
    return [str(job.answer.reason) for job in jobs if job.answer]


@pytest.fixture
def two_cards(machine: Machine) -> Machine:
    machine.add_mac(SECOND)
    return machine


def test_a_batch_costs_as_many_queries_however_large_it_is(add_machine: Callable[[int], Machine]) -> None:
    macs = [add_machine(n).macs.get().address for n in range(60)]
    numbers = []
    for batch in (macs[:3], macs[3:13], macs[13:]):
        with CaptureQueriesContext(connection) as queries:
            together(*batch)
        numbers.append(len(queries))
    assert len(set(numbers)) == 1
    assert {entry.count for entry in boots()} == {1}
    assert len(boots()) == LastContact.objects.count() == 60


def test_each_of_a_batch_is_told_what_it_would_be_told_alone(
    machine: Machine, image: RescueImage, add_machine: Callable[[int], Machine]
) -> None:
    enable(machine)
    other = add_machine(1).macs.get().address
    assert together(other, MAC, UNKNOWN, "") == ["no_rescue", "rescue_armed", "unknown_mac", "bad_mac"]
    assert [entry.reason for entry in boots()] == ["no_rescue", "rescue_armed", "bad_mac", "unknown_mac"]


def test_like_answers_of_a_batch_share_an_entry(machine: Machine) -> None:
    together(MAC, MAC, MAC)
    together(MAC, MAC)
    assert [entry.count for entry in boots()] == [5]


def test_two_cards_of_an_armed_machine_that_ask_at_once_are_both_told_to_boot_its_rescue(
    two_cards: Machine, image: RescueImage
) -> None:
    rescue = enable(two_cards)
    assert together(MAC, SECOND, MAC) == ["rescue_armed", "rescue_booting", "rescue_booting"]
    rescue = stored(rescue)
    assert (rescue.state, rescue.tries, rescue.version) == ("booting", 1, 3)


def test_of_two_cards_that_ask_at_once_after_the_one_boot_one_ends_the_rescue(
    client: Client, two_cards: Machine, image: RescueImage
) -> None:
    rescue = enable(two_cards)
    boot_to_up(client, rescue)
    assert together(MAC, SECOND) == ["rescue_used", "no_rescue"]
    assert stored(rescue).state == "ended"


def test_a_rescue_that_staff_disable_between_reading_and_writing_is_not_served(
    machine: Machine, image: RescueImage, add_machine: Callable[[int], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    rescue, other = enable(machine), add_machine(1).macs.get().address
    decide = recorder._decide

    def decide_and_disable(jobs: Sequence[Asked]) -> None:
        decide(jobs)
        if stored(rescue).state == "armed":
            stored(rescue).disable(Actor("staff"))

    monkeypatch.setattr(recorder, "_decide", decide_and_disable)
    assert together(other, MAC) == ["no_rescue", "no_rescue"]
    assert [entry.reason for entry in boots()] == ["no_rescue", "no_rescue"]


def test_a_bug_in_one_decision_is_not_the_others(
    machine: Machine, add_machine: Callable[[int], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, facts = add_machine(1), Machine.facts

    def broken(self: Machine, *args: object) -> object:
        if self.pk == other.pk:
            raise RuntimeError("a bug")
        return facts(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Machine, "facts", broken)
    jobs = [asked(MAC), asked(other.macs.get().address)]
    recorder.do(jobs)
    assert [type(job.error) for job in jobs] == [type(None), RuntimeError]
    assert [entry.machine for entry in boots()] == ["web01"]


def test_a_bug_in_a_decision_that_is_made_anew_is_told(
    machine: Machine, image: RescueImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescue, job, decide = enable(machine), asked(MAC), recorder._decide

    def decide_once(jobs: Sequence[Asked]) -> None:
        if stored(rescue).state == "ended":
            for one in jobs:
                one.finish(RuntimeError("a bug"))
            return
        decide(jobs)
        stored(rescue).disable(Actor("staff"))

    monkeypatch.setattr(recorder, "_decide", decide_once)
    recorder.do([job])
    assert isinstance(job.error, RuntimeError)


def test_what_cannot_be_written_of_one_is_not_the_others(
    machine: Machine, add_machine: Callable[[int], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, entry = add_machine(1), handler._entry

    def broken(request: BootRequest, answer: handler.Answer, of: Machine, now: object) -> object:
        if of.pk == other.pk:
            raise ValueError("not to be stored")
        return entry(request, answer, of, now)  # type: ignore[arg-type]

    monkeypatch.setattr(handler, "_entry", broken)
    jobs = [asked(MAC), asked(other.macs.get().address)]
    recorder.do(jobs)
    assert [type(job.error) for job in jobs] == [type(None), ValueError]
    assert [entry.machine for entry in boots()] == ["web01"]


def test_a_rescue_whose_client_is_gone_is_not_recorded_as_served(
    machine: Machine, image: RescueImage, add_machine: Callable[[int], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    rescue, late = enable(machine), asked(MAC, 60)
    record = recorder._record

    def record_and_pass(jobs: Sequence[Asked], there: set[int]) -> None:
        record(jobs, there)
        late.deadline = Deadline(0)

    monkeypatch.setattr(recorder, "_record", record_and_pass)
    other = asked(add_machine(1).macs.get().address)
    recorder.do([late, other])
    assert late.error
    assert (other.error, stored(rescue).state) == (None, "armed")
    assert [entry.machine for entry in boots()] == ["node1"]
