"""Flash jobs as workers run them, with the real flashrom on its dummy chip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError

from machines.models import Actor, AuditEntry, Machine, StoredFile
from roms.models import Build, Card, FlashJob, FlashKind, InstalledROM, JobState, Station
from roms.toolchain.ipxe.script.spec import from_json
from roms.toolchain.option_rom import pad
from roms.worker.flashing import FlashRun
from tests.roms.chips import dummy
from tests.roms.conftest import succeeded

ALICE = Actor("alice")
#: A BIOS ROM for 8086:100e, as Debian has it; larger than 64 KiB.
ROM = Path("/usr/lib/ipxe/qemu/pxe-e1000.rom")
SIZE = 128 << 10


@pytest.fixture
def practice(data_dir: Path, db: None) -> Card:
    """The practice card, as large as the ROM needs it."""
    return Card.objects.create(slug="practice", pci_id="8086:100e", name="Practice", programmer="dummy", chip_size=SIZE)


@pytest.fixture
def plays(db: None, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Card]:
    """Lets a card be played by flashrom's dummy with any parameters, in the file `chip`; no user can."""

    def play(emulate: str, **parameters: str) -> Card:
        chip = dummy(data_dir / "chip", emulate, **parameters)
        monkeypatch.setattr(Card, "programmer_at", lambda card, station: chip)
        return Card.objects.create(slug="8086:100e", pci_id="8086:100e", name="x", programmer="nicintel")

    return play


@pytest.fixture
def build(practice: Card) -> Build:
    return succeeded(practice, ROM.read_bytes())


def flash(station: Station, card: Card, **order: object) -> FlashJob:
    """Ask for it and run it to its end."""
    job = FlashJob(station=station, card=card, **order).submit(ALICE)
    FlashRun.claim_and_run(job.pk)
    job.refresh_from_db()
    return job


def test_a_rom_gets_into_the_chip_padded_and_the_old_contents_are_kept(
    station: Station, practice: Card, build: Build, machine: Machine
) -> None:
    station.practice_chip.write_bytes(bytes(SIZE))
    job = flash(station, practice, build=build, machine=machine)
    assert (job.state, job.error) == (JobState.SUCCEEDED, "")
    wanted = pad(ROM.read_bytes(), SIZE)
    assert station.practice_chip.read_bytes() == wanted
    assert (job.wrote, job.written_sha256) == (True, hashlib.sha256(wanted).hexdigest())
    assert job.backup
    assert job.backup.path.read_bytes() == bytes(SIZE)
    assert job.backup_sha256 == job.backup.sha256
    assert "Found Programmer flash chip" in job.log_from()[0]
    for phase in ("probe", "save", "write", "verify"):
        assert f"== {phase}\n" in job.log_from()[0]


def test_the_ledger_knows_what_the_card_holds(station: Station, practice: Card, build: Build, machine: Machine) -> None:
    flash(station, practice, build=build, machine=machine)
    held = InstalledROM.objects.get()
    assert (held.machine, held.card, held.build, held.by) == (machine, practice, build, "alice")
    later = succeeded(practice, ROM.read_bytes())
    flash(station, practice, build=later, machine=machine)
    assert InstalledROM.objects.get().build == later


def test_a_flash_is_on_the_machines_timeline(station: Station, practice: Card, build: Build, machine: Machine) -> None:
    flash(station, practice, build=build, machine=machine)
    entries = AuditEntry.objects.filter(machine_pk=machine.pk, action__startswith="flash_").order_by("pk")
    assert [(entry.action, entry.outcome) for entry in entries] == [
        ("flash_requested", ""),
        ("flash_finished", "succeeded"),
    ]


def test_identical_contents_are_a_success_without_a_write(station: Station, practice: Card, build: Build) -> None:
    station.practice_chip.write_bytes(pad(ROM.read_bytes(), SIZE))
    job = flash(station, practice, build=build)
    assert (job.state, job.wrote) == (JobState.SUCCEEDED, False)


