"""What tests of the ROMs' pages share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from machines.models import Machine, StoredFile
from roms.models import Build, Card, FlashJob, FlashKind, Station
from roms.toolchain.ipxe.script.spec import from_json
from tests.roms.conftest import SCRIPT, succeeded

BUILDS, FLASH, CARDS = "/admin/roms/build/", "/admin/roms/flashjob/", "/admin/roms/card/"
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def build(card: Card, data_dir: Path) -> Build:
    """A build of 50,000 bytes that succeeded."""
    return succeeded(card, b"\x55\xaa" + bytes(49_998))


@pytest.fixture
def job(build: Build, station: Station, machine: Machine) -> FlashJob:
    """A queued flash job for web01."""
    assert build.card
    return FlashJob.objects.create(
        action=FlashKind.FLASH, station=station, card=build.card, build=build, machine=machine, machine_name="web01",
        pci_id=build.card.pci_id, programmer=build.card.programmer,
    )  # fmt: skip


def queued(card: Card, **values: Any) -> Build:
    build = Build.of(from_json(SCRIPT), card=card, **values)
    build.clean()
    build.save()
    return build


def saved(job: FlashJob, contents: bytes = b"old contents", **values: Any) -> FlashJob:
    """The job, with what it has saved of the chip."""
    stored = StoredFile.objects.store([contents])
    for name, value in {"backup": stored, "backup_sha256": stored.sha256, **values}.items():
        setattr(job, name, value)
    job.save()
    return job


def build_form(card: Card | None = None, /, **changes: Any) -> dict[str, Any]:
    """What the browser posts."""
    return {
        "card": card.pk if card else "", "target": "rom", "profile": "minimal", "options": "", "banner": "",
        "source": "form", "site": "http://192.0.2.10", "network": "dhcp", "variables": ["uuid", "serial"],
        "tries": "3", "timeout": "8", "link_wait": "15", "stp_wait": "0", "dhcp_wait": "15", "nic": "", "text": "",
        **changes,
    }  # fmt: skip


def errors(response: Any) -> dict[str, list[str]]:
    """What is wrong, by field."""
    return {name: list(texts) for name, texts in response.context["form"].errors.items()}
