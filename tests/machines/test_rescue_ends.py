"""How rescues end: until a time, expired, disabled; and images that do not report."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage
from machines.models.rescue_terms import NoActiveRescueError, NoUsableImageError
from machines.representation import rescue_json
from tests.machines.rescue_life import reporting
from tests.machines.support import (
    actions,
    ask,
    at,
    boot_to_ready,
    boot_to_up,
    boots,
    enable,
    fetch,
    kind,
    noon,
    report,
    stored,
)

__all__ = ["reporting"]


# Until and persistent


@pytest.mark.parametrize(
    "order",
    [{"lifetime": "persistent"}, {"lifetime": "until", "expires_at": noon(days=1000)}],
    ids=["persistent", "until"],
)
def test_a_lasting_rescue_goes_back_to_booting_at_the_next_boot(
    client: Client, machine: Machine, reporting: RescueImage, order: dict[str, Any]
) -> None:
    rescue = enable(machine, **order)
    boot_to_up(client, rescue)
    assert kind(ask(client)) == "rescue"
    found = stored(rescue)
    assert (found.state, found.ready_at, found.up_at, found.boot_id) == ("booting", None, None, "")
    assert (found.address, found.hostname, found.host_keys) == (None, "", [])
    assert boots()[-1].reason == "rescue_booting"


def test_a_lasting_rescue_comes_up_again_with_another_boot_id(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine, lifetime="persistent")
    boot_to_up(client, rescue)
    boot_to_up(client, rescue, boot_id="b-2")
    assert (stored(rescue).state, stored(rescue).boot_id) == ("up", "b-2")


def test_a_late_report_of_the_boot_before_is_too_early_for_the_next(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine, lifetime="persistent")
    boot_to_up(client, rescue)
    ask(client)
    assert report(client, rescue).status_code == 409


# Expiry


@pytest.fixture
def expiring(machine: Machine, image: RescueImage) -> Rescue:
    """A rescue until one o'clock, enabled at noon."""
    with at(noon()):
        return enable(machine, lifetime="until", expires_at=noon(hours=1))


def test_until_its_expiry_a_rescue_is_served(client: Client, expiring: Rescue) -> None:
    with at(noon(minutes=59)):
        assert kind(ask(client)) == "rescue"


def test_from_its_expiry_on_a_rescue_is_a_pass_through(client: Client, expiring: Rescue) -> None:
    with at(noon(hours=1)):
        assert kind(ask(client)) == "local"
    assert [entry.reason for entry in boots()] == ["rescue_expired"]


def test_expiry_is_computed_on_reading(expiring: Rescue) -> None:
    found = stored(expiring)
    status = found.status_at(noon(hours=2))
    assert (status.state, status.end_cause, status.ended_at) == ("ended", "expired", noon(hours=1))
    assert found.state == "armed"


def test_an_expired_rescue_is_shown_as_ended(expiring: Rescue) -> None:
    shown = rescue_json(stored(expiring), noon(hours=2))
    assert (shown["state"], shown["end_cause"], shown["ended_at"]) == ("ended", "expired", "2026-03-01T13:00:00Z")


@pytest.mark.parametrize("name", ["kernel", "ready", "rescue.cpio"])
def test_an_expired_token_is_dead(client: Client, expiring: Rescue, name: str) -> None:
    with at(noon()):
        ask(client)
    with at(noon(hours=1)):
        assert fetch(client, expiring, name).status_code == 404


def test_a_report_of_an_expired_rescue_is_not_heard(client: Client, machine: Machine, reporting: RescueImage) -> None:
    with at(noon()):
        rescue = enable(machine, expires_at=noon(hours=1))
        boot_to_ready(client, rescue)
    with at(noon(hours=1)):
        assert report(client, rescue).status_code == 404