def test_what_was_saved_is_written_back(station: Station, practice: Card, build: Build, machine: Machine) -> None:
    station.practice_chip.write_bytes(b"\xff" * SIZE)
    job = flash(station, practice, build=build, machine=machine)
    restore = job.restoring().submit(ALICE)
    FlashRun.claim_and_run(restore.pk)
    restore.refresh_from_db()
    assert restore.state == JobState.SUCCEEDED
    assert station.practice_chip.read_bytes() == b"\xff" * SIZE
    held = InstalledROM.objects.get()
    assert (held.build, held.description) == (None, "erased (every byte is ff)")


def test_only_saving_leaves_chip_and_ledger_as_they_are(station: Station, practice: Card) -> None:
    station.practice_chip.write_bytes(b"\xaa" * SIZE)
    job = flash(station, practice, action=FlashKind.SAVE)
    assert (job.state, job.wrote) == (JobState.SUCCEEDED, False)
    assert job.backup_sha256 == hashlib.sha256(b"\xaa" * SIZE).hexdigest()
    assert station.practice_chip.read_bytes() == b"\xaa" * SIZE
    assert not InstalledROM.objects.exists()


def test_two_chips_to_choose_from_are_offered_and_the_chosen_one_is_taken(
    station: Station, plays: Callable[..., Card]
) -> None:
    card = plays("SST25VF040.REMS")
    job = flash(station, card, action=FlashKind.SAVE)
    assert (job.state, job.refusal) == (JobState.FAILED, "several_chips")
    names = job.choices["chips"]
    assert len(names) > 1
    chosen = flash(station, card, action=FlashKind.SAVE, chip_name="SST25VF040")
    assert "SST25VF040" in names
    assert (chosen.state, chosen.error) == (JobState.SUCCEEDED, "")


def test_a_card_whose_chip_is_not_found_is_refused(station: Station, plays: Callable[..., Card], build: Build) -> None:
    card = plays("M25P10.RES", spi_blacklist="ab")
    job = flash(station, card, build=build)
    assert (job.state, job.refusal, job.backup) == (JobState.FAILED, "no_chip", None)
    assert job.error


def test_the_chips_own_size_is_padded_to_where_the_card_has_none(
    station: Station, data_dir: Path, plays: Callable[..., Card], build: Build
) -> None:
    chip, card = data_dir / "chip", plays("M25P10.RES")
    job = flash(station, card, build=build)
    assert (job.state, job.error) == (JobState.SUCCEEDED, "")
    assert chip.read_bytes() == pad(ROM.read_bytes(), 128 << 10)


def test_a_rom_that_is_too_large_for_the_chip_found_is_refused_before_it_is_read(
    station: Station, plays: Callable[..., Card], build: Build
) -> None:
    card = plays("VARIABLE_SIZE")
    job = flash(station, card, build=build)
    assert job.state == JobState.FAILED
    assert "65,536" in job.error
    assert job.backup is None


def test_a_write_that_fails_says_do_not_power_off_and_can_be_restored(
    station: Station, data_dir: Path, plays: Callable[..., Card], build: Build
) -> None:
    chip = data_dir / "chip"
    chip.write_bytes(b"\x55" * SIZE)
    # It erases, and takes no bytes.
    card = plays("M25P10.RES", spi_ignorelist="02")
    job = flash(station, card, build=build)
    assert (job.state, job.chip_state) == (JobState.FAILED, "unknown")
    assert "Do not power off" in job.error
    assert job.backup
    assert job.backup.path.read_bytes() == b"\x55" * SIZE
    assert job.restoring().restores == job
    assert not InstalledROM.objects.exists()


def test_a_write_that_fails_and_changes_nothing_says_so(
    station: Station, plays: Callable[..., Card], build: Build
) -> None:
    card = plays("M25P10.RES", spi_blacklist="02")
    job = flash(station, card, build=build)
    assert (job.state, job.chip_state) == (JobState.FAILED, "unchanged")
    assert "still holds the old contents" in job.error


