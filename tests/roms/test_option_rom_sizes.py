"""Option ROMs of the tree's own tools; whether they fit; padding; what is in a chip."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roms.toolchain.option_rom import CodeType, OptionROMError, check_fits, identify, pad, problems, read
from tests.roms.ipxe_tree import Tree
from tests.roms.option_roms import (
    CARD,
    KIB,
    PCIR,
    WRONG_SUM,
    bios_image,
    changed,
    efi_image,
    flipped,
    hidden_image,
    qemu_rom,
    tried,
    zeroed,
)

# What the tree's own tools say of what it builds

NO_CARD = "an option ROM without a PCI card."


@pytest.mark.e2e
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "target",
    ["bin/80861229.rom", "bin/80861229.mrom", "bin/80861229--80861209.rom", "bin/10ec8139.rom", "bin/intel.rom"],
)
def test_roms_that_are_built_are_read_as_the_trees_own_tool_reads_them(target: str, tmp_path: Path) -> None:
    tree = Tree()
    data = tree.build(target)
    (tmp_path / "rom").write_bytes(data)
    assert described(data) == printed(tree, tmp_path / "rom")
    rom = read(data)
    assert (rom.images[-1].code_type is CodeType.HIDDEN) == target.endswith(".mrom")
    assert bool(problems(data, *CARD)) != ("80861229" in target)
    assert (rom.images[0].manufacturer, rom.images[0].product) == ("https://ipxe.org", "iPXE")


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_a_combined_rom_that_is_built_is_read_as_the_trees_own_tool_reads_it(tmp_path: Path) -> None:
    tree = Tree()
    parts = {"bios": tree.build("bin/80861229.rom"), "efi": tree.build("bin-x86_64-efi/80861229.efirom")}
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    combined = tree.tool("catrom.pl", tmp_path / "bios", tmp_path / "efi")
    (tmp_path / "rom").write_bytes(combined)
    for name, data in (parts | {"rom": combined}).items():
        assert described(data) == printed(tree, tmp_path / name)
        assert problems(data, *CARD) == []
    assert read(combined).kinds == "BIOS and UEFI (x64)"
    assert read(parts["efi"]).images[0].compressed


def described(data: bytes) -> list[set[str]]:
    """Each image in the words of disrom.pl."""
    return [
        {
            f"offset: 0x{image.offset:08x}",
            f"Vendor ID: 0x{image.vendor:04x}",
            f"Device ID: 0x{image.device:04x}",
            *([f"Device list: {', '.join(f'0x{device:04x}' for device in image.devices)}"] if image.devices else []),
            f"Device class: 0x{image.class_code:06x}",
            f"Image length: 0x{image.length // 512:04x} ({image.length})",
            f"Code type: 0x{image.code_type:02x}",
            *([f"Build ID: 0x{image.build_id:08x}"] if image.build_id is not None else []),
            *([f"EFI Machine type: 0x{image.machine:04x}"] if image.machine else []),
        }
        for image in read(data).images
    ]


def printed(tree: Tree, rom: Path) -> list[set[str]]:
    """What disrom.pl says of each image, as far as `described` says it too."""
    named = r"offset|Vendor ID|Device ID|Device list|Device class|Image length|Code type|Build ID|EFI Machine type"
    images = []
    for part in tree.tool("disrom.pl", rom).decode().split("Index: ")[1:]:
        assert "INCORRECT" not in part
        # An empty list is printed as one.
        found = re.findall(rf"(?:^ +|, )({named}): +(\S.*)", part, re.MULTILINE)
        images.append({f"{name}: {value}" for name, value in found})
    return images


# Does it fit?


def test_a_rom_for_the_card_and_its_chip_fits() -> None:
    data = bios_image()
    assert problems(data, *CARD, 64 * KIB) == []
    assert check_fits(data, *CARD, 512) == read(data)


def test_a_card_in_the_list_of_devices_is_the_roms_card() -> None:
    assert problems(bios_image(), 0x8086, 0x1209) == []


@pytest.mark.parametrize("card", [(0x8086, 0x100E), (0x10EC, 0x1229), (0, 0)])
def test_a_rom_for_another_card_names_both(card: tuple[int, int]) -> None:
    (problem,) = problems(bios_image(), *card)
    assert "8086:1229, 8086:1209" in problem
    assert f"{card[0]:04x}:{card[1]:04x}" in problem


def test_every_image_is_for_the_card() -> None:
    data = bios_image(last=False) + efi_image(card=(0x8086, 0x100E))
    (problem,) = problems(data, *CARD)
    assert "Image 2 of the ROM (UEFI (x64)) is made for 8086:100e" in problem


def test_a_rom_made_of_a_drivers_name_is_for_no_card() -> None:
    # What `make bin/intel.rom` builds.
    assert "not made for a card" in problems(bios_image(card=(0, 0)), *CARD)[0]


def test_a_rom_for_something_else_than_a_network_card_does_not_fit() -> None:
    (problem,) = problems(bios_image(class_code=3), *CARD)
    assert "not for a network card" in problem


def test_an_image_that_no_pc_starts_does_not_fit() -> None:
    assert "no image that the firmware of a PC starts" in problems(changed(bios_image(), PCIR + 0x14, b"\1"), *CARD)[0]


def test_a_rom_larger_than_the_chip_is_refused_with_both_sizes() -> None:
    (problem,) = problems(bios_image(2), *CARD, 512)
    assert "1,024 bytes" in problem
    assert "512 more than the chip" in problem


def test_a_size_that_is_no_multiple_of_512_is_refused() -> None:
    (problem,) = problems(bios_image() + b"\xff", *CARD)
    assert "513 bytes" in problem


def test_an_efi_image_that_was_damaged_does_not_fit() -> None:
    (problem,) = problems(flipped(efi_image(), 0x100, 3), *CARD)
    assert "damaged" in problem


def test_the_sum_of_an_efi_image_counts_only_where_it_is_the_last() -> None:
    # catrom.pl clears its last-image flag, and leaves the sum.
    first = changed(efi_image(), PCIR + 0x15, b"\0", fix=False)
    assert problems(first + efi_image(), *CARD) == []


def test_what_is_no_option_rom_fits_nowhere() -> None:
    found = problems(b"#!ipxe\n", *CARD, 4)
    assert len(found) == 3
    with pytest.raises(OptionROMError, match=r"not an option ROM.* multiple of 512.* more than the chip"):
        check_fits(b"#!ipxe\n", *CARD, 4)


# Padding


def test_padding_fills_the_chip_exactly() -> None:
    data = qemu_rom("pxe-eepro100.rom")
    padded = pad(data, 128 * KIB)
    assert len(padded) == 128 * KIB
    assert padded == data + b"\xff" * (128 * KIB - len(data))
    assert problems(padded, *CARD, 128 * KIB) == []


def test_what_fills_the_chip_already_is_left_alone() -> None:
    assert pad(b"\x55" * 512, 512) == b"\x55" * 512


@pytest.mark.parametrize("more", [1, 512, 64 * KIB])
def test_what_is_larger_than_the_chip_is_not_padded_to_its_double(more: int) -> None:
    with pytest.raises(OptionROMError, match="more than the chip"):
        pad(bytes(64 * KIB + more), 64 * KIB)


# What is in a chip?


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: b"", "nothing at all"),
        (lambda: b"\xff" * 512, "erased (every byte is ff)"),
        (lambda: b"\0" * 512, "nothing (every byte is 00)"),
        (lambda: b"\x12\x34" * 256, "not an option ROM"),
        (
            lambda: pad(bios_image(), 64 * KIB),
            "iPXE for 8086:1229, BIOS, build ID deadbeef, 512 of 65,536 bytes",
        ),
        (
            lambda: pad(qemu_rom("efi-e1000.rom"), 256 * KIB),
            "iPXE for 8086:100e, BIOS and UEFI (x64), build ID 732c62a4, 249,856 of 262,144 bytes",
        ),
        (
            lambda: changed(bios_image(), 0x10, b"\0\0"),
            "an option ROM for 8086:1229, BIOS, “https://ipxe.org iPXE”, 512 of 512 bytes",
        ),
        (lambda: efi_image(), "an option ROM for 8086:1229, UEFI (x64), 512 of 512 bytes"),
        (
            lambda: flipped(bios_image(), 0x1FF, 0),
            f"iPXE for 8086:1229, incomplete or damaged. {WRONG_SUM}",
        ),
        (
            lambda: bios_image()[: PCIR + 0x17],
            f"{NO_CARD} Image 1 of the ROM, at 0x0, has no PCI header: 0x1c is not a valid position.",
        ),
        (
            lambda: b"\x55\xaa\x01" + bytes(509),
            f"{NO_CARD} Image 1 of the ROM, at 0x0, has no PCI header: 0x0 is not a valid position.",
        ),
        (
            lambda: b"\x55\xaa\x01",
            f"{NO_CARD} Image 1 of the ROM, at 0x0, is cut off within its header.",
        ),
    ],
)
def test_a_chips_contents_are_named(data: Callable[[], bytes], said: str) -> None:
    assert identify(data()) == said


# Anything


def spoilt() -> Iterator[bytes]:
    yield bios_image()
    yield bios_image(2, last=False) + efi_image()
    yield bios_image(last=False) + hidden_image(2)


@st.composite
def nearly_roms(draw: st.DrawFn) -> bytes:
    """Option ROMs with a few bytes changed: most in the headers, and with the sum put right again."""
    data = bytearray(draw(st.sampled_from(list(spoilt()))))
    where = st.integers(0, 0x60) | st.integers(0, len(data) - 1)
    interesting = st.sampled_from([0, 1, 0x17, 0x18, 0x1A, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255)
    for place, value in draw(st.lists(st.tuples(where, interesting), max_size=8)):
        data[place] = value
    if draw(st.booleans()):
        zeroed(data, 6, 0, min(len(data), data[2] * 512 or 512))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


@given(st.binary(max_size=2048).map(lambda rest: b"\x55\xaa" + rest) | st.binary() | nearly_roms())
@example(b"\x55\xaa\x01")
def test_any_bytes_are_read_or_refused_and_named(data: bytes) -> None:
    assert identify(data)
    rom, why = tried(data)
    if rom:
        assert rom.size + rom.padding == len(data)
        assert all(image.length > 0 for image in rom.images)
        assert [image.last for image in rom.images] == [False] * (len(rom.images) - 1) + [True]
    else:
        assert problems(data, *CARD)[0] == why
