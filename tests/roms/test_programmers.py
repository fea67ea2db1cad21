"""A card's programmer comes from a closed list: whoever may change cards and flash reaches cards, and no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.test import Client

from machines.models import Actor, AuditEntry
from roms.models import Card, FlashJob, FlashKind, JobState, Station
from roms.toolchain.flash.flashrom import Flashrom
from roms.worker.flashing import FlashRun

ALICE = Actor("alice")
CARDS = "/admin/roms/card/"
SECRET = bytes(range(256)) * 256


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the server's, as large as flashrom's dummy takes it for a chip."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def reading(path: Path) -> str:
    # SQLite keeps texts of any length; PostgreSQL has no room for a path.
    is_bounded = connection.vendor != "sqlite"
    return "dummy:size=65536" if is_bounded else f"dummy:emulate=VARIABLE_SIZE,size=65536,image={path}"


def run(job: FlashJob) -> FlashJob:
    FlashRun.claim_and_run(job.pk)
    job.refresh_from_db()
    return job


def refused(**order: object) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as error:
        FlashJob(**order).submit(ALICE)
    return error.value.message_dict


@pytest.mark.parametrize(
    "programmer",
    [
        *("dummy", "dummy:emulate=VARIABLE_SIZE,size=65536,image=/etc/shadow", "nicintel:image=/etc/shadow"),
        *("linux_mtd:dev=0", "serprog:dev=/dev/ttyS0", "internal", "nicintel_eeprom", "nicintel,image=x"),
    ],
)
def test_who_may_add_cards_gives_them_no_programmer_but_those_for_network_cards(
    programmer: str, staff: Callable[..., Client]
) -> None:
    client = staff("add_card", "change_card", "view_card", "flash_rom")
    form = {"name": "Mine", "pci_id": "8086:10d3", "programmer": programmer}
    response = client.post(f"{CARDS}add/", form)
    assert "programmer" in response.context["adminform"].form.errors
    assert not Card.objects.exists()
    with pytest.raises(ValidationError, match="programmer"):
        Card(slug="x", **form).full_clean()


def test_who_may_change_cards_does_not_change_the_practice_card(admin_client: Client, db: None) -> None:
    Card.objects.load_curated()
    practice = Card.objects.get(slug="practice")
    before = practice.snapshot()
    form = {"programmer": "nicintel", "chip_size": "1073741824", "notes": "Mine.", "pci_id": "8086:10d3"}
    assert admin_client.post(f"{CARDS}{practice.pk}/change/", form).status_code == 403
    practice.refresh_from_db()
    assert practice.snapshot() == before
    assert practice.origin == Card.Origin.CURATED


def test_nobody_makes_or_becomes_the_practice_card(staff: Callable[..., Client], card: Card) -> None:
    client = staff("add_card", "change_card", "view_card")
    form = {"name": "Mine", "pci_id": "8086:10d3", "slug": "practice"}
    client.post(f"{CARDS}add/", form)
    client.post(f"{CARDS}{card.pk}/change/", form)
    assert not Card.objects.filter(slug="practice").exists()


def test_the_site_keeps_its_practice_card_as_it_is(db: None) -> None:
    Card.objects.create(slug="practice", pci_id="8086:1229", name="x", programmer="nicintel", chip_size=1 << 30)
    Card.objects.load_curated()
    practice = Card.objects.get(slug="practice")
    assert (practice.programmer, practice.chip_size, practice.origin) == ("dummy", 65536, "curated")


# At use, whatever the database holds


def test_a_card_with_another_programmer_is_refused_when_a_job_is_ordered(
    station: Station, data_dir: Path, secret: Path
) -> None:
    card = Card.objects.create(slug="8086:10d3", pci_id="8086:10d3", name="x", programmer=reading(secret))
    said = refused(station=station, card=card, action=FlashKind.SAVE)
    assert "is not a programmer for network cards" in said["card"][0]


@pytest.mark.parametrize("action", [FlashKind.SAVE, FlashKind.RESTORE])
def test_a_job_of_such_a_card_reads_and_writes_no_file(
    action: str, station: Station, practice: Card, data_dir: Path, secret: Path
) -> None:
    saved = run(FlashJob(station=station, card=practice, action=FlashKind.SAVE).submit(ALICE))
    card = Card.objects.create(slug="8086:10d3", pci_id="8086:10d3", name="x", programmer=reading(secret))
    # Past every check.
    job = FlashJob.objects.create(
        station=station, card=card, action=action, restores=saved if action == FlashKind.RESTORE else None,
        pci_id=card.pci_id, programmer=card.programmer,
    )  # fmt: skip
    assert run(job).state == JobState.FAILED
    assert "is not a programmer for network cards" in job.error
    assert job.backup is None
    assert secret.read_bytes() == SECRET


def test_a_card_that_was_changed_since_the_job_was_ordered_is_not_touched(
    station: Station, practice: Card, data_dir: Path
) -> None:
    job = FlashJob(station=station, card=practice, action=FlashKind.SAVE).submit(ALICE)
    Card.objects.filter(pk=practice.pk).update(pci_id="8086:10d3")
    assert run(job).state == JobState.FAILED
    assert "Order the job again" in job.error
    assert not station.practice_chip.exists()


@pytest.mark.parametrize("slot", ["03:00.0,a=/b", "03:00.0=", "/etc", "03:00.0\n"])
def test_who_may_flash_names_a_slot_and_nothing_else(slot: str, station: Station, card: Card, data_dir: Path) -> None:
    assert "slot" in refused(station=station, card=card, action=FlashKind.SAVE, slot=slot)
    job = FlashJob.objects.create(
        station=station, card=card, action=FlashKind.SAVE, slot=slot, pci_id=card.pci_id, programmer="nicintel"
    )
    assert run(job).state == JobState.FAILED
    assert "is not a valid PCI address" in job.error


@pytest.mark.parametrize("name", ["--image=/etc/shadow", "-o/etc/cron.d/x", "\x1b[2J", "a\nb", " x", "é"])
def test_who_may_flash_names_a_chip_and_no_option(name: str, station: Station, card: Card, data_dir: Path) -> None:
    assert "chip_name" in refused(station=station, card=card, action=FlashKind.SAVE, chip_name=name)


@pytest.mark.parametrize("name", ["Am29F010A/B", "Am29F002(N)BB", "Opaque flash chip", "M25P10.RES", "39SF512"])
def test_the_names_of_chips_are_taken(name: str, station: Station, card: Card, data_dir: Path) -> None:
    job = FlashJob(station=station, card=card, action=FlashKind.SAVE, chip_name=name).submit(ALICE)
    assert Flashrom(card.programmer_at(station), chip=job.chip_name).probe()[:5] == [
        *("flashrom", "-p", "nicintel", "-c", name)
    ]


# What was saved goes back where it came from


@pytest.fixture
def saved(station: Station, practice: Card, data_dir: Path) -> FlashJob:
    return run(FlashJob(station=station, card=practice, action=FlashKind.SAVE).submit(ALICE))


def restore(saved: FlashJob, **changes: Any) -> FlashJob:
    job = saved.restoring()
    for name, value in changes.items():
        setattr(job, name, value)
    return job.submit(ALICE)


def test_the_practice_chips_contents_get_into_no_real_card(saved: FlashJob, card: Card) -> None:
    assert card.pci_id == saved.card.pci_id
    with pytest.raises(ValidationError, match="only to the same card"):
        restore(saved, card=card)


def test_a_backup_is_not_restored_with_another_programmer(saved: FlashJob, card: Card) -> None:
    FlashJob.objects.filter(pk=saved.pk).update(card=card, programmer="nicintel")
    Card.objects.filter(pk=card.pk).update(programmer="nicintel_spi")
    with pytest.raises(
        ValidationError, match=r"with nicintel\. They are written back only to the same card, but .* with nicintel_spi"
    ):
        restore(FlashJob.objects.get(pk=saved.pk))


def test_a_backup_is_not_restored_to_a_card_that_is_said_to_be_another(saved: FlashJob, card: Card) -> None:
    FlashJob.objects.filter(pk=saved.pk).update(card=card, programmer="nicintel")
    Card.objects.filter(pk=card.pk).update(pci_id="8086:1209")
    with pytest.raises(ValidationError, match=r"as 8086:1229 .* is 8086:1209"):
        restore(FlashJob.objects.get(pk=saved.pk))


def test_a_backup_is_not_restored_to_a_chip_of_another_kind(
    saved: FlashJob, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    FlashJob.objects.filter(pk=saved.pk).update(chip_found="AMD Am29F512 (64 KiB)")
    job = run(restore(FlashJob.objects.get(pk=saved.pk)))
    assert (job.state, job.refusal, job.backup) == (JobState.FAILED, "wrong_chip", None)
    assert "AMD Am29F512" in job.error


def test_another_flashrom_may_call_the_same_chip_otherwise(saved: FlashJob) -> None:
    FlashJob.objects.filter(pk=saved.pk).update(chip_found="AMD Am29F512 (64 KiB)", flashrom_version="1.2")
    assert run(restore(FlashJob.objects.get(pk=saved.pk))).state == JobState.SUCCEEDED


# What the database holds from before


@pytest.mark.django_db(transaction=True)
def test_what_is_not_in_the_list_is_blanked_with_a_note(data_dir: Path) -> None:
    executor = MigrationExecutor(connection)
    executor.migrate([("roms", "0002_safe_profile_by_default")])
    old = executor.loader.project_state([("roms", "0002_safe_profile_by_default")]).apps
    card, job = old.get_model("roms", "Card"), old.get_model("roms", "FlashJob")
    station = old.get_model("roms", "Station").objects.create(name="local")
    for slug, programmer in {
        "practice": "dummy",
        "8086:1229": "nicintel",
        "8086:10d3": "dummy:emulate=VARIABLE_SIZE,size=65536,image=/etc/shadow",
        "1106:3249": "atavia:offset=0x10",
        "10b7:9200": "",
    }.items():
        pci_id = slug if ":" in slug else "8086:1229"
        row = card.objects.create(slug=slug, pci_id=pci_id, name=slug, programmer=programmer, notes="Ours.")
        job.objects.create(station=station, card=row, action="save")

    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())

    found = {one.slug: one for one in Card.objects.all()}
    assert {slug: one.programmer for slug, one in found.items()} == {
        "practice": "dummy", "8086:1229": "nicintel", "8086:10d3": "", "1106:3249": "", "10b7:9200": ""
    }  # fmt: skip
    assert found["8086:1229"].notes == "Ours."
    assert found["8086:10d3"].notes.startswith("Ours.\nIts programmer was “dummy:emulate=")
    assert {one.card.slug: one.programmer for one in FlashJob.objects.all()} == {
        slug: one.programmer for slug, one in found.items()
    }
    entries = AuditEntry.objects.filter(action="card_changed")
    assert {entry.details["before"]["programmer"] for entry in entries} == {
        "dummy:emulate=VARIABLE_SIZE,size=65536,image=/etc/shadow", "atavia:offset=0x10"
    }  # fmt: skip
