"""What a rescue keeps, and its state in SQL, in previews and in the database's own rules."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from machines.boot.handler import preview
from machines.boot.request import BootRequest
from machines.models import Actor, MACAddress, Machine, Rescue, RescueImage
from machines.models.rescue import effective_state
from machines.representation import rescue_json
from tests.conftest import MAC
from tests.machines.support import (
    ask,
    at,
    body,
    enable,
    everything,
    fetch,
    kind,
    noon,
    stored,
)


@pytest.fixture
def chaining(db: None) -> RescueImage:
    image = RescueImage.objects.create(
        name="chain", chain_script="#!ipxe\nkernel vmlinuz initrd=x ${y}\nboot\n", is_default=True
    )
    image.attach("file", [b"a further kernel"], "vmlinuz")
    return image


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
    found = Rescue.objects.annotate(effective_state=effective_state(now)).get()
    assert found.effective_state == found.status_at(now).state  # type: ignore[attr-defined]
    assert Rescue.objects.active(now).exists() is not found.status_at(now).is_ended


@pytest.mark.parametrize("seconds", [119, 120, 121])
@pytest.mark.parametrize("served", [-1, 0, 1])
def test_the_two_minutes_are_the_same_in_sql(machine: Machine, image: RescueImage, seconds: int, served: int) -> None:
    rescue = enable(machine)
    Rescue.objects.filter(pk=rescue.pk).update(
        state="booting", served_at=noon() + timedelta(seconds=served), ready_at=noon()
    )
    found = Rescue.objects.annotate(effective_state=effective_state(noon(seconds=seconds))).get()
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
