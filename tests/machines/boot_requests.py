"""What tests of the boot address share."""

from __future__ import annotations

from typing import Any

import pytest

from machines.models import Actor, Machine

FORBIDDEN = ("Location", "Retry-After", "Content-Encoding", "Set-Cookie", "Vary")
UNKNOWN = "52:54:00:12:34:56"


@pytest.fixture
def elsewhere(db: None, actor: Actor) -> Machine:
    """A machine that may ask from addresses where the test client is not, unless it says so."""
    return Machine.objects.add("web02", macs=[UNKNOWN], allowed_networks=["192.0.2.0/24"], actor=actor)


def assert_valid(response: Any) -> None:
    """What holds for every answer of the boot address."""
    assert response.status_code == 200
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    assert response["Content-Length"] == str(len(response.content))
    assert response.content.startswith(b"#!ipxe\nset rescuesite ")
    assert response.content.endswith(b"\niseq ${platform} efi && exit 1 ||\nexit 0\n")
    assert not [name for name in FORBIDDEN if name in response]
    assert not response.cookies
