"""A rescue's life: armed, booting, up, ended; as drawn in the design."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage
from machines.models.rescue_terms import NoUsableImageError, RescueActiveError, RescueRequest
from tests.conftest import MAC
from tests.machines.rescue_life import reporting
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

__all__ = ["reporting"]


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
    with pytest.raises(RescueActiveError, match="It was enabled by tester"):
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
    with pytest.raises(NoUsableImageError, match="no default rescue image"):
        enable(machine)


def test_an_image_without_a_kernel_cannot_be_enabled(machine: Machine, db: None) -> None:
    RescueImage.objects.create(name="empty", is_default=True)
    with pytest.raises(NoUsableImageError, match="has no kernel"):
        enable(machine)
    assert actions(machine) == ["machine_added"]


def test_an_image_that_lost_a_file_cannot_be_enabled(machine: Machine, db: None) -> None:
    image = RescueImage.objects.create(name="lost", is_default=True)
    image.attach("kernel", [b"a kernel to lose before enabling"]).stored.path.unlink()
    with pytest.raises(NoUsableImageError, match="kernel is missing"):
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
    assert any("is unverified: it has no allowed network" in warning for warning in enable(machine).warnings())


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
