"""A rescue's life: armed, booting, up, ended; as drawn in the design."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from machines.boot.handler import preview
from machines.boot.request import BootRequest
from machines.models import Actor, AuditEntry, MACAddress, Machine, Rescue, RescueImage
from machines.models.rescue_terms import NoActiveRescueError, NoUsableImageError, RescueActiveError, RescueRequest
from machines.representation import rescue_json
from tests.conftest import MAC
from tests.machines.support import (
    HOST_KEY,
    OTHER_KEY,
    actions,
    ask,
    at,
    body,
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


@pytest.fixture
def reporting(image: RescueImage) -> RescueImage:
    """The default image, which reports."""
    image.reports = True
    image.save()
    return image


@pytest.fixture
def chaining(db: None) -> RescueImage:
    image = RescueImage.objects.create(
        name="chain", chain_script="#!ipxe\nkernel vmlinuz initrd=x ${y}\nboot\n", is_default=True
    )
    image.attach("file", [b"a further kernel"], "vmlinuz")
    return image


# Enabling


def test_an_enabled_rescue_is_armed(machine: Machine, image: RescueImage, actor: Actor) -> None:
    with at(noon()):
        rescue = Rescue.objects.enable(machine, RescueRequest(reason="disk is dead"), actor)
    found = stored(rescue)
    assert (found.state, found.lifetime, found.expires_at, found.image) == ("armed", "one-boot", None, image)
    assert (found.reason, found.enabled_by_name, found.enabled_at) == ("disk is dead", "tester", noon())
    assert found.served_at is None


def test_a_user_who_enables_is_remembered(machine: Machine, image: RescueImage) -> None:
    ada = User.objects.create_user("ada")
    found = stored(Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(ada)))
    assert (found.enabled_by, found.enabled_by_name) == (ada, "ada")


def test_who_enabled_is_remembered_when_the_user_is_gone(machine: Machine, image: RescueImage) -> None:
    ada = User.objects.create_user("ada")
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(ada))
    ada.delete()
    assert (stored(rescue).enabled_by, stored(rescue).enabled_by_name) == (None, "ada")


def test_tokens_are_long_and_differ(machine: Machine, image: RescueImage, actor: Actor) -> None:
    first = enable(machine)
    token = first.token
    first.disable(actor)
    second = enable(machine)
    assert token
    assert second.token
    assert token != second.token
    assert min(len(token), len(second.token)) >= 32


def test_enabling_leaves_an_entry_with_who_when_and_why(machine: Machine, image: RescueImage, actor: Actor) -> None:
    with at(noon()):
        rescue = Rescue.objects.enable(machine, RescueRequest(reason="disk is dead"), actor)
    entry = AuditEntry.objects.get(action="rescue_enabled")
    assert (entry.at, entry.actor, entry.machine, entry.reason) == (noon(), "tester", "web01", "disk is dead")
    assert (entry.rescue_pk, entry.subject, entry.details["lifetime"]) == (rescue.pk, "tiny", "one-boot")
    assert set(entry.details["files"]) == {"kernel", "initrd"}


def test_enabling_twice_is_refused_and_says_who_did(machine: Machine, image: RescueImage) -> None:
    enable(machine)
    with pytest.raises(RescueActiveError, match="active already, enabled by tester"):
        enable(machine)
    assert Rescue.objects.count() == 1
    assert actions(machine) == ["machine_added", "rescue_enabled"]


def test_an_image_named_in_the_order_comes_before_the_machines_own(machine: Machine, image: RescueImage) -> None:
    own, other = (RescueImage.objects.create(name=name) for name in ("own", "other"))
    for one in (own, other):
        one.attach("kernel", [b"kernel bytes"])
    machine.image = own
    machine.save()
    assert enable(machine, image=other).image_name == "other"


def test_the_machines_own_image_comes_before_the_default(machine: Machine, image: RescueImage) -> None:
    own = RescueImage.objects.create(name="own")
    own.attach("kernel", [b"kernel bytes"])
    machine.image = own
    machine.save()
    assert enable(machine).image_name == "own"


def test_without_any_image_enabling_is_refused(machine: Machine) -> None:
    with pytest.raises(NoUsableImageError, match="no rescue image"):
        enable(machine)


def test_an_image_without_a_kernel_cannot_be_enabled(machine: Machine, db: None) -> None:
    RescueImage.objects.create(name="empty", is_default=True)
    with pytest.raises(NoUsableImageError, match="has no kernel"):
        enable(machine)
    assert actions(machine) == ["machine_added"]


def test_an_image_that_lost_a_file_cannot_be_enabled(machine: Machine, db: None) -> None:
    image = RescueImage.objects.create(name="lost", is_default=True)
    image.attach("kernel", [b"a kernel to lose before enabling"]).stored.path.unlink()
    with pytest.raises(NoUsableImageError, match="has lost kernel"):
        enable(machine)


def test_a_pasted_reason_becomes_one_line_with_plain_spaces(machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine, reason=" RAID\xa0lost\n two\u200b disks\0 ")
    assert rescue.reason == "RAID lost two disks"


@pytest.mark.parametrize(
    ("order", "fields"),
    [
        ({"lifetime": "forever"}, ["lifetime"]),
        ({"lifetime": "until"}, ["expires_at"]),
        ({"lifetime": "persistent", "expires_at": noon(hours=1)}, ["expires_at"]),
        ({"lifetime": "until", "expires_at": noon()}, ["expires_at"]),
        ({"expires_at": noon(hours=-1)}, ["expires_at"]),
        ({"reason": "x" * 501}, ["reason"]),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_at_its_field(
    machine: Machine, image: RescueImage, order: dict[str, Any], fields: list[str]
) -> None:
    with at(noon()), pytest.raises(ValidationError) as refused:
        enable(machine, **order)
    assert list(refused.value.message_dict) == fields


def test_nobody_is_warned_without_cause(machine: Machine, image: RescueImage) -> None:
    ada = User.objects.create_user("ada")
    ada.ssh_keys.create(public_key=HOST_KEY, fingerprint="f")
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(ada))
    assert rescue.warnings() == []


def test_enabling_without_any_key_warns(machine: Machine, image: RescueImage) -> None:
    [warning] = enable(machine).warnings()
    assert "No SSH key will be delivered" in warning


def test_enabling_an_unverified_machine_warns(db: None, image: RescueImage, actor: Actor) -> None:
    machine = Machine.objects.add("open", macs=[MAC], allowed_networks=[], actor=actor)
    assert any("lists no network, and nothing that only it says" in warning for warning in enable(machine).warnings())


# One boot


def test_a_one_boot_rescue_is_served_again_and_again_until_it_is_up(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    for _ in range(5):
        assert kind(ask(client)) == "rescue"
        fetch(client, rescue, "ready")
    assert stored(rescue).state == "booting"


def test_a_served_rescue_is_booting_and_remembers_to_whom(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    with at(noon()):
        ask(client)
    found = stored(rescue)
    assert (found.state, found.served_at, found.served_to, found.served_mac) == ("booting", noon(), "127.0.0.1", MAC)
    assert [entry.reason for entry in boots()] == ["rescue_armed"]


def test_a_rescue_served_again_is_served_because_it_is_booting(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    enable(machine)
    ask(client)
    ask(client)
    assert [entry.reason for entry in boots()] == ["rescue_armed", "rescue_booting"]


def test_ready_tells_that_all_files_have_arrived(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    with at(noon()):
        boot_to_ready(client, rescue)
    assert (stored(rescue).state, stored(rescue).ready_at) == ("booting", noon())
    assert actions(machine)[-1] == "ready"


def test_a_report_after_ready_moves_the_rescue_to_up(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    with at(noon()):
        response = report(client, rescue, address="192.0.2.50", hostname="rescue", host_keys=f"{HOST_KEY} root@x")
    found = stored(rescue)
    assert (response.status_code, found.state, found.up_at) == (200, "up", noon())
    assert (found.address, found.hostname, found.boot_id) == ("192.0.2.50", "rescue", "b-1")
    assert found.host_keys == [HOST_KEY]


def test_a_report_leaves_an_entry(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    report(client, rescue, address="192.0.2.50", host_keys=HOST_KEY)
    entry = AuditEntry.objects.get(action="up")
    assert (entry.machine, entry.rescue_pk, entry.source) == ("web01", rescue.pk, "127.0.0.1")
    assert (entry.details["address"], entry.details["served_to"]) == ("192.0.2.50", "127.0.0.1")
    assert entry.details["host_keys"][0].startswith("SHA256:")


def test_a_report_in_json_says_the_same(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    response = client.post(
        f"/boot/{rescue.token}/up",
        {"boot_id": "b-1", "address": "2001:db8::5", "hostname": "r", "host_keys": [HOST_KEY, f"{OTHER_KEY} root@x"]},
        content_type="application/json",
    )
    found = stored(rescue)
    assert (response.status_code, response.json()) == (200, {"state": "up"})
    assert (found.address, found.hostname, found.boot_id) == ("2001:db8::5", "r", "b-1")
    assert found.host_keys == [HOST_KEY, OTHER_KEY]


def test_a_report_that_names_no_address_comes_from_its_own(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    report(client, rescue)
    assert stored(rescue).address == "127.0.0.1"


def test_several_host_keys_in_one_form_field_are_read_line_by_line(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    report(client, rescue, host_keys=f"{HOST_KEY} a\n{OTHER_KEY} b\n{HOST_KEY} again\n")
    assert stored(rescue).host_keys == [HOST_KEY, OTHER_KEY]


@pytest.mark.parametrize("junk", ["nonsense", "ssh-ed25519 ÄÄÄÄ", "ssh-ed25519 AAAA", "\0", "x" * 9000])
def test_a_host_key_that_is_none_is_left_out_of_a_report(
    client: Client, machine: Machine, reporting: RescueImage, junk: str
) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    assert report(client, rescue, host_keys=f"{junk}\n{HOST_KEY}").status_code == 200
    assert stored(rescue).host_keys == [HOST_KEY]


def test_what_a_report_says_is_bounded_and_printable(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    report(client, rescue, boot_id="b" * 500, hostname="\x1b[31m" + "h" * 500, address="<script>")
    found = stored(rescue)
    assert (len(found.boot_id), len(found.hostname), found.address) == (64, 253, "127.0.0.1")
    assert found.hostname.isprintable()


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"boot_id": 1, "address": 2, "hostname": [], "host_keys": {"a": 1}}', "application/json", 200),
        (b'{"boot_id": "\\ud800", "hostname": "\\u0000", "host_keys": ["\\ud800"]}', "application/json", 200),
        (b"%00=%ff&boot_id=%00", "application/x-www-form-urlencoded", 200),
        (b"a=1&" * 16_000, "application/x-www-form-urlencoded", 200),
        (b"", "", 200),
        (b"nonsense", "multipart/form-data", 400),
        (b"x" * (64 * 1024 + 1), "application/json", 413),
    ],
    ids=[
        "broken JSON",
        "a JSON list",
        "no UTF-8",
        "deep JSON",
        "JSON of other types",
        "JSON of half characters",
        "a form of bytes",
        "a form of many fields",
        "nothing",
        "a form without its boundary",
        "too long",
    ],
)
def test_a_report_of_any_shape_gets_a_plain_answer(
    client: Client, machine: Machine, reporting: RescueImage, data: bytes, content_type: str, status: int
) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    response = client.generic("POST", f"/boot/{rescue.token}/up", data, content_type=content_type)
    assert response.status_code == status


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["boot_id", "address", "hostname", "host_keys", "x"]),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4),
    )
)
def test_no_report_is_an_error_of_the_site(
    client: Client, machine: Machine, reporting: RescueImage, said: dict[str, Any]
) -> None:
    rescue = machine.current_rescue() or enable(machine)
    boot_to_ready(client, rescue)
    response = client.post(f"/boot/{rescue.token}/up", said, content_type="application/json")
    assert response.status_code in {200, 409}
    rescue.refresh_from_db()
    rescue.disable(Actor("tester"))


def test_a_report_of_an_armed_rescue_is_too_early(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    assert report(client, rescue).status_code == 409
    assert stored(rescue).state == "armed"


def test_a_report_before_ready_is_too_early(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    ask(client)
    assert report(client, rescue).status_code == 409
    assert stored(rescue).state == "booting"


def test_a_repeated_report_changes_nothing(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_up(client, rescue)
    before = everything()
    response = report(client, rescue, address="192.0.2.99", host_keys=OTHER_KEY)
    assert response.status_code == 200
    assert everything() == before


def test_a_report_of_another_boot_while_up_is_refused_and_shown(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    boot_to_up(client, rescue)
    before = Rescue.objects.values().get()
    assert report(client, rescue, boot_id="b-2", address="192.0.2.99").status_code == 409
    assert Rescue.objects.values().get() == before
    entry = AuditEntry.objects.get(action="up_refused")
    assert (entry.machine, entry.details["boot_id"], entry.details["address"]) == ("web01", "b-2", "192.0.2.99")


def test_a_get_of_the_report_address_is_refused(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    response = fetch(client, rescue, "up")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_a_report_needs_no_csrf_token(machine: Machine, reporting: RescueImage) -> None:
    client = Client(enforce_csrf_checks=True)
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    assert report(client, rescue).status_code == 200


def test_a_report_from_outside_the_listed_networks_is_not_heard(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    assert report(client, rescue, source="192.0.2.9").status_code == 404
    assert stored(rescue).state == "booting"


def test_without_networks_a_report_may_come_from_another_address(
    client: Client, actor: Actor, reporting: RescueImage
) -> None:
    machine = Machine.objects.add("open", macs=[MAC], allowed_networks=[], actor=actor)
    rescue = enable(machine)
    ask(client, f"mac={MAC}&ip=127.0.0.1")
    fetch(client, rescue, "ready")
    assert report(client, rescue, source="192.0.2.9", address="192.0.2.9").status_code == 200
    entry = AuditEntry.objects.get(action="up")
    assert (entry.source, entry.details["served_to"]) == ("192.0.2.9", "127.0.0.1")


def test_after_up_the_next_boot_passes_through_and_ends_it(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    boot_to_up(client, rescue)
    with at(noon(days=1000)):
        made = ask(client)
    found = stored(rescue)
    assert "echo The rescue of this machine was for one boot and has been used" in made.splitlines()
    assert (found.state, found.end_cause, found.ended_at) == ("ended", "next_boot", noon(days=1000))
    assert [entry.reason for entry in boots()] == ["rescue_armed", "rescue_used"]


def test_the_end_at_the_next_boot_leaves_an_entry(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_up(client, rescue)
    ask(client)
    entry = AuditEntry.objects.get(action="rescue_ended")
    assert (entry.machine, entry.rescue_pk, entry.details["end_cause"]) == ("web01", rescue.pk, "next_boot")


def test_a_boot_after_the_end_finds_no_rescue(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_up(client, rescue)
    ask(client)
    ask(client)
    assert [entry.reason for entry in boots()] == ["rescue_armed", "rescue_used", "no_rescue"]


def test_a_whole_life_leaves_an_entry_for_each_change(client: Client, machine: Machine, reporting: RescueImage) -> None:
    rescue = enable(machine)
    ask(client)
    for name in ("kernel", "initrd", "rescue.cpio"):
        body(fetch(client, rescue, name))
    fetch(client, rescue, "ready")
    report(client, rescue)
    ask(client)
    assert actions(machine) == [
        "machine_added",
        "rescue_enabled",
        "boot",
        "file_sent",
        "file_sent",
        "file_sent",
        "ready",
        "up",
        "rescue_ended",
        "boot",
    ]


def test_a_report_may_come_after_the_script_was_served_again(
    client: Client, machine: Machine, reporting: RescueImage
) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    ask(client)
    assert report(client, rescue).status_code == 200


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


# Images that chain a script


def test_a_chained_script_is_fetched_under_the_token(client: Client, machine: Machine, chaining: RescueImage) -> None:
    rescue = enable(machine)
    lines = ask(client).splitlines()
    assert f"imgfetch --name script.ipxe --timeout 10000 /boot/{rescue.token}/script.ipxe || goto failed" in lines
    assert "imgexec script.ipxe || goto failed" in lines


def test_a_chained_script_is_served_as_it_was_written(client: Client, machine: Machine, chaining: RescueImage) -> None:
    rescue = enable(machine)
    ask(client)
    response = fetch(client, rescue, "script.ipxe")
    assert body(response) == b"#!ipxe\nkernel vmlinuz initrd=x ${y}\nboot\n"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_its_further_files_are_served_beside_it(client: Client, machine: Machine, chaining: RescueImage) -> None:
    rescue = enable(machine)
    ask(client)
    assert body(fetch(client, rescue, "vmlinuz")) == b"a further kernel"


def test_a_chained_script_counts_as_ready_when_sent(client: Client, machine: Machine, chaining: RescueImage) -> None:
    rescue = enable(machine)
    with at(noon()):
        ask(client)
        fetch(client, rescue, "script.ipxe")
    assert stored(rescue).ready_at == noon()
    assert stored(rescue).status_at(noon(minutes=2)).state == "up"


def test_an_image_with_a_kernel_serves_no_chained_script(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    ask(client)
    assert fetch(client, rescue, "script.ipxe").status_code == 404


# What a rescue keeps


def test_a_rescue_keeps_the_files_its_image_had(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    image.attach("kernel", [b"a newer kernel"])
    image.attach("initrd", [b"one more initrd"])
    image.command_line = "quiet"
    image.save()
    made = ask(client)
    assert "console=ttyS0" in made
    assert "initrd-2" not in made
    assert body(fetch(client, rescue, "kernel")) == b"kernel bytes"


def test_a_rescue_outlives_its_image(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    image.delete()
    assert kind(ask(client)) == "rescue"
    assert body(fetch(client, rescue, "kernel")) == b"kernel bytes"
    assert rescue_json(stored(rescue))["image"] == "tiny"


def test_a_rescue_that_ended_keeps_no_files(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = enable(machine)
    rescue.disable(actor)
    assert not stored(rescue).files.exists()


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
    with pytest.raises(NoActiveRescueError, match="No rescue of web01 is active"):
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


# Preview


def test_a_preview_shows_the_script_without_its_token_and_changes_nothing(machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    before = everything()
    asked = BootRequest.parse(f"mac={MAC}", source=None)
    shown = preview(asked)
    assert shown.reason == "address_not_allowed"
    shown = preview(BootRequest(MAC, MAC, None, machine.parsed_networks[0].network_address))
    assert (shown.outcome, shown.reason) == ("rescue", "rescue_armed")
    assert "/boot/<token>/kernel" in shown.script
    assert rescue.token
    assert rescue.token not in shown.script
    assert everything() == before


# Reading in SQL


STATES = st.sampled_from(["armed", "booting", "up", "ended"])
MOMENTS = st.none() | st.integers(-300, 300).map(lambda seconds: noon(seconds=seconds))


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    state=STATES,
    reports=st.booleans(),
    expires_at=MOMENTS,
    served_at=MOMENTS,
    ready_at=MOMENTS,
    now=st.integers(-400, 500).map(lambda seconds: noon(seconds=seconds)),
)
def test_the_state_in_sql_is_the_state_on_reading(
    machine: Machine,
    image: RescueImage,
    state: str,
    reports: bool,
    expires_at: datetime | None,
    served_at: datetime | None,
    ready_at: datetime | None,
    now: datetime,
) -> None:
    ended = {"ended_at": noon(), "end_cause": "disabled", "token": None}
    Rescue.objects.all().delete()
    Rescue.objects.bulk_create(
        [
            Rescue(
                machine=machine,
                state=state,
                reports=reports,
                expires_at=expires_at,
                served_at=served_at,
                ready_at=ready_at,
                image_name="tiny",
                architecture="x86_64",
                **(ended if state == "ended" else {"token": "t"}),
            )
        ]
    )
    found = Rescue.objects.with_standing(now).get()
    assert found.effective_state == found.status_at(now).state  # type: ignore[attr-defined]
    assert Rescue.objects.active(now).exists() is not found.status_at(now).is_ended


@pytest.mark.parametrize("seconds", [119, 120, 121])
@pytest.mark.parametrize("served", [-1, 0, 1])
def test_the_two_minutes_are_the_same_in_sql(machine: Machine, image: RescueImage, seconds: int, served: int) -> None:
    rescue = enable(machine)
    Rescue.objects.filter(pk=rescue.pk).update(
        state="booting", served_at=noon() + timedelta(seconds=served), ready_at=noon()
    )
    found = Rescue.objects.with_standing(noon(seconds=seconds)).get()
    expected = "up" if seconds >= 120 and served <= 0 else "booting"
    assert {found.effective_state, found.status_at(noon(seconds=seconds)).state} == {expected}  # type: ignore[attr-defined]


# What the database itself refuses


def row(machine: Machine, **changes: Any) -> Rescue:
    return Rescue(**{"machine": machine, "token": "t", "image_name": "tiny", "architecture": "x86_64", **changes})


def ended_row(machine: Machine, **changes: Any) -> Rescue:
    return row(machine, **{"state": "ended", "token": None, "ended_at": noon(), "end_cause": "disabled", **changes})


def refused_by_the_database(*rows: models.Model) -> bool:
    try:
        with transaction.atomic():
            type(rows[0])._default_manager.bulk_create(rows)
    except IntegrityError:
        return True
    return False


def test_a_machine_has_one_rescue_that_is_not_ended(machine: Machine) -> None:
    assert refused_by_the_database(row(machine, token="a"), row(machine, token="b", state="up"))


def test_a_machine_may_have_many_rescues_that_ended(machine: Machine) -> None:
    assert not refused_by_the_database(ended_row(machine), ended_row(machine), row(machine))


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "unknown"},
        {"token": None},
        {"ended_at": noon()},
        {"end_cause": "disabled"},
        {"lifetime": "until"},
        {"lifetime": "persistent", "expires_at": noon()},
        {"lifetime": "forever"},
    ],
)
def test_a_rescue_under_way_is_whole(machine: Machine, changes: dict[str, Any]) -> None:
    assert refused_by_the_database(row(machine, **changes))


@pytest.mark.parametrize("changes", [{"token": "t"}, {"ended_at": None}, {"end_cause": ""}, {"end_cause": "boredom"}])
def test_a_rescue_that_ended_is_whole(machine: Machine, changes: dict[str, Any]) -> None:
    assert refused_by_the_database(ended_row(machine, **changes))


def test_a_token_belongs_to_one_rescue(machine: Machine, actor: Actor) -> None:
    other = Machine.objects.add("web02", macs=[], allowed_networks=[], actor=actor)
    assert refused_by_the_database(row(machine), row(other))


def test_a_rescue_cannot_come_back_from_its_end(machine: Machine, image: RescueImage, actor: Actor) -> None:
    first = enable(machine)
    first.disable(actor)
    enable(machine)
    with pytest.raises(IntegrityError), transaction.atomic():
        Rescue.objects.filter(pk=first.pk).update(state="armed", token="x", ended_at=None, end_cause="")


def test_a_mac_belongs_to_one_machine(machine: Machine, actor: Actor) -> None:
    other = Machine.objects.add("web02", macs=[], allowed_networks=[], actor=actor)
    assert refused_by_the_database(MACAddress(machine=other, address=MAC.upper()))


def test_a_machines_name_is_one_whatever_its_case(machine: Machine) -> None:
    assert refused_by_the_database(Machine(name="WEB01"))


def test_there_is_one_default_image(image: RescueImage) -> None:
    assert refused_by_the_database(RescueImage(name="other", is_default=True))
    assert RescueImage.objects.filter(Q(is_default=True)).count() == 1
