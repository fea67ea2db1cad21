"""flashrom's answers that used to be explained wrongly: chips that it does not know, what the kernel refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from roms.toolchain.flash.flashing import Phase, Refusal, RefusedError
from roms.toolchain.flash.flashrom import Outcome, cannot, understand
from roms.toolchain.flash.pci import PCISlot
from roms.toolchain.flash.programmers import Programmer
from tests.roms.chips import KIB, Bench, contents

OLD, NEW = contents(64 * KIB, 1), contents(64 * KIB, 2)
SIGNED = "===\nThis flash part has status {} for operations: {}\n===\n"


def unknown(name: str, vendor: str = "Generic") -> str:
    found = f'Found {vendor} flash chip "{name}" (0 kB, SPI) on nicintel_spi.\n'
    return "flashrom v1.3.0\n" + found + SIGNED.format("NOT WORKING", "PROBE READ ERASE WRITE")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.chip_with(OLD)
    (tmp_path / "pci" / "0000:03:00.0").mkdir(parents=True)
    for name, number in {"vendor": "0x8086", "device": "0x10d3"}.items():
        (tmp_path / "pci" / "0000:03:00.0" / name).write_text(f"{number}\n")
    return bench


def refusal(bench: Bench, said: str, status: int = 0, wanted: bytes | None = NEW) -> RefusedError:
    """What comes of a flash where flashrom says this when it looks for the chip; nothing may be read or written."""
    (bench.folder / "said").write_text(said)
    program = bench.program(
        f'echo "$*" >> {bench.folder}/commands\n'
        f'case "$*" in *--flash-size) cat {bench.folder}/said; exit {status};; esac; exit 9'
    )
    flash = bench.flashing(
        *(wanted, Programmer("nicintel_spi")), card="8086:10d3", slot=PCISlot.parse("03:00.0"), program=program,
        pci_devices=bench.folder / "pci",
    )  # fmt: skip
    with pytest.raises(RefusedError) as refused:
        flash.run()
    assert bench.listener.phases == [Phase.PROBE]
    assert len((bench.folder / "commands").read_text().splitlines()) == 1
    return refused.value


@pytest.mark.parametrize(
    ("vendor", "name"),
    [
        *(("Generic", "unknown SPI chip (RDID)"), ("Generic", "unknown SPI chip (REMS)")),
        *(("Winbond", "unknown Winbond (ex Nexcom) SPI chip"), ("Sanyo", "unknown Sanyo SPI chip")),
    ],
)
def test_a_chip_that_flashrom_does_not_know_is_said_to_be_that(bench: Bench, vendor: str, name: str) -> None:
    """flashrom succeeds, with a size of 0."""
    refused = refusal(bench, unknown(name, vendor) + "0\n")

    assert refused.refusal is Refusal.UNSUPPORTED_CHIP
    assert "flashrom does not know" in str(refused)
    assert "flashrom -L" in str(refused)
    assert "0 bytes" not in str(refused)
    assert "size of" not in str(refused)


def test_a_chip_that_flashrom_does_not_know_is_the_reason_where_it_fails_too() -> None:
    verdict = understand(
        (unknown("unknown SPI chip (RDID)") + "Read is not working on this chip. Aborting.\n").encode(), 1
    )

    assert (verdict.outcome, verdict.chips) == (Outcome.UNSUPPORTED_CHIP, ())


def test_a_chip_that_flashrom_knows_counts_beside_one_that_it_does_not() -> None:
    text = unknown("unknown SPI chip (REMS)") + 'Found SST flash chip "SST25VF010" (128 kB, SPI) on nicintel_spi.\n'
    verdict = understand(text.encode(), 0)

    assert verdict.is_ok
    assert verdict.chip
    assert verdict.chip.name == "SST25VF010"


FOUND = 'Found AMD flash chip "Am29F010A/B" (64 kB, Parallel) on nicintel_spi.\n'


@pytest.mark.parametrize("operations", ["WRITE", "ERASE WRITE", "READ ERASE WRITE", "PROBE READ ERASE WRITE WP"])
def test_what_is_known_not_to_work_is_not_tried(bench: Bench, operations: str) -> None:
    refused = refusal(bench, FOUND + SIGNED.format("NOT WORKING", operations) + "65536\n")

    assert refused.refusal is Refusal.TOOL
    assert "these operations do not work with the chip AMD Am29F010A/B (64 KiB)" in str(refused)
    assert "write" in str(refused)


def test_a_chip_that_cannot_be_read_is_not_saved_either(bench: Bench) -> None:
    assert "read" in str(refusal(bench, FOUND + SIGNED.format("NOT WORKING", "READ") + "65536\n", wanted=None))


@pytest.mark.parametrize(
    ("status", "operations", "wanted"),
    [
        ("UNTESTED", "READ ERASE WRITE", ("READ", "ERASE", "WRITE")),
        ("NOT WORKING", "WP", ("READ", "ERASE", "WRITE")),
        ("NOT WORKING", "PROBE", ("READ", "ERASE", "WRITE")),
        ("NOT WORKING", "ERASE WRITE", ("READ",)),
    ],
)
def test_what_is_untested_or_not_needed_is_tried(status: str, operations: str, wanted: tuple[str, ...]) -> None:
    verdict = understand((FOUND + SIGNED.format(status, operations)).encode(), 0)

    assert verdict.is_ok
    assert cannot(verdict, *wanted) is None


@pytest.mark.parametrize(
    "text",
    [
        "Read is not working on this chip. Aborting.\n",
        "Erase is not working on this chip and erase is needed for write. Aborting.\n",
        "Write is not working on this chip. Aborting.\n",
        "Erase is not possible on this chip.\n",
        "Write/erase is not working yet on your programmer in its current configuration.\nAborting.\n",
        "flashrom has no write function for this flash chip.\n",
    ],
)
def test_what_flashrom_does_not_try_is_quoted(text: str) -> None:
    verdict = understand((FOUND + text).encode(), 1)

    assert verdict.outcome is Outcome.NOT_WORKING
    assert text.splitlines()[0].removesuffix(" Aborting.") in verdict.message


FAILED = "Error: Programmer initialization failed.\n"
PHYSMAP = "Error accessing Intel Gigabit NIC w/ SPI flash, 0x10000 bytes at 0x00000000f7c00000\n"


@pytest.mark.parametrize(
    ("text", "outcome", "advice"),
    [
        (
            "Critical error: open(/dev/mem): Permission denied\n" + PHYSMAP
            + "/dev/mem mmap failed: Permission denied\n",
            Outcome.MEMORY_REFUSED,
            "as root",
        ),
        (
            "Critical error: open(/dev/mem): Operation not permitted\n" + PHYSMAP
            + "/dev/mem mmap failed: Operation not permitted\n",
            Outcome.MEMORY_REFUSED,
            "CAP_SYS_RAWIO",
        ),
        ("Critical error: open(/dev/mem): No such file or directory\n", Outcome.MEMORY_REFUSED, "not in a container"),
        (PHYSMAP + "/dev/mem mmap failed: Operation not permitted\n", Outcome.MEMORY_REFUSED, "modprobe -r"),
        (
            PHYSMAP + "/dev/mem mmap failed: Invalid argument\n"
            "In Linux this error can be caused by the CONFIG_NONPROMISC_DEVMEM (<2.6.27),\n",
            Outcome.MEMORY_REFUSED,
            "nopat",
        ),
        (PHYSMAP + "/dev/mem mmap failed: Resource temporarily unavailable\n", Outcome.MEMORY_REFUSED, "iomem=relaxed"),
        (
            "I/O BAR access requested, but device has I/O space accesses disabled.\nNo EEPROM/flash device found.\n",
            Outcome.MEMORY_DISABLED,
            "COMMAND=1:1",
        ),
        (
            "MEM BAR access requested, but device has MEM space accesses disabled.\nNo EEPROM/flash device found.\n",
            Outcome.MEMORY_DISABLED,
            "COMMAND=2:2",
        ),
        ("pcilib: Cannot find any working access method.\n", Outcome.NO_PCI, "not in a container"),
        ("Flash is in Secure Mode. Abort.\n", Outcome.PROTECTED, "another card"),
        ("Enabling flash write access failed.\n", Outcome.PROTECTED, "jumper"),
        (
            "ERROR: Could not get I/O privileges (Function not implemented).\nMake sure you are running as root.\n",
            Outcome.PORTS_REFUSED,
            "as root",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("returncode", [1, 3])
def test_what_keeps_flashrom_from_the_card_is_told_with_what_to_do(
    text: str, outcome: Outcome, advice: str, returncode: int
) -> None:
    # 3 is for what it maps, and for a failed verification.
    status = returncode if "/dev/mem" in text else 1
    verdict = understand((text + FAILED).encode(), status)

    assert verdict.outcome is outcome
    assert advice in verdict.advice