def test_a_backup_that_cannot_be_kept_keeps_the_chip_from_being_written(
    station: Station, practice: Card, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.practice_chip.write_bytes(bytes(SIZE))
    job = FlashJob(station=station, card=practice, build=build).submit(ALICE)

    def full(*_: object) -> StoredFile:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoredFile.objects.__class__, "store", full)
    FlashRun.claim_and_run(job.pk)
    job.refresh_from_db()
    assert job.state == JobState.SITE_ERROR
    assert "No space left" in job.error
    assert station.practice_chip.read_bytes() == bytes(SIZE)


def test_a_job_cancelled_while_it_reads_writes_nothing(
    station: Station, practice: Card, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.practice_chip.write_bytes(bytes(SIZE))
    job = FlashJob(station=station, card=practice, build=build).submit(ALICE)
    stored = FlashRun.store_backup

    def cancelled(run: FlashRun, *args: object) -> None:
        stored(run, *args)  # type: ignore[arg-type]
        FlashJob.objects.get(pk=job.pk).cancel(Actor("bob"))

    monkeypatch.setattr(FlashRun, "store_backup", cancelled)
    FlashRun.claim_and_run(job.pk)
    job.refresh_from_db()
    assert job.state == JobState.CANCELLED
    assert "Nothing was written" in job.error
    assert station.practice_chip.read_bytes() == bytes(SIZE)


def test_a_job_given_up_while_it_reads_writes_nothing(
    station: Station, practice: Card, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.practice_chip.write_bytes(bytes(SIZE))
    job = FlashJob(station=station, card=practice, build=build).submit(ALICE)
    begin = FlashRun._begin_to_write

    def given_up(run: FlashRun) -> None:
        FlashJob.objects.filter(pk=job.pk).update(state=JobState.LOST)
        begin(run)

    monkeypatch.setattr(FlashRun, "_begin_to_write", given_up)
    FlashRun.claim_and_run(job.pk)
    job.refresh_from_db()
    assert station.practice_chip.read_bytes() == bytes(SIZE)
    assert job.state == JobState.CANCELLED


# What is refused before it is queued


def problems(**order: object) -> dict[str, list[str]]:
    try:
        FlashJob(**order).submit(ALICE)
    except ValidationError as error:
        return error.message_dict
    return {}


def test_a_rom_for_another_card_is_refused(station: Station, practice: Card, card: Card, build: Build) -> None:
    assert "not for" in problems(station=station, card=card, build=build)["build"][0]
    assert not FlashJob.objects.exists()


def test_a_build_without_a_rom_is_refused(station: Station, practice: Card) -> None:
    failed = Build.of(from_json({"site": "http://192.0.2.1"}), card=practice).submit(ALICE)
    assert "did not succeed" in problems(station=station, card=practice, build=failed)["build"][0]


def test_an_iso_is_refused(station: Station, practice: Card) -> None:
    iso = succeeded(practice, b"x", target="iso")
    assert "is not a ROM" in problems(station=station, card=practice, build=iso)["build"][0]


def test_a_card_that_flashrom_cannot_write_to_is_refused(station: Station, build: Build, data_dir: Path) -> None:
    card = Card.objects.create(slug="8086:100e", pci_id="8086:100e", name="x")
    assert "flashrom cannot write" in problems(station=station, card=card, build=build)["card"][0]


def test_a_rom_larger_than_the_cards_chip_is_refused(station: Station, build: Build, data_dir: Path) -> None:
    card = Card.objects.create(slug="x", pci_id="8086:100e", name="x", programmer="nicintel", chip_size=65536)
    assert "65,536" in problems(station=station, card=card, build=build)["build"][0]


@pytest.mark.parametrize("slot", ["03:00", "0000:03:00.8", "0000:03:00.0,x=1", "eth0", "0000:zz:00.0"])
def test_a_slot_that_is_no_pci_address_is_refused(station: Station, practice: Card, build: Build, slot: str) -> None:
    assert "slot" in problems(station=station, card=practice, build=build, slot=slot)


def test_a_short_slot_gets_its_domain(station: Station, practice: Card, build: Build) -> None:
    assert FlashJob(station=station, card=practice, build=build, slot="03:00.0").submit(ALICE).slot == "0000:03:00.0"


def test_it_is_confirmed_by_the_machines_name_or_the_stations(
    station: Station, practice: Card, build: Build, machine: Machine
) -> None:
    with pytest.raises(ValidationError, match="web01"):
        FlashJob(station=station, card=practice, build=build, machine=machine).submit_confirmed(ALICE, "local")
    with pytest.raises(ValidationError, match="local"):
        FlashJob(station=station, card=practice, build=build).submit_confirmed(ALICE, "")
    assert not FlashJob.objects.exists()
    FlashJob(station=station, card=practice, build=build, machine=machine).submit_confirmed(ALICE, " web01 ")
    FlashJob(station=station, card=practice, build=build).submit_confirmed(ALICE, "local")


def test_nothing_is_restored_that_was_not_saved(station: Station, practice: Card, card: Card, build: Build) -> None:
    unsaved = FlashJob(station=station, card=practice, build=build).submit(ALICE)
    assert "restores" in problems(station=station, card=practice, action=FlashKind.RESTORE, restores=unsaved)
    saved = flash(station, practice, action=FlashKind.SAVE)
    assert "restores" in problems(station=station, card=card, action=FlashKind.RESTORE, restores=saved)


# The ledger


def test_machines_whose_rom_is_older_than_the_current_script_are_listed(
    station: Station, practice: Card, build: Build, machine: Machine
) -> None:
    flash(station, practice, build=build, machine=machine)
    assert not InstalledROM.objects.outdated().exists()
    same = succeeded(practice, ROM.read_bytes())
    Build.objects.filter(pk__in=[build.pk, same.pk]).update(finished_at="2026-01-01T00:00:00Z")
    assert not InstalledROM.objects.outdated().exists()
    newer = succeeded(practice, ROM.read_bytes())
    Build.objects.filter(pk=newer.pk).update(script_sha256="0" * 64, finished_at="2026-02-01T00:00:00Z")
    assert [held.machine for held in InstalledROM.objects.outdated()] == [machine]
    flash(station, practice, build=newer, machine=machine)
    assert not InstalledROM.objects.outdated().exists()


def damage(kept: StoredFile | None) -> None:
    assert kept
    with kept.path.open("r+b") as file:
        file.seek(5000)
        file.write(b"lost")


def test_a_rom_that_lost_its_bytes_after_it_was_asked_for_is_not_written(
    station: Station, practice: Card, build: Build
) -> None:
    station.practice_chip.write_bytes(bytes(SIZE))
    job = FlashJob(station=station, card=practice, build=build).submit(ALICE)
    damage(build.artifact)
    FlashRun.claim_and_run(job.pk)
    job.refresh_from_db()
    assert job.state == JobState.FAILED
    assert "its contents are not those of its SHA-256" in job.error
    assert station.practice_chip.read_bytes() == bytes(SIZE)


def test_saved_contents_that_lost_their_bytes_after_they_were_asked_for_are_not_written_back(
    station: Station, practice: Card
) -> None:
    station.practice_chip.write_bytes(b"\xaa" * SIZE)
    saved = flash(station, practice, action=FlashKind.SAVE)
    station.practice_chip.write_bytes(bytes(SIZE))
    job = saved.restoring().submit(ALICE)
    damage(saved.backup)
    FlashRun.claim_and_run(job.pk)
    job.refresh_from_db()
    assert job.state == JobState.FAILED
    assert station.practice_chip.read_bytes() == bytes(SIZE)


def test_damaged_saved_contents_cannot_be_asked_for(station: Station, practice: Card) -> None:
    station.practice_chip.write_bytes(b"\xaa" * SIZE)
    saved = flash(station, practice, action=FlashKind.SAVE)
    damage(saved.backup)
    with pytest.raises(ValidationError, match="damaged"):
        saved.restoring().submit(ALICE)
