"""A rescue system that never comes up is started so often; then the machine boots its disk until staff say so."""

from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client

from machines.models import Actor, AuditEntry, Delivery, Machine, NotificationRule, Rescue, RescueImage
from machines.models.rescue_terms import MAX_TRIES, SAME_POWER_ON, NotTriedError
from tests.conftest import MAC
from tests.machines.support import (
    ask,
    at,
    boot_to_ready,
    boot_to_up,
    boots,
    enable,
    everything,
    fetch,
    kind,
    noon,
    report,
    stored,
)

TRY_AGAIN = "/admin/machines/machine/rescue/try-again/"


@pytest.fixture
def reporting(image: RescueImage) -> RescueImage:
    image.reports = True
    image.save()
    return image


def power_on(client: Client, moment: datetime) -> str:
    """What a machine is told that is switched on at `moment`, and whose system does not come up."""
    with at(moment):
        return kind(ask(client))


def fail(client: Client, rescue: Rescue) -> datetime:
    """Start the rescue as often as it may be; returns when it fails."""
    told = [power_on(client, noon(minutes=2 * n)) for n in range(MAX_TRIES)]
    assert told == ["rescue"] * MAX_TRIES
    return noon(minutes=2 * MAX_TRIES)


@pytest.fixture
def rescue(machine: Machine, reporting: RescueImage) -> Rescue:
    with at(noon()):
        return enable(machine)


def test_a_system_that_never_comes_up_is_started_five_times_and_then_the_disk_boots(
    client: Client, rescue: Rescue
) -> None:
    later = fail(client, rescue)
    assert power_on(client, later) == "local"
    assert power_on(client, later + timedelta(days=1)) == "local"
    assert boots()[-1].reason == "rescue_failed"
    assert stored(rescue).state == "booting"


def test_the_console_says_why(client: Client, rescue: Rescue) -> None:
    with at(fail(client, rescue)):
        assert "echo The rescue system of this machine was started several times and never came up" in ask(client)


def test_what_one_power_on_asks_again_within_a_minute_is_one_try(client: Client, rescue: Rescue) -> None:
    for seconds in range(0, 60, 5):
        assert power_on(client, noon(seconds=seconds)) == "rescue"
    assert stored(rescue).tries == 1


def test_a_retry_of_the_last_power_on_is_served_still(client: Client, rescue: Rescue) -> None:
    last = fail(client, rescue) - timedelta(minutes=2)
    assert power_on(client, last + SAME_POWER_ON - timedelta(seconds=1)) == "rescue"
    assert power_on(client, last + SAME_POWER_ON) == "local"


def test_a_machine_that_resets_at_once_does_not_go_on_for_ever(client: Client, rescue: Rescue) -> None:
    """Each reset is within a minute of the one before."""
    told = [power_on(client, noon(seconds=20 * n)) for n in range(20)]
    assert told[: 3 * MAX_TRIES] == ["rescue"] * 3 * MAX_TRIES
    assert told[3 * MAX_TRIES :] == ["local"] * 5


def test_a_clock_that_was_set_back_does_not_stop_the_counting(client: Client, rescue: Rescue) -> None:
    power_on(client, noon(days=30))
    power_on(client, noon())
    assert stored(rescue).tries == 2


def test_strangers_and_looks_do_not_use_tries_up(client: Client, admin_client: Client, rescue: Rescue) -> None:
    with at(noon()):
        ask(client)
    before = everything()["Rescue"]
    for minutes in range(2, 20, 2):
        with at(noon(minutes=minutes)):
            assert kind(ask(client, source="203.0.113.9")) == "refused"
            client.head(f"/boot?mac={MAC}")
            admin_client.get(f"/api/machines/web01/preview/?source=127.0.0.1&mac={MAC}")
    assert everything()["Rescue"] == before


def test_a_report_starts_the_count_anew(client: Client, machine: Machine, reporting: RescueImage) -> None:
    with at(noon()):
        rescue = enable(machine, lifetime="persistent")
    for boot in range(2 * MAX_TRIES):
        with at(noon(minutes=10 * boot)):
            boot_to_up(client, rescue, boot_id=f"b-{boot}")
        assert stored(rescue).tries == 0


