"""What tests of notifications share."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from django.conf import LazySettings

from machines.models import Actor, Delivery, Machine, NotificationRule, RescueImage
from machines.notifications.events import Event
from tests.receiver import Receiver

ALICE = Actor("alice")
LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def receiver(settings: LazySettings) -> Iterator[Receiver]:
    settings.RESCUESITE_WEBHOOK_NETWORKS = LOOPBACK
    with Receiver() as taking:
        yield taking


def rule(receiver: Receiver | None = None, *machines: Machine, **values: Any) -> NotificationRule:
    """A rule that tells of everything, unless `values` say otherwise."""
    given = {
        "name": "chat",
        "url": receiver.url if receiver else "http://chat.example.net/",
        "events": list(Event.values),
    }
    made = NotificationRule(**(given | {"all_machines": not machines} | values))
    made.issue(machines, ALICE)
    return made


def messages() -> list[tuple[str, str]]:
    return list(Delivery.objects.order_by("pk").values_list("event", "machine"))


def texts() -> list[str]:
    return [message.payload["text"] for message in Delivery.objects.order_by("pk")]


@pytest.fixture
def furnished(machine: Machine, image: RescueImage) -> Machine:
    return machine
