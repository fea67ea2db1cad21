"""flashrom's command lines and answers: the installed one's, and texts recorded from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from roms.toolchain.flash import flashrom
from roms.toolchain.flash.flashrom import Chip, Flashrom, Outcome, SupportedCard, understand
from roms.toolchain.flash.pci import PCISlot, WrongAddressError, plugged_in
from roms.toolchain.flash.programmers import PracticeChip, Programmer, WrongProgrammerError
from roms.toolchain.runner import ProgramMissingError, run

# Slots


@pytest.mark.parametrize("text", ["0000:03:00.0", "03:00.0"])
def test_a_slot_is_read_with_and_without_its_domain(text: str) -> None:
    assert str(PCISlot.parse(text)) == "0000:03:00.0"


def test_a_slot_is_written_in_small_letters() -> None:
    assert str(PCISlot.parse("00AB:fF:1C.7")) == "00ab:ff:1c.7"


@pytest.mark.parametrize(
    "text",
    [
        *("", "3:0.0", "03:00", "03:00.8", "03:20.0", "03:00.0 ", " 03:00.0", "03:00.0\n", "0:03:00.0", "0x3:00.0"),
        *("03:00.0,spispeed=1", "03:00.0=", "*:*.*", "٠٣:00.0", "03:00.0;reboot", "8086:1229"),
    ],
)
def test_nothing_else_is_a_slot(text: str) -> None:
    with pytest.raises(WrongAddressError, match=r"is not a valid PCI address"):
        PCISlot.parse(text)


# Programmers


def test_a_programmer_alone() -> None:
    assert Programmer("nicintel").argument() == "nicintel"


def test_a_programmer_and_a_slot() -> None:
    assert Programmer("nicintel").argument(PCISlot.parse("03:00.0")) == "nicintel:pci=0000:03:00.0"


@pytest.mark.parametrize("name", ["nic3com", "nicintel", "nicintel_spi", "nicnatsemi", "nicrealtek"])
def test_the_programmers_of_network_cards_are_known(name: str) -> None:
    assert Programmer(name).argument() == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "-p", "Nicintel", "nicintel,x", "nic intel", "nicintel:", "nicintel:pci", "nicintel:pci=", "nicintel\n"),
        *("nicintel:pci=03:00.0", "nicintel:image=/etc/shadow", "nicintel,image=/etc/shadow", " nicintel"),
        *("dummy", "dummy:emulate=VARIABLE_SIZE,size=65536,image=/etc/shadow", "DUMMY", "fault:backend=dummy"),
        *("internal", "linux_mtd:dev=0", "linux_spi:dev=/dev/spidev0.0", "serprog:ip=192.0.2.1:80", "mediatek_i2c_spi"),
        *("nicintel_eeprom", "atavia:offset=0x10", "atavia", "satasii", "nicamd"),
    ],
)
def test_nothing_else_is_a_programmer(text: str) -> None:
    with pytest.raises(
        WrongProgrammerError, match=r"is not a programmer for network cards\. Choose one of nic3com, nicintel"
    ):
        Programmer(text)
    with pytest.raises(WrongProgrammerError):
        Programmer(text)


def test_the_list_of_a_flashrom_leads_to_no_other_programmer() -> None:
    cards = [
        SupportedCard(name, "x", "8086:1531", is_tested=True) for name in ("nicintel_eeprom", "satasii", "internal")
    ]
    assert flashrom.reached(cards) == {}
    assert list(flashrom.reached([*cards, SupportedCard("nicintel_spi", "x", "8086:1531", is_tested=True)])) == [
        "8086:1531"
    ]


def test_the_practice_chip_is_the_file_that_the_site_names() -> None:
    chip = PracticeChip(Path("/srv/chips/one: the first.bin"), 65536)

    assert chip.argument() == "dummy:emulate=VARIABLE_SIZE,size=65536,image=/srv/chips/one: the first.bin"
    assert chip.argument(PCISlot.parse("03:00.0")) == chip.argument()


@pytest.mark.parametrize("name", ["a.bin,spi_blacklist=02", "a=b", "a\0b", "a\nb"])
def test_the_practice_chips_path_smuggles_in_no_parameter(name: str) -> None:
    with pytest.raises(WrongProgrammerError, match="RESCUESITE_DATA_DIR"):
        PracticeChip(Path("/srv") / name, 65536)


def test_only_the_dummy_is_for_practice() -> None:
    assert PracticeChip(Path("/tmp/chip"), 65536).is_practice
    assert not Programmer("nicintel").is_practice


# Command lines


def test_a_chosen_chip_and_slot_are_in_each_command_line() -> None:
    tool = Flashrom(Programmer("nicintel"), PCISlot.parse("03:00.0"), "Am29F010A/B")
    start = ["flashrom", "-p", "nicintel:pci=0000:03:00.0", "-c", "Am29F010A/B"]

    assert tool.probe() == [*start, "--flash-size"]
    assert tool.read(Path("/a/old.bin")) == [*start, "-r", "/a/old.bin"]
    assert tool.write(Path("/a/new.bin")) == [*start, "-w", "/a/new.bin"]


# The installed flashrom


def test_debian_12s_flashrom_has_lost_its_version_and_dpkg_knows_it() -> None:
    assert flashrom.version()[0].isdigit()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("flashrom unknown on Linux 6.1.0-18-amd64 (x86_64)\n", "unknown"),
        ("flashrom v1.2 on Linux 5.10.0 (x86_64)\n", "1.2"),
        ("flashrom 1.8.0-rc1 on Linux 6.1.0 (x86_64)\n", "1.8.0-rc1"),
        ("something else\n", "unknown"),
    ],
)
def test_the_version_in_flashroms_first_line(text: str, version: str) -> None:
    assert flashrom.read_version(text) == version


def test_the_installed_flashrom_says_which_cards_it_knows() -> None:
    cards = {(card.programmer, card.id): card for card in flashrom.supported_cards()}

    assert cards["nicintel", "8086:1229"].is_tested
    assert cards["nicintel", "8086:1229"].name == "Intel 82557/8/9/0/1 Ethernet Pro 100"
    assert not cards["nicintel", "8086:1209"].is_tested
    assert ("nicrealtek", "10ec:8139") in cards
    # USB devices have numbers of the same form.
    assert not any(programmer == "ch341a_spi" for programmer, _ in cards)


def test_a_card_whose_status_depends_is_not_tested() -> None:
    text = (
        "Supported PCI devices for the atavia programmer:\n"
        "Vendor  Device   PCI IDs    Status\n"
        "VIA     VT6421A  1106:3249  Config-dependent\n"
        "\n"
        "Supported USB devices for the ch341a_spi programmer:\n"
        "Vendor            Device   USB IDs    Status\n"
        "Winchiphead (WCH) CH341A   1a86:5512  OK\n"
    )

    (card,) = flashrom.read_supported_cards(text)

    assert (card.programmer, card.name, card.id, card.is_tested) == ("atavia", "VIA VT6421A", "1106:3249", False)


def test_a_missing_flashrom_is_named() -> None:
    with pytest.raises(ProgramMissingError, match="no-such-flashrom is not installed"):
        flashrom.version("no-such-flashrom")


def test_the_installed_flashrom_takes_a_slot_with_its_domain() -> None:
    """An address that it cannot read is "Invalid slot number"."""
    tool = Flashrom(Programmer("nicintel"), PCISlot.parse("0000:ff:1f.7"))

    finished = run(tool.probe())

    assert understand(finished.output, finished.returncode).outcome is Outcome.NO_CARD


# Cards that are plugged in


def test_cards_are_told_apart_by_slot_driver_and_mac(tmp_path: Path) -> None:
    for slot, device in (("0000:03:00.0", "0x1229"), ("0000:02:00.0", "0x1229"), ("0000:00:1f.0", "0x2918")):
        (tmp_path / "devices" / slot).mkdir(parents=True)
        (tmp_path / "devices" / slot / "vendor").write_text("0x8086\n")
        (tmp_path / "devices" / slot / "device").write_text(f"{device}\n")
    (tmp_path / "drivers" / "e100").mkdir(parents=True)
    card = tmp_path / "devices" / "0000:03:00.0"
    (card / "driver").symlink_to(tmp_path / "drivers" / "e100")
    (card / "net" / "eth0").mkdir(parents=True)
    (card / "net" / "eth0" / "address").write_text("00:02:b3:9d:94:8c\n")

    found = plugged_in(tmp_path / "devices")

    assert [str(one) for one in found] == [
        "0000:00:1f.0 (8086:2918)",
        "0000:02:00.0 (8086:1229)",
        "0000:03:00.0 (8086:1229, 00:02:b3:9d:94:8c, driver e100)",
    ]


def test_a_host_without_pci_has_no_cards(tmp_path: Path) -> None:
    assert plugged_in(tmp_path / "none") == []


# Answers: recorded texts

FOUND = 'Found AMD flash chip "Am29F010A/B" (128 kB, Parallel) on nicintel.\n'
FOUND_BY_1_2 = 'Found AMD flash chip "Am29F010A/B" (128 kB, Parallel) mapped at physical address 0x00000000fffe0000.\n'
WRITTEN = (
    "Reading old flash chip contents... done.\n"
    "Erasing and writing flash chip... Erase/write done.\n"
    "Verifying flash... VERIFIED.\n"
)
UPDATED_BY_1_5 = (
    "Reading old flash chip contents... done.\nUpdating flash chip contents... Erase/write done from 0 to ffff\n"
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FOUND + WRITTEN, id="1.3, 1.4"),
        pytest.param(FOUND_BY_1_2 + WRITTEN, id="1.2"),
        pytest.param(FOUND + UPDATED_BY_1_5 + "Verifying flash... VERIFIED.\n", id="1.5 and later"),
        pytest.param(FOUND + UPDATED_BY_1_5, id="1.5 and later, identical"),
    ],
)
def test_success_is_exit_status_0_whatever_the_words(text: str) -> None:
    verdict = understand(text.encode(), 0)

    assert verdict.is_ok
    assert verdict.chip
    assert (verdict.chip.vendor, verdict.chip.name, verdict.chip.size) == ("AMD", "Am29F010A/B", 131072)


@pytest.mark.parametrize(
    ("name", "vendor"),
    [("Am29F002(N)BB", "AMD"), ("M25P10", "Micron/Numonyx/ST"), ("Opaque flash chip", "Programmer")],
)
def test_names_of_chips_and_vendors_have_all_kinds_of_characters(name: str, vendor: str) -> None:
    verdict = understand(f'Found {vendor} flash chip "{name}" (64 kB, Programmer-specific) on dummy.\n'.encode(), 0)

    assert verdict.chip == Chip(vendor, name, 65536, "Programmer-specific", "dummy")


FAILURES = {
    "no chip": (
        "No EEPROM/flash device found.\nNote: flashrom can never write if the flash chip isn't found automatically.\n",
        1,
        Outcome.NO_CHIP,
    ),
    "several chips": (
        (
            'Found SST flash chip "SST25LF040A" (512 kB, SPI) on dummy.\n'
            'Found SST flash chip "SST25VF040" (512 kB, SPI) on dummy.\n'
            'Multiple flash chip definitions match the detected chip(s): "SST25LF040A", "SST25VF040"\n'
            "Please specify which chip definition to use with the -c <chipname> option.\n"
        ),
        1,
        Outcome.SEVERAL_CHIPS,
    ),
    "size": (
        FOUND + "Error: Image size (65024 B) doesn't match the expected size (65536 B)!\n",
        1,
        Outcome.WRONG_SIZE,
    ),
    "bad -c": ("Error: Unknown chip 'x' specified.\n", 1, Outcome.UNKNOWN_CHIP),
    "file": ('Error: opening file "x" failed: No such file or directory\n', 1, Outcome.FILE_FAILED),
    "disk full": ("Reading flash... done.\nError: file x could not be written completely.\n", 1, Outcome.FILE_FAILED),
    "usage": ('Please run "flashrom --help" for usage info.\n', 1, Outcome.FAILED),
    "no card": (
        "Error: No supported PCI device found.\nError: Programmer initialization failed.\n",
        1,
        Outcome.NO_CARD,
    ),
    "several cards": (
        (
            "Error: Multiple supported PCI devices found. Use 'flashrom -p xxxx:pci=bb:dd.f'\n"
            "Error: Programmer initialization failed.\n"
        ),
        1,
        Outcome.SEVERAL_CARDS,
    ),
    "unknown programmer": (
        'Error: Unknown programmer "nope". Valid choices are:\ninternal, dummy.\n',
        1,
        Outcome.UNKNOWN_PROGRAMMER,
    ),
    "programmer": (
        "Invalid chip specified for emulation: NOPE\nError: Programmer initialization failed.\n",
        1,
        Outcome.PROGRAMMER_FAILED,
    ),
    "memory": (
        "/dev/mem mmap failed: Operation not permitted\nError: Programmer initialization failed.\n",
        1,
        Outcome.MEMORY_REFUSED,
    ),
    "memory, with the status that the manual names": (
        "/dev/mem mmap failed: Operation not permitted\n",
        3,
        Outcome.MEMORY_REFUSED,
    ),
    "ports": (
        "ERROR: Could not get I/O privileges (Operation not permitted).\nError: Programmer initialization failed.\n",
        1,
        Outcome.PORTS_REFUSED,
    ),
    "memory disabled": (
        (
            "MEM BAR access requested, but device has MEM space accesses disabled.\n"
            "Error: Programmer initialization failed.\n"
        ),
        1,
        Outcome.MEMORY_DISABLED,
    ),
    "write, 1.3": (
        FOUND + "Erasing and writing flash chip... FAILED!\nUh oh. Erase/write failed.\n"
        "Your flash chip is in an unknown state.\n",
        2,
        Outcome.WRITE_FAILED,
    ),
    "write, 1.8": (
        FOUND + "Updating flash chip contents... Erase/write done from 0 to 1ffff\n"
        "Write Failed!Uh oh. Erase/write failed.\n",
        2,
        Outcome.WRITE_FAILED,
    ),
    "verify": (
        FOUND + "Erasing and writing flash chip... Erase/write done.\n"
        "Verifying flash... FAILED at 0x00000000! Expected=0xb3, Found=0xff, "
        "failed byte count from 0x00000000-0x0001ffff: 0x1fdf5\n",
        3,
        Outcome.VERIFY_FAILED,
    ),
    "killed": (FOUND + "Reading flash... ", -9, Outcome.KILLED),
    "preparation, 1.8": (FOUND, 253, Outcome.FAILED),
    "nothing that is known": ("ERROR: something new happened\n", 1, Outcome.FAILED),
}


@pytest.mark.parametrize(("text", "returncode", "outcome"), FAILURES.values(), ids=FAILURES)
def test_each_failure_is_told_with_a_sentence(text: str, returncode: int, outcome: Outcome) -> None:
    verdict = understand(text.encode(), returncode)

    assert verdict.outcome is outcome
    assert not verdict.is_ok
    assert verdict.message[0].isupper() or verdict.message.startswith("flashrom")


@pytest.mark.parametrize("returncode", [1, 2, 3, 253, -15])
def test_no_phrase_makes_a_failed_run_a_success(returncode: int) -> None:
    assert not understand((FOUND + WRITTEN).encode(), returncode).is_ok


def test_several_chips_are_named() -> None:
    text, returncode, _ = FAILURES["several chips"]

    verdict = understand(text.encode(), returncode)

    assert [chip.name for chip in verdict.chips] == ["SST25LF040A", "SST25VF040"]
    assert verdict.chip is None


def test_the_sizes_that_differ_are_told() -> None:
    text, returncode, _ = FAILURES["size"]

    assert "65024 bytes for 65536" in understand(text.encode(), returncode).message


def test_the_cause_of_a_failed_programmer_is_told() -> None:
    text, returncode, _ = FAILURES["programmer"]

    assert "Invalid chip specified for emulation: NOPE" in understand(text.encode(), returncode).message


def test_an_error_that_is_not_known_is_quoted() -> None:
    text, returncode, _ = FAILURES["nothing that is known"]

    assert "something new happened" in understand(text.encode(), returncode).message


@pytest.mark.parametrize(
    ("failure", "advice"),
    [("memory", "modprobe -r"), ("memory", "iomem=relaxed"), ("memory", "Secure Boot"), ("ports", "dmesg")],
)
def test_what_the_kernel_refuses_comes_with_advice(failure: str, advice: str) -> None:
    text, returncode, _ = FAILURES[failure]

    assert advice in understand(text.encode(), returncode).advice


def test_answers_that_are_no_text_are_understood_all_the_same() -> None:
    assert understand(b"\xff\xfe" + b"\nNo EEPROM/flash device found.\n", 1).outcome is Outcome.NO_CHIP