def test_one_boot_may_have_an_expiry_too(client: Client, machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        enable(machine, expires_at=noon(hours=1))
    with at(noon(hours=1)):
        assert kind(ask(client)) == "local"


def test_an_expired_rescue_cannot_be_disabled(expiring: Rescue, actor: Actor) -> None:
    with at(noon(hours=1)), pytest.raises(NoActiveRescueError):
        expiring.disable(actor)


def test_enabling_ends_an_expired_rescue_as_of_its_expiry(machine: Machine, expiring: Rescue) -> None:
    with at(noon(hours=5)):
        second = enable(machine)
    found = stored(expiring)
    assert (found.state, found.ended_at, found.end_cause, found.token) == ("ended", noon(hours=1), "expired", None)
    assert stored(second).state == "armed"


def test_the_end_by_expiry_leaves_an_entry_before_that_of_the_next(machine: Machine, expiring: Rescue) -> None:
    with at(noon(hours=5)):
        enable(machine)
    assert actions(machine) == ["machine_added", "rescue_enabled", "rescue_ended", "rescue_enabled"]
    entry = AuditEntry.objects.get(action="rescue_ended")
    assert (entry.at, entry.details) == (
        noon(hours=5),
        {"end_cause": "expired", "ended_at": noon(hours=1).isoformat()},
    )


def test_enabling_that_fails_does_not_end_the_expired_one(machine: Machine, expiring: Rescue) -> None:
    RescueImage.objects.get().files.all().delete()
    with at(noon(hours=5)), pytest.raises(NoUsableImageError):
        enable(machine)
    assert stored(expiring).state == "armed"
    assert actions(machine) == ["machine_added", "rescue_enabled"]


# Images that do not report


def test_an_image_that_does_not_report_counts_as_up_two_minutes_after_ready(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    rescue = enable(machine)
    with at(noon()):
        boot_to_ready(client, rescue)
    found = stored(rescue)
    assert found.status_at(noon(seconds=119)).state == "booting"
    assert (found.status_at(noon(seconds=120)).state, found.status_at(noon(seconds=120)).up_at) == (
        "up",
        noon(seconds=120),
    )


def test_one_that_does_not_report_is_used_up_by_the_next_boot(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    rescue = enable(machine)
    with at(noon()):
        boot_to_ready(client, rescue)
    with at(noon(seconds=120)):
        assert kind(ask(client)) == "local"
    found = stored(rescue)
    assert (found.state, found.end_cause, found.up_at) == ("ended", "next_boot", noon(seconds=120))
    assert boots()[-1].reason == "rescue_used"


def test_one_that_does_not_report_is_served_again_before_two_minutes(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    rescue = enable(machine)
    with at(noon()):
        boot_to_ready(client, rescue)
    with at(noon(seconds=119)):
        assert kind(ask(client)) == "rescue"


def test_a_script_served_in_between_starts_the_two_minutes_again(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    rescue = enable(machine)
    with at(noon()):
        boot_to_ready(client, rescue)
    with at(noon(seconds=100)):
        ask(client)
    assert stored(rescue).status_at(noon(hours=1)).state == "booting"
    with at(noon(seconds=110)):
        fetch(client, rescue, "ready")
    assert stored(rescue).status_at(noon(seconds=229)).state == "booting"
    assert stored(rescue).status_at(noon(seconds=230)).state == "up"


def test_one_that_reports_never_counts_as_up_by_itself(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    with at(noon()):
        boot_to_ready(client, rescue)
    assert stored(rescue).status_at(noon(days=1)).state == "booting"


def test_a_lasting_silent_rescue_boots_again_from_silently_up(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    rescue = enable(machine, lifetime="persistent")
    with at(noon()):
        boot_to_ready(client, rescue)
    with at(noon(minutes=5)):
        assert kind(ask(client)) == "rescue"
    assert (stored(rescue).state, stored(rescue).ready_at) == ("booting", None)


def test_a_rescue_that_expires_while_silently_up_was_up(client: Client, machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        rescue = enable(machine, lifetime="until", expires_at=noon(minutes=10))
        boot_to_ready(client, rescue)
    with at(noon(hours=1)):
        enable(machine)
    assert (stored(rescue).up_at, stored(rescue).ended_at) == (noon(minutes=2), noon(minutes=10))


def test_a_rescue_that_expires_before_it_is_silently_up_never_was(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    with at(noon()):
        rescue = enable(machine, lifetime="until", expires_at=noon(minutes=1))
        boot_to_ready(client, rescue)
    assert stored(rescue).status_at(noon(hours=1)).up_at is None
    with at(noon(hours=1)):
        enable(machine)
    assert stored(rescue).up_at is None


# Disabling


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_rescue_can_be_disabled_in_every_state(
    client: Client, machine: Machine, reporting: RescueImage, actor: Actor, steps: int
) -> None:
    rescue = enable(machine)
    for step in (ask, lambda c: fetch(c, rescue, "ready"), lambda c: report(c, rescue))[:steps]:
        step(client)
    with at(noon()):
        stored(rescue).disable(actor, "repaired")
    found = stored(rescue)
    assert (found.state, found.end_cause, found.ended_at) == ("ended", "disabled", noon())
    assert kind(ask(client)) == "local"


def test_disabling_leaves_an_entry_with_who_when_and_why(machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    with at(noon()):
        rescue.disable(Actor("bob", source="192.0.2.3"), "repaired")
    entry = AuditEntry.objects.get(action="rescue_disabled")
    assert (entry.at, entry.actor, entry.source) == (noon(), "bob", "192.0.2.3")
    assert (entry.machine, entry.rescue_pk, entry.reason) == ("web01", rescue.pk, "repaired")
    assert entry.details["end_cause"] == "disabled"


def test_a_rescue_read_before_it_changed_is_disabled_all_the_same(
    client: Client, machine: Machine, image: RescueImage, actor: Actor
) -> None:
    read_before = enable(machine)
    ask(client)
    read_before.disable(actor)
    assert stored(read_before).state == "ended"


def test_disabling_twice_is_refused(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = enable(machine)
    again = stored(rescue)
    rescue.disable(actor)
    with pytest.raises(NoActiveRescueError, match="web01 has no active rescue"):
        again.disable(actor)
    assert actions(machine).count("rescue_disabled") == 1


def test_the_token_dies_with_its_rescue(client: Client, machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = enable(machine)
    ask(client)
    token = rescue.token
    stored(rescue).disable(actor)
    assert stored(rescue).token is None
    for name in ("kernel", "initrd", "rescue.cpio", "ready"):
        assert client.get(f"/boot/{token}/{name}").status_code == 404
    assert client.post(f"/boot/{token}/up").status_code == 404


def test_a_reason_for_disabling_that_is_too_long_is_refused(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = enable(machine)
    with pytest.raises(ValidationError):
        rescue.disable(actor, "x" * 501)


def test_a_machine_that_is_deleted_takes_its_rescue_along_and_leaves_its_log(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    rescue = enable(machine)
    ask(client)
    machine_pk = machine.pk
    machine.delete()
    assert fetch(client, rescue, "kernel").status_code == 404
    assert AuditEntry.objects.filter(machine_pk=machine_pk).count() == 3
