"""What tests of the ROMs' API share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from machines.models import Actor
from roms.models import Build, Card, Job, JobState
from roms.toolchain.ipxe.script.spec import from_json
from tests.roms.conftest import SCRIPT, succeeded

ALICE = Actor("alice")
BUILDS, FLASHES = "/api/rom-builds/", "/api/flash-jobs/"
ORDER = {"card": "8086:1229", "target": "rom", "profile": "minimal", "script": SCRIPT}
ROM = b"\x55\xaa" + bytes(1022)


@pytest.fixture
def build(card: Card, data_dir: Path) -> Build:
    """One that is queued."""
    return Build.of(from_json(SCRIPT), card=card).submit(ALICE)


@pytest.fixture
def built(card: Card, data_dir: Path) -> Build:
    """One that has its ROM."""
    return succeeded(card, ROM)


def ended(job: Job, state: JobState = JobState.SUCCEEDED, error: str = "", **results: Any) -> None:
    job.claim("worker")
    job.finish(state, error, **results)


def post(client: Client, path: str, data: Any = None) -> Any:
    return client.post(path, {} if data is None else data, content_type="application/json")


def may(client: Client, *permissions: str) -> Client:
    """Log in as a user who has just these permissions."""
    user = User.objects.create_user("program")
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client
