"""Fixtures for the tests of ROMs."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import LazySettings

from machines.models import StoredFile
from roms.models import Build, Card, JobState, Station
from roms.toolchain.ipxe.script.spec import from_json
from tests.machines.admin_pages import staff

__all__ = ["staff"]

SCRIPT = {"site": "http://192.0.2.10", "network": "dhcp"}


@pytest.fixture
def data_dir(settings: LazySettings, tmp_path: Path) -> Path:
    """A data directory of this test's own."""
    for name in ("files", "tmp", "job-logs", "stations"):
        (tmp_path / name).mkdir()
    settings.RESCUESITE_DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def card(db: None) -> Card:
    """The card that started it all, with a chip of 64 KiB."""
    return Card.objects.create(
        slug="8086:1229",
        pci_id="8086:1229",
        name="Intel PRO/100",
        driver="eepro100",
        programmer="nicintel",
        chip_size=65536,
    )


@pytest.fixture
def practice(db: None) -> Card:
    """A card that is a file."""
    return Card.objects.create(
        slug="practice", pci_id="8086:1229", name="Practice", driver="eepro100", programmer="dummy", chip_size=65536
    )


@pytest.fixture
def station(db: None) -> Station:
    return Station.objects.create(name="local")


def succeeded(card: Card, rom: bytes, profile: str = "minimal", target: str = "rom") -> Build:
    """A build that has made `rom`."""
    stored = StoredFile.objects.store([rom])
    made = {"state": JobState.SUCCEEDED, "artifact": stored, "size": len(rom), "sha256": stored.sha256}
    build = Build.of(from_json(SCRIPT), card=card, target=target, profile=profile, **made)
    build.clean()
    build.save()
    return build
