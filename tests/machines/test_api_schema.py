"""The API does what its OpenAPI description says, whatever it is asked: no fault, no answer that is not described."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from machines.models import Actor, APIToken, Machine, Rescue, RescueImage, Sighting
from machines.models.rescue_terms import RescueRequest
from rescuesite.api.throttling import TokenThrottle
from roms.models import Build, Card, FlashJob, FlashKind, Station
from roms.toolchain.ipxe.script.spec import from_json
from tests.roms.conftest import SCRIPT, succeeded

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: What there is, by the names of parameters in paths: half of the requests are for it.
THERE = {"name": ["web01", "tiny", "local"], "key": ["8086:1229"], "id": ["1", "2"]}


SCHEMA = schemathesis.openapi.from_dict(SchemaGenerator().get_schema(request=None, public=True))  # type: ignore[no-untyped-call]


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The site; as a server does, and the client does not, it closes what was sent."""
    response = WSGIHandler()(environ, start_response)
    with contextlib.closing(response):
        return [b"".join(response)]


SCHEMA.app = application
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]  # type: ignore[union-attr]


@pytest.fixture
def token(admin_user: User, machine: Machine, image: RescueImage, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One that may do all, where there is one of everything."""
    monkeypatch.setattr(TokenThrottle, "THROTTLE_RATES", {"token": None})
    card = Card.objects.create(
        slug="8086:1229", pci_id="8086:1229", name="Intel PRO/100", programmer="nicintel", chip_size=65536
    )
    station = Station.objects.create(name="local")
    succeeded(card, b"\x55\xaa" + bytes(1022))
    Build.of(from_json(SCRIPT), card=card).submit(Actor("alice"))
    FlashJob(action=FlashKind.SAVE, card=card, station=station, slot="0000:03:00.0").submit(Actor("alice"))
    Sighting.objects.create(mac="52:54:00:00:00:01", said={"serial": "x"})
    Rescue.objects.enable(machine, RescueRequest(reason="RAID"), Actor("alice"))
    # As Django's own test client does: what closes connections between requests would close the test's transaction.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield APIToken.objects.make(admin_user, "program")[1]
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
def test_every_answer_is_described(operation: Any, token: str) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        for name, value in case.path_parameters.items():
            # Every other request is for what is there: by chance nobody would ask for that.
            if (known := THERE.get(name, [])) and len(str(value)) % 2:
                case.path_parameters[name] = known[len(str(value)) // 2 % len(known)]
        case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Token {token}"})

    ask()
