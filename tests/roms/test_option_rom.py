"""Option ROMs are read as firmware reads them: real ones entirely, damaged ones not at all."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roms.toolchain.option_rom import CodeType, OptionROM, OptionROMError, check_fits, identify, pad, problems, read
from tests.roms.ipxe_tree import Tree

#: iPXE of 2019, as QEMU uses it; the package ipxe-qemu.
QEMU_ROMS = Path("/usr/lib/ipxe/qemu")
KIB = 1024
CARD = (0x8086, 0x1229)
#: Where the made images have their headers.
IPXE, UNDI, PCIR, PNP, DEVICES, TEXTS = 0x100, 0x110, 0x1C, 0x40, 0x140, 0x180
WRONG_SUM = "Image 1 of the ROM, at 0x0, is damaged: the sum of its bytes is 0x01, and must be 0x00."


def qemu_rom(name: str) -> bytes:
    if not QEMU_ROMS.is_dir():
        pytest.skip("the package ipxe-qemu is not installed")
    return (QEMU_ROMS / name).read_bytes()


def pcir(
    blocks: int, code_type: int, *, last: bool, card: tuple[int, int] = CARD, devices_at: int = 0, class_code: int = 2
) -> bytes:
    indicator = 0x80 if last else 0
    pointer = devices_at - PCIR if devices_at else 0
    head = struct.pack("<4sHHHHB3B", b"PCIR", *card, pointer, 0x1C, 3, 0, 0, class_code)
    return head + struct.pack("<HHBBHHH", blocks, 1, code_type, indicator, blocks, 0, 0)


def zeroed(data: bytearray, at: int, start: int, size: int) -> None:
    """Set the byte at `at` so that those from `start` add up to zero."""
    data[at] = 0
    data[at] = -sum(data[start : start + size]) % 256


def bios_image(
    blocks: int = 1,
    *,
    last: bool = True,
    card: tuple[int, int] = CARD,
    devices: tuple[int, ...] = (0x1209, 0x1229),
    class_code: int = 2,
) -> bytes:
    """An image as romprefix.S makes them, without a program."""
    data = bytearray(blocks * 512)
    data[0:3] = bytes([0x55, 0xAA, blocks])
    data[0x10:0x12] = IPXE.to_bytes(2, "little")
    data[0x16:0x1C] = struct.pack("<HHH", UNDI, PCIR, PNP)
    data[PCIR : PCIR + 0x1C] = pcir(blocks, 0, last=last, card=card, devices_at=DEVICES, class_code=class_code)
    for at, device in zip(range(DEVICES, TEXTS, 2), devices, strict=False):
        data[at : at + 2] = device.to_bytes(2, "little")
    data[TEXTS : TEXTS + 22] = b"https://ipxe.org\0iPXE\0"
    data[PNP : PNP + 0x12] = struct.pack("<4sBBHBBIHH", b"$PnP", 1, 2, 0, 0, 0, 0, TEXTS, TEXTS + 17)
    zeroed(data, PNP + 9, PNP, 0x20)
    data[UNDI : UNDI + 5] = b"UNDI\x16"
    zeroed(data, UNDI + 5, UNDI, 0x16)
    data[IPXE : IPXE + 12] = struct.pack("<4sBBBBI", b"iPXE", 12, 0, blocks, 0, 0xDEADBEEF)
    zeroed(data, IPXE + 5, IPXE, 12)
    return fixed(data)


def fixed(data: bytearray) -> bytes:
    """The same with the checksum of the whole put right."""
    zeroed(data, 6, 0, len(data))
    return bytes(data)


def efi_image(blocks: int = 1, *, last: bool = True, card: tuple[int, int] = CARD) -> bytes:
    """An image as efirom.c makes them, without a program."""
    data = bytearray(blocks * 512)
    data[0:14] = struct.pack("<HHIHHH", 0xAA55, blocks, 0x0EF1, 0x0B, 0x8664, 1)
    data[0x16:0x1A] = struct.pack("<HH", 0x38, PCIR)
    data[PCIR : PCIR + 0x1C] = pcir(blocks, 3, last=last, card=card)
    zeroed(data, 0x37, 0, len(data))
    return bytes(data)


def hidden_image(blocks: int = 1) -> bytes:
    """The second half of an .mrom (mromprefix.S); nothing says what it adds up to."""
    data = bytearray(b"\x7b") * (blocks * 512)
    data[0:3] = b"\x55\xaa\x01"
    data[0x18:0x1C] = struct.pack("<HH", PCIR, 0)
    data[PCIR : PCIR + 0x1C] = pcir(blocks, 0xFF, last=True)
    return bytes(data)


def changed(data: bytes, at: int, new: bytes, *, fix: bool = True) -> bytes:
    draft = bytearray(data)
    draft[at : at + len(new)] = new
    return fixed(draft) if fix else bytes(draft)


def flipped(data: bytes, byte: int, bit: int) -> bytes:
    draft = bytearray(data)
    draft[byte] ^= 1 << bit
    return bytes(draft)


def tried(data: bytes) -> tuple[OptionROM | None, str]:
    """What is read, or why nothing is."""
    try:
        return read(data), ""
    except OptionROMError as error:
        return None, str(error)


def refusal(data: bytes) -> str:
    """Why `read` takes it for no option ROM."""
    rom, why = tried(data)
    assert rom is None, f"{rom} was not refused"
    return why


# Real ones


def test_all_is_read_from_a_rom_for_a_bios() -> None:
    rom = read(qemu_rom("pxe-eepro100.rom"))
    (image,) = rom.images
    assert (rom.size, rom.padding, rom.vendor, rom.device) == (75_264, 0, *CARD)
    assert rom.build_id == 0x0EC32061
    assert (rom.is_ipxe, rom.is_mrom, rom.kinds) == (True, False, "BIOS")
    assert (image.code_type, image.devices, image.pcir_revision) == (CodeType.X86, (0x1229,), 3)
    assert (image.class_code, image.last, image.sums_to_zero) == (0x020000, True, True)
    assert (image.manufacturer, image.product) == ("http://ipxe.org", "iPXE")
    assert (image.machine, image.compressed) == (None, False)


def test_all_is_read_from_a_rom_for_a_bios_and_uefi() -> None:
    rom = read(qemu_rom("efi-e1000.rom"))
    bios, efi = rom.images
    assert rom.kinds == "BIOS and UEFI (x64)"
    assert (bios.offset, bios.length, bios.last) == (0, 75_264, False)
    # Its byte 2 would make it 43,520 bytes, were it an image for a BIOS.
    assert (efi.offset, efi.length, efi.last) == (75_264, 174_592, True)
    assert (efi.code_type, efi.machine, efi.compressed) == (CodeType.EFI, 0x8664, False)
    assert (efi.vendor, efi.device, efi.devices, efi.build_id) == (0x8086, 0x100E, (), None)
    assert (efi.pcir_revision, efi.sums_to_zero) == (0, True)


@pytest.mark.parametrize("name", ["pxe-pcnet.rom", "efi-rtl8139.rom", "efi-virtio.rom", "pxe-vmxnet3.rom"])
def test_a_rom_of_each_vendor_is_taken_for_its_card_and_no_other(name: str) -> None:
    data = qemu_rom(name)
    rom = read(data)
    assert problems(data, rom.vendor, rom.device) == []
    assert len(problems(data, *CARD)) == len(rom.images)


@pytest.mark.parametrize("size", [75_264, 80_000, 128 * KIB, 16_384 * KIB])
@pytest.mark.parametrize("filling", [0x00, 0xFF])
def test_padding_is_counted_and_else_changes_nothing(size: int, filling: int) -> None:
    data = qemu_rom("pxe-e1000.rom")
    padded = data + bytes([filling]) * (size - len(data))
    assert read(padded).images == read(data).images
    assert read(padded).padding == size - 75_264


def test_no_single_bit_of_a_real_bios_image_can_change() -> None:
    data = qemu_rom("pxe-eepro100.rom")
    places = [*range(0x100), *range(0x100, len(data), 499), len(data) - 1]
    assert all(refusal(flipped(data, place, bit)) for place in places for bit in range(8))


def test_no_single_bit_of_an_image_for_uefi_can_change_unseen() -> None:
    data = qemu_rom("efi-eepro100.rom")
    start = read(data).images[1].offset
    places = [*range(start, start + 0x38, 3), *range(start, len(data), 4_999)]
    assert all(problems(flipped(data, place, bit), *CARD) for place in places for bit in range(8))


def test_a_rom_that_was_cut_off_is_refused_wherever_it_was() -> None:
    data = qemu_rom("efi-eepro100.rom")
    lengths = [*range(0x60), *range(0, len(data), 512), 75_264 + 0x19, 75_264 + 0x33, len(data) - 1]
    assert all(refusal(data[:length]) for length in lengths)


# Made ones: each thing that can be wrong


def test_no_single_bit_of_a_bios_image_can_change() -> None:
    data = bios_image()
    assert read(data).build_id == 0xDEADBEEF
    assert all(refusal(flipped(data, place, bit)) for place in range(len(data)) for bit in range(8))


def test_no_bit_of_a_header_can_change_even_where_the_sum_of_the_whole_is_right() -> None:
    data = bios_image()
    headers = [*range(PNP, PNP + 0x20), *range(UNDI, UNDI + 0x16), *range(IPXE, IPXE + 12)]
    # A header that is no longer signed as one is none.
    signatures = {*range(PNP, PNP + 4), *range(UNDI, UNDI + 4), *range(IPXE, IPXE + 4)}
    for place in set(headers) - signatures:
        for bit in range(8):
            assert "header" in refusal(changed(flipped(data, place, bit), 6, b""))
    assert read(changed(flipped(data, IPXE, 0), 6, b"")).build_id is None


def test_a_pci_header_is_found_only_where_it_is() -> None:
    data = bios_image(2)
    for at in {*range(0x600), *range(0x600, 0x10000, 251)} - {PCIR}:
        assert "no PCI header" in refusal(changed(data, 0x18, at.to_bytes(2, "little")))


def test_a_pci_header_that_is_cut_off_is_none() -> None:
    assert "none can be at 0x1c" in refusal(bios_image()[: PCIR + 0x17])


def test_a_pci_header_that_reaches_behind_its_image_is_refused() -> None:
    data = bytearray(bios_image(2))
    data[0x1F0:0x20C] = pcir(1, 0, last=True)
    data[0x18:0x1A] = (0x1F0).to_bytes(2, "little")
    assert "a PCI header of 28 bytes, which it cannot have" in refusal(bytes(data))


@pytest.mark.parametrize("size", [0, 0x17, 0x1E5, 0xFFFF])
def test_a_pci_header_of_an_impossible_size_is_refused(size: int) -> None:
    assert "which it cannot have" in refusal(changed(bios_image(), PCIR + 0x0A, size.to_bytes(2, "little")))


def test_an_image_of_length_zero_is_refused() -> None:
    assert "length zero" in refusal(changed(bios_image(), PCIR + 0x10, b"\0\0"))


def test_an_image_that_runs_past_the_end_is_refused() -> None:
    assert "512 more than there are" in refusal(changed(bios_image(), PCIR + 0x10, b"\2\0"))


@pytest.mark.parametrize("blocks", [0, 1, 3, 0xFF])
def test_two_lengths_that_differ_are_refused(blocks: int) -> None:
    assert "two lengths" in refusal(changed(bios_image(2), 2, bytes([blocks])))


@pytest.mark.parametrize("blocks", [0, 2, 0x0155])
def test_an_efi_image_that_starts_with_more_than_it_has_is_refused(blocks: int) -> None:
    assert "two lengths" in refusal(changed(efi_image(), 2, blocks.to_bytes(2, "little"), fix=False))


def test_an_efi_image_without_the_signature_of_uefi_is_refused() -> None:
    assert "lacks UEFI's signature" in refusal(changed(efi_image(), 4, b"\xf2", fix=False))


@pytest.mark.parametrize("at", [0, 0x19, 512, 0xFFFF])
def test_an_efi_image_whose_program_is_elsewhere_is_refused(at: int) -> None:
    assert "program" in refusal(changed(efi_image(), 0x16, at.to_bytes(2, "little"), fix=False))


@pytest.mark.parametrize("code_type", [2, 4, 0x80, 0xFE])
def test_an_unknown_code_type_is_refused(code_type: int) -> None:
    assert f"unknown code type 0x{code_type:02x}" in refusal(changed(bios_image(), PCIR + 0x14, bytes([code_type])))


def test_a_list_of_devices_without_an_end_is_refused() -> None:
    data = bytearray(bios_image())
    data[DEVICES:] = b"\x29\x12" * ((512 - DEVICES) // 2)
    assert "list of devices" in refusal(fixed(data))


def test_the_devices_of_a_list_keep_their_order() -> None:
    assert read(bios_image(devices=(5, 4, 9))).images[0].devices == (5, 4, 9)


def test_before_revision_3_there_is_no_list_of_devices() -> None:
    assert read(changed(bios_image(), PCIR + 0x0C, b"\2")).images[0].devices == ()


def test_a_wrong_sum_is_refused() -> None:
    assert refusal(changed(bios_image(), 0x1FF, b"\1", fix=False)) == WRONG_SUM


@pytest.mark.parametrize(("pointer", "signature"), [(0x10, b"iPXE"), (0x16, b"UNDI"), (0x1A, b"$PnP")])
def test_a_header_that_is_cut_off_is_refused(pointer: int, signature: bytes) -> None:
    data = changed(bios_image(), 0x1F8, signature)
    assert "cut off" in refusal(changed(data, pointer, (0x1F8).to_bytes(2, "little")))


def test_a_rom_without_a_last_image_is_refused() -> None:
    data = bios_image(last=False)
    for rest in (b"", b"\xff" * 512, b"\x00" * 512, b"\x55"):
        assert "not marked as the last one" in refusal(data + rest)
    # Only the highest bit says so.
    assert "not marked as the last one" in refusal(changed(data, PCIR + 0x15, b"\x7f"))


@pytest.mark.parametrize("rest", [b"\1", b"\xff" * 700 + b"\xfe", b"\x55\xaa", b"\0" * 511 + b"A" + b"\0" * 512])
def test_what_follows_the_last_image_must_be_padding(rest: bytes) -> None:
    assert "not padding" in refusal(bios_image() + rest)


def test_an_image_without_headers_of_ipxe_is_an_option_rom_all_the_same() -> None:
    data = bytearray(bios_image())
    data[0x10:0x12], data[0x16:0x18], data[0x1A:0x1C] = b"\0\0", b"\0\0", b"\0\0"
    image = read(fixed(data)).images[0]
    assert (image.build_id, image.manufacturer, image.product) == (None, "", "")


def test_texts_of_a_rom_are_bounded_and_printable() -> None:
    data = changed(bios_image(), TEXTS, b"\x1b[2J<\xe4>" + b"x" * 121)
    image = read(data).images[0]
    assert image.manufacturer == "?[2J<?>" + "x" * 57


def test_images_follow_each_other() -> None:
    rom = read(bios_image(2, last=False) + efi_image(3, last=False) + efi_image())
    assert [(image.offset, image.length) for image in rom.images] == [(0, 1024), (1024, 1536), (2560, 512)]
    assert [image.compressed for image in rom.images] == [False, True, True]
    assert all(one.offset + one.length == other.offset for one, other in pairwise(rom.images))


def test_both_halves_of_an_mrom_are_read() -> None:
    data = bios_image(last=False) + hidden_image(300)
    rom = read(data)
    assert (rom.is_mrom, rom.size, rom.kinds) == (True, 301 * 512, "BIOS")
    assert rom.code_types == (CodeType.X86, CodeType.HIDDEN)
    assert problems(data, *CARD) == []
    # One reason, not one for each half.
    assert len(problems(data, 0x10EC, 0x8139)) == 1


def test_the_hidden_half_of_an_mrom_is_nothing_alone() -> None:
    assert "hidden half" in refusal(hidden_image())
    assert "hidden half" in refusal(efi_image(last=False) + hidden_image())


# What the tree's own tools say of what it builds


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
    assert rom.is_mrom == target.endswith(".mrom")
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
    assert "made for no card" in problems(bios_image(card=(0, 0)), *CARD)[0]


def test_a_rom_for_something_else_than_a_network_card_does_not_fit() -> None:
    (problem,) = problems(bios_image(class_code=3), *CARD)
    assert "not for a network card" in problem


def test_an_image_that_no_pc_starts_does_not_fit() -> None:
    assert "no image that a PC's firmware starts" in problems(changed(bios_image(), PCIR + 0x14, b"\1"), *CARD)[0]


def test_a_rom_larger_than_the_chip_is_refused_with_both_sizes() -> None:
    (problem,) = problems(bios_image(2), *CARD, 512)
    assert "1,024 bytes" in problem
    assert "room for 512" in problem


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
    with pytest.raises(OptionROMError, match=r"not an option ROM.* multiple of 512.* room for 4"):
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
    with pytest.raises(OptionROMError, match="room for 65,536"):
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
            "iPXE for 8086:1229, BIOS, build id deadbeef, 512 of 65,536 bytes",
        ),
        (
            lambda: pad(qemu_rom("efi-e1000.rom"), 256 * KIB),
            "iPXE for 8086:100e, BIOS and UEFI (x64), build id 732c62a4, 249,856 of 262,144 bytes",
        ),
        (
            lambda: changed(bios_image(), 0x10, b"\0\0"),
            "an option ROM for 8086:1229, BIOS, “https://ipxe.org iPXE”, 512 of 512 bytes",
        ),
        (lambda: efi_image(), "an option ROM for 8086:1229, UEFI (x64), 512 of 512 bytes"),
        (
            lambda: flipped(bios_image(), 0x1FF, 0),
            f"iPXE for 8086:1229 that does not read as a whole one. {WRONG_SUM}",
        ),
        (
            lambda: bios_image()[: PCIR + 0x17],
            "an option ROM that names no PCI card. Image 1 of the ROM, at 0x0, has no PCI header: none can be at 0x1c.",
        ),
        (
            lambda: b"\x55\xaa\x01" + bytes(509),
            "an option ROM that names no PCI card. Image 1 of the ROM, at 0x0, has no PCI header: none can be at 0x0.",
        ),
        (
            lambda: b"\x55\xaa\x01",
            "an option ROM that names no PCI card. Image 1 of the ROM, at 0x0, is cut off within its header.",
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
