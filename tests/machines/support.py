"""What several of these tests need: requests from any address, the clock, and what the site has written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine
from django.db import models
from django.http import HttpResponseBase
from django.test import Client

from machines.models import Actor, AuditEntry, LastContact, Machine, Rescue, Sighting
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC

LOCAL_LINE = "echo No rescue mode requested, exiting"
REFUSED_LINE = "echo IP Failed Match"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

#: A key line, for reports and for what is delivered; made by ssh-keygen.
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILwla1iPsItEMDWjUn2TnKKsZpcCFQq57GnlzzKAjX0"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMd7E95WJRtG8WgkI9nm+a7FDuF1qxX2k+Ao8nguMOqG"


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """The clock stands at `moment`."""
    with time_machine.travel(moment, tick=False):
        yield


def noon(**later: float) -> datetime:
    """Noon of the tests' day, or so much later."""
    return NOON + timedelta(**later)


def ask(
    client: Client, query: str = f"mac={MAC}", *, path: str = "/boot", source: str = "127.0.0.1", **meta: Any
) -> str:
    """The script that a NIC gets."""
    response = client.get(f"{path}?{query}" if query else path, REMOTE_ADDR=source, **meta)
    assert response.status_code == 200
    return response.content.decode()


def kind(script: str) -> str:
    """What a script tells: local, refused or rescue."""
    return script.splitlines()[1].removeprefix("set rescuesite ")


def fetch(client: Client, rescue: Rescue, name: str, *, source: str = "127.0.0.1", **meta: Any) -> HttpResponseBase:
    """Ask for a file. Read it with `body`, or close it."""
    return client.get(f"/boot/{rescue.token}/{name}", REMOTE_ADDR=source, **meta)


def body(response: HttpResponseBase) -> bytes:
    if response.streaming:
        return b"".join(response)
    return response.content  # type: ignore[attr-defined,no-any-return]


def head(client: Client, rescue: Rescue, name: str, **meta: Any) -> HttpResponseBase:
    """Ask for a file's headers; what the site opened is closed, as a server would."""
    response: HttpResponseBase = client.head(f"/boot/{rescue.token}/{name}", **meta)
    for close in response._resource_closers:  # type: ignore[attr-defined]
        close()
    return response


def report(client: Client, rescue: Rescue, *, source: str = "127.0.0.1", **fields: Any) -> HttpResponseBase:
    """What the rescue system posts when it is up."""
    return client.post(f"/boot/{rescue.token}/up", {"boot_id": "b-1", **fields}, REMOTE_ADDR=source)


def enable(machine: Machine, actor: Actor | None = None, **order: Any) -> Rescue:
    return Rescue.objects.enable(machine, RescueRequest(**{"lifetime": "one-boot"} | order), actor or Actor("tester"))


def boot_to_ready(client: Client, rescue: Rescue) -> None:
    assert kind(ask(client)) == "rescue"
    assert fetch(client, rescue, "ready").status_code == 200


def boot_to_up(client: Client, rescue: Rescue, boot_id: str = "b-1") -> None:
    boot_to_ready(client, rescue)
    assert report(client, rescue, boot_id=boot_id).status_code == 200


def stored(rescue: Rescue) -> Rescue:
    """The rescue as the database has it."""
    return Rescue.objects.select_related("machine").get(pk=rescue.pk)


def actions(machine: Machine) -> list[str]:
    """What the log says of a machine, oldest first."""
    return list(AuditEntry.objects.filter(machine_pk=machine.pk).order_by("pk").values_list("action", flat=True))


def boots(**which: Any) -> list[AuditEntry]:
    """The log's entries of boot requests, oldest first."""
    return list(AuditEntry.objects.filter(action="boot", **which).order_by("pk"))


def everything() -> dict[str, list[dict[str, Any]]]:
    """All that a request could have changed."""
    tables: list[type[models.Model]] = [AuditEntry, Sighting, LastContact, Rescue, Machine]
    return {table.__name__: list(table._default_manager.order_by("pk").values()) for table in tables}