def test_a_silent_lasting_rescue_that_counts_as_up_each_time_has_all_its_tries(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    with at(noon()):
        rescue = enable(machine, lifetime="persistent")
    for boot in range(2 * MAX_TRIES):
        with at(noon(minutes=10 * boot)):
            boot_to_ready(client, rescue)
    assert stored(rescue).tries == 1


def test_a_lasting_rescue_counts_from_its_last_time_up(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    with at(noon()):
        rescue = enable(machine, lifetime="persistent")
        boot_to_up(client, rescue)
    told = [power_on(client, noon(minutes=10 + 2 * n)) for n in range(MAX_TRIES + 1)]
    assert told == ["rescue"] * MAX_TRIES + ["local"]


def test_the_fifth_start_may_still_come_up(client: Client, rescue: Rescue) -> None:
    last = fail(client, rescue) - timedelta(minutes=2)
    with at(last):
        fetch(client, rescue, "ready")
    with at(last + timedelta(minutes=10)):
        assert report(client, rescue).status_code == 200
    assert (stored(rescue).state, stored(rescue).tries) == ("up", 0)


def test_a_silent_image_that_counts_as_up_has_not_failed(client: Client, machine: Machine, image: RescueImage) -> None:
    """Of a kernel that panicked after `ready` nobody knows: two minutes later it counts as up, and its boot is used."""
    with at(noon()):
        rescue = enable(machine)
    last = fail(client, rescue) - timedelta(minutes=2)
    with at(last):
        fetch(client, rescue, "ready")
    assert power_on(client, last + timedelta(minutes=5)) == "local"
    assert boots()[-1].reason == "rescue_used"


def test_the_first_refusal_to_start_leaves_one_entry(client: Client, rescue: Rescue) -> None:
    later = fail(client, rescue)
    for hours in range(3):
        power_on(client, later + timedelta(hours=hours))
    (entry,) = AuditEntry.objects.filter(action="rescue_failed")
    assert (entry.machine, entry.at, entry.details) == ("web01", later, {"tries": MAX_TRIES})


def test_others_are_told_once_and_again_after_another_failure(client: Client, rescue: Rescue, actor: Actor) -> None:
    NotificationRule(name="ops", kind="webhook", url="https://hooks.example.net/x", events=["rescue.failed"]).issue(
        [], actor
    )
    later = fail(client, rescue)
    for hours in range(2):
        power_on(client, later + timedelta(hours=hours))
    (told,) = Delivery.objects.filter(event="rescue.failed")
    assert told.payload["text"] == "web01: the rescue has failed, its system never came up"
    stored(rescue).try_again(actor)
    for minutes in range(0, 2 * MAX_TRIES + 2, 2):
        power_on(client, later + timedelta(days=1, minutes=minutes))
    assert Delivery.objects.filter(event="rescue.failed").count() == 2


# Trying again


def test_after_one_click_it_is_started_as_often_as_at_first(
    client: Client, admin_client: Client, machine: Machine, rescue: Rescue
) -> None:
    later = fail(client, rescue)
    with at(later):
        assert kind(ask(client)) == "local"
        page = admin_client.get(f"/admin/machines/machine/{machine.pk}/panel/").content.decode()
        assert f"was started {MAX_TRIES} times and has not come up. The limit is {MAX_TRIES}." in page
        assert f'action="{TRY_AGAIN}"' in page
        admin_client.post(TRY_AGAIN, {"ids": machine.pk})
        assert "1 rescue failed" not in admin_client.get("/admin/").content.decode()
    told = [power_on(client, later + timedelta(minutes=2 * n)) for n in range(MAX_TRIES + 1)]
    assert told == ["rescue"] * MAX_TRIES + ["local"]
    entry = AuditEntry.objects.get(action="rescue_tried_again")
    assert (entry.actor, entry.machine) == ("admin", "web01")


def test_the_front_page_counts_what_has_failed(client: Client, admin_client: Client, rescue: Rescue) -> None:
    with at(fail(client, rescue)):
        ask(client)
        assert "<b>1</b> rescue failed" in admin_client.get("/admin/").content.decode()


def test_looking_at_the_address_tries_nothing_again(client: Client, admin_client: Client, rescue: Rescue) -> None:
    fail(client, rescue)
    assert admin_client.get(f"{TRY_AGAIN}?ids={rescue.machine_id}").status_code == 405
    assert stored(rescue).tries == MAX_TRIES


def test_who_may_not_enable_may_not_try_again(client: Client, rescue: Rescue) -> None:
    fail(client, rescue)
    watcher = User.objects.create_user("watcher", is_staff=True)
    watcher.user_permissions.add(Permission.objects.get(codename="view_machine"))
    client.force_login(watcher)
    assert client.post(TRY_AGAIN, {"ids": rescue.machine_id}).status_code == 403
    assert stored(rescue).tries == MAX_TRIES


def test_a_program_tries_again(client: Client, admin_client: Client, rescue: Rescue) -> None:
    fail(client, rescue)
    assert admin_client.get("/api/machines/web01/rescue/").json()["tries"] == MAX_TRIES
    response = admin_client.post("/api/machines/web01/rescue/try-again/")
    assert (response.status_code, response.json()["tries"]) == (200, 0)
    assert admin_client.post("/api/machines/web01/rescue/try-again/").status_code == 409


def test_the_command_tries_again_and_whoever_waits_is_told(client: Client, rescue: Rescue) -> None:
    power_on(client, fail(client, rescue))
    with pytest.raises(CommandError, match="did not come up"):
        call_command("rescue", "status", "web01", "--wait")
    call_command("rescue", "try-again", "web01", "--json")
    assert stored(rescue).tries == 0
    with pytest.raises(CommandError, match="has not started this rescue system"):
        call_command("rescue", "try-again", "web01")


def test_what_was_not_tried_is_not_tried_again(machine: Machine, image: RescueImage, actor: Actor) -> None:
    with pytest.raises(NotTriedError, match="has not started this rescue system"):
        enable(machine).try_again(actor)


def test_a_rescue_that_is_enabled_anew_has_all_its_tries(
    client: Client, machine: Machine, rescue: Rescue, actor: Actor
) -> None:
    later = fail(client, rescue)
    with at(later):
        stored(rescue).disable(actor)
        enable(machine)
        assert kind(ask(client)) == "rescue"
