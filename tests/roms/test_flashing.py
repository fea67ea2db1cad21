"""Flashing, by the real flashrom; its dummy stands in for the card."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from roms.toolchain.flash.flashing import (
    Phase,
    Refusal,
    RefusedError,
)
from roms.toolchain.flash.flashrom import Chip
from roms.toolchain.flash.pci import PCISlot
from roms.toolchain.flash.programmers import Programmer
from roms.toolchain.runner import ProgramMissingError
from tests.roms.chip_flashing import ALL, NEW, NEW_128, OLD, bench, sha256
from tests.roms.chips import KIB, Bench, changed, contents, dummy
from tests.roms.processes import is_locked

__all__ = ["bench"]


# Success


def test_a_flash_saves_writes_and_verifies(bench: Bench) -> None:
    bench.chip_with(OLD)

    result = bench.flashing(NEW, chip=None).run()

    assert bench.image.read_bytes() == NEW
    assert bench.listener.phases == ALL
    assert [(data, digest) for data, digest, _ in bench.listener.stored] == [(OLD, sha256(OLD))]
    assert (result.wrote, result.verified_sha256) == (True, sha256(NEW))
    assert (result.chip.name, result.size) == ("Opaque flash chip", 64 * KIB)


def test_flashroms_own_messages_are_heard_in_each_phase(bench: Bench) -> None:
    bench.chip_with(OLD)

    bench.flashing(NEW).run()

    text = bench.listener.text
    assert text.count(b"Reading flash... done.") == 3
    assert b"Erasing and writing flash chip... Erase/write done." in text
    assert b"VERIFIED." in text
    assert sorted(bench.listener.steps) == bench.listener.steps
    assert bench.listener.steps[-1] == 1.0
    assert (bench.folder / "work" / "write.log").read_bytes() in text


def test_restoring_writes_what_was_saved(bench: Bench) -> None:
    bench.chip_with(OLD)
    bench.flashing(NEW).run()

    result = bench.flashing(bench.listener.shelf.read_bytes()).run()

    assert bench.image.read_bytes() == OLD
    assert (bench.listener.stored[-1][1], result.verified_sha256) == (sha256(NEW), sha256(OLD))


def test_identical_contents_are_a_success_without_a_write(bench: Bench) -> None:
    bench.chip_with(OLD)
    before = bench.image.stat().st_mtime_ns

    result = bench.flashing(OLD).run()

    assert (result.wrote, result.verified_sha256) == (False, sha256(OLD))
    assert bench.listener.phases == [Phase.PROBE, Phase.SAVE]
    assert bench.image.stat().st_mtime_ns == before
    assert "nothing to write" in bench.listener.notes[0]
    assert bench.listener.steps[-1] == 1.0
    assert len(bench.listener.stored) == 1


def test_without_contents_the_chip_is_only_saved(bench: Bench) -> None:
    bench.chip_with(OLD)

    result = bench.flashing(None).run()

    assert (result.wrote, result.verified_sha256) == (False, None)
    assert bench.listener.shelf.read_bytes() == OLD
    assert bench.listener.phases == [Phase.PROBE, Phase.SAVE]


def test_the_backup_is_on_the_disk_before_it_is_handed_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chip_with(OLD)
    synced: list[bool] = []
    fsync = os.fsync

    def remember(descriptor: int) -> None:
        assert not bench.listener.stored
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", remember)

    bench.flashing(None).run()

    assert synced == [False, True]


def test_contents_can_be_made_for_the_chip_that_was_found(bench: Bench) -> None:
    bench.chip_with(OLD)

    bench.flashing(None, contents_for=lambda chip: contents(chip.size, 2)).run()

    assert bench.image.read_bytes() == NEW


# Refused before anything is touched


def test_contents_that_cannot_be_made_for_the_chip_stop_the_flash(bench: Bench) -> None:
    bench.chip_with(OLD)

    def too_large(chip: Chip) -> NoReturn:
        raise ValueError(f"too large for {chip.size} bytes")

    with pytest.raises(ValueError, match="too large for 65536 bytes"):
        bench.flashing(None, contents_for=too_large).run()

    assert bench.listener.phases == [Phase.PROBE]
    assert not is_locked(bench.lock)


def test_contents_that_do_not_fit_the_card_are_refused_without_running_anything(bench: Bench) -> None:
    with pytest.raises(RefusedError, match="65536 bytes, but the card's chip has 131072") as refused:
        bench.flashing(NEW, expected_size=128 * KIB, program="/no/flashrom").run()

    assert refused.value.refusal is Refusal.WRONG_SIZE
    assert not bench.lock.exists()


@pytest.mark.parametrize("size", [0, 64 * KIB - 512, 128 * KIB])
def test_contents_that_do_not_fit_the_chip_are_refused(bench: Bench, size: int) -> None:
    bench.chip_with(OLD)

    with pytest.raises(RefusedError, match=f"{size} bytes, but the chip .* has 65536") as refused:
        bench.flashing(contents(size)).run()

    assert refused.value.refusal is Refusal.WRONG_SIZE
    assert bench.listener.phases == [Phase.PROBE]


def test_a_chip_that_the_card_should_not_have_is_refused(bench: Bench) -> None:
    bench.chip_with(OLD)

    with pytest.raises(RefusedError, match="has 65536 bytes, but this card should have 131072") as refused:
        bench.flashing(None, expected_size=128 * KIB).run()

    assert refused.value.refusal is Refusal.WRONG_SIZE


def test_a_chip_that_is_not_found_is_refused(bench: Bench) -> None:
    with pytest.raises(RefusedError, match="no flash chip") as refused:
        bench.flashing(NEW_128, dummy(bench.image, "M25P10.RES", spi_blacklist="ab")).run()

    assert refused.value.refusal is Refusal.NO_CHIP
    assert bench.listener.phases == [Phase.PROBE]


def test_where_two_chips_fit_the_choice_is_offered_and_the_chosen_one_is_flashed(bench: Bench) -> None:
    programmer = dummy(bench.image, "SST25VF040.REMS")
    old = bench.chip_with(contents(512 * KIB))
    new = changed(old)

    with pytest.raises(RefusedError, match="SST25LF040A, SST25VF040") as refused:
        bench.flashing(new, programmer).run()
    assert refused.value.refusal is Refusal.SEVERAL_CHIPS
    assert bench.image.read_bytes() == old

    result = bench.flashing(new, programmer, chip=refused.value.chips[1].name).run()
    assert result.chip.name == "SST25VF040"
    assert bench.image.read_bytes() == new


def test_a_chip_that_flashrom_does_not_know_is_refused(bench: Bench) -> None:
    with pytest.raises(RefusedError, match="does not know a chip with that name"):
        bench.flashing(NEW, chip="no-such-chip").run()


def test_a_missing_flashrom_is_named(bench: Bench) -> None:
    with pytest.raises(ProgramMissingError, match="no-such-flashrom"):
        bench.flashing(NEW, program="no-such-flashrom").run()


# Cards. The dummy is none: a program takes the place of the card's programmer by the dummy.


@pytest.fixture
def pci(tmp_path: Path) -> Path:
    """A host with two cards of one kind and one of another."""
    for slot, device in (("0000:02:00.0", "0x1229"), ("0000:03:00.0", "0x1229"), ("0000:04:00.0", "0x10d3")):
        folder = tmp_path / "pci" / slot
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x8086\n")
        (folder / "device").write_text(f"{device}\n")
    return tmp_path / "pci"


def card_reader(bench: Bench) -> str:
    """flashrom with a card: remembers its command lines and hands them to the dummy."""
    bench.chip_with(OLD)
    return bench.program(
        f'echo "$*" >> {bench.folder}/commands\n'
        f'shift 2\nexec flashrom -p dummy:emulate=VARIABLE_SIZE,size=65536,image={bench.image} "$@"'
    )


def test_a_rom_for_another_card_is_refused(bench: Bench, pci: Path) -> None:
    flash = bench.flashing(
        *(NEW, Programmer("nicintel")), card="8086:1229", slot=PCISlot.parse("04:00.0"), pci_devices=pci, program="/no"
    )

    with pytest.raises(
        RefusedError, match=r"slot 0000:04:00\.0 is 8086:10d3, but this ROM is for 8086:1229"
    ) as refused:
        flash.run()

    assert refused.value.refusal is Refusal.WRONG_CARD


@pytest.mark.parametrize("slot", [None, PCISlot.parse("05:00.0")])
def test_a_card_that_is_not_plugged_in_is_refused(bench: Bench, pci: Path, slot: PCISlot | None) -> None:
    flash = bench.flashing(NEW, Programmer("nicintel"), card="8086:1209", slot=slot, pci_devices=pci, program="/no")

    with pytest.raises(RefusedError) as refused:
        flash.run()

    assert refused.value.refusal is Refusal.NO_CARD


def test_where_two_cards_fit_the_choice_is_offered(bench: Bench, pci: Path) -> None:
    flash = bench.flashing(NEW, Programmer("nicintel"), card="8086:1229", pci_devices=pci, program="/no")

    with pytest.raises(RefusedError, match="Choose the slot") as refused:
        flash.run()

    assert refused.value.refusal is Refusal.SEVERAL_CARDS
    assert [str(card.slot) for card in refused.value.cards] == ["0000:02:00.0", "0000:03:00.0"]


def test_where_flashrom_finds_two_cards_the_choice_is_offered_too(bench: Bench, pci: Path) -> None:
    program = bench.program(
        'case "$*" in -L) exec flashrom -L;; esac\n'
        "echo \"Error: Multiple supported PCI devices found. Use 'flashrom -p xxxx:pci=bb:dd.f'\"; exit 1"
    )

    with pytest.raises(RefusedError) as refused:
        bench.flashing(NEW, Programmer("nicintel"), pci_devices=pci, program=program).run()

    assert refused.value.refusal is Refusal.SEVERAL_CARDS
    assert [str(card.slot) for card in refused.value.cards] == ["0000:02:00.0", "0000:03:00.0"]


def test_the_only_card_that_fits_is_taken_by_its_slot_and_every_command_line_is_exact(bench: Bench, pci: Path) -> None:
    flash = bench.flashing(
        *(NEW, Programmer("nicintel_spi")), card="8086:10D3", pci_devices=pci, program=card_reader(bench)
    )

    flash.run()

    start, work = "-p nicintel_spi:pci=0000:04:00.0", bench.folder / "work"
    assert (bench.folder / "commands").read_text().splitlines() == [
        f"{start} --flash-size",
        f"{start} -c Opaque flash chip -r {work}/old.bin",
        f"{start} -c Opaque flash chip -r {work}/old-again.bin",
        f"{start} -c Opaque flash chip -w {work}/wanted.bin",
        f"{start} -c Opaque flash chip -r {work}/new.bin",
    ]


def test_the_driver_that_holds_the_card_is_named(bench: Bench, pci: Path, tmp_path: Path) -> None:
    (tmp_path / "drivers" / "e1000e").mkdir(parents=True)
    (pci / "0000:04:00.0" / "driver").symlink_to(tmp_path / "drivers" / "e1000e")
    program = bench.program("echo '/dev/mem mmap failed: Operation not permitted'; exit 1")

    with pytest.raises(RefusedError, match=r"iomem=relaxed.* The driver e1000e uses the card\.") as refused:
        bench.flashing(NEW, Programmer("nicintel_spi"), card="8086:10d3", pci_devices=pci, program=program).run()

    assert refused.value.refusal is Refusal.TOOL
