"""Option ROMs are read as firmware reads them: real ones entirely, damaged ones not at all."""

from __future__ import annotations

from itertools import pairwise

import pytest

from roms.toolchain.option_rom import CodeType, problems, read
from tests.roms.option_roms import (
    CARD,
    DEVICES,
    IPXE,
    KIB,
    PCIR,
    PNP,
    TEXTS,
    UNDI,
    WRONG_SUM,
    bios_image,
    changed,
    efi_image,
    fixed,
    flipped,
    hidden_image,
    pcir,
    qemu_rom,
    tried,
)


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
    assert rom.kinds == "BIOS"
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
    assert "0x1c is not a valid position" in refusal(bios_image()[: PCIR + 0x17])


def test_a_pci_header_that_reaches_behind_its_image_is_refused() -> None:
    data = bytearray(bios_image(2))
    data[0x1F0:0x20C] = pcir(1, 0, last=True)
    data[0x18:0x1A] = (0x1F0).to_bytes(2, "little")
    assert "a PCI header with the invalid size of 28 bytes" in refusal(bytes(data))


@pytest.mark.parametrize("size", [0, 0x17, 0x1E5, 0xFFFF])
def test_a_pci_header_of_an_impossible_size_is_refused(size: int) -> None:
    assert "invalid size" in refusal(changed(bios_image(), PCIR + 0x0A, size.to_bytes(2, "little")))


def test_an_image_of_length_zero_is_refused() -> None:
    assert "length zero" in refusal(changed(bios_image(), PCIR + 0x10, b"\0\0"))


def test_an_image_that_runs_past_the_end_is_refused() -> None:
    assert "512 are missing" in refusal(changed(bios_image(), PCIR + 0x10, b"\2\0"))


@pytest.mark.parametrize("blocks", [0, 1, 3, 0xFF])
def test_two_lengths_that_differ_are_refused(blocks: int) -> None:
    assert "two lengths" in refusal(changed(bios_image(2), 2, bytes([blocks])))


@pytest.mark.parametrize("blocks", [0, 2, 0x0155])
def test_an_efi_image_that_starts_with_more_than_it_has_is_refused(blocks: int) -> None:
    assert "two lengths" in refusal(changed(efi_image(), 2, blocks.to_bytes(2, "little"), fix=False))


def test_an_efi_image_without_the_signature_of_uefi_is_refused() -> None:
    assert "UEFI's signature is missing" in refusal(changed(efi_image(), 4, b"\xf2", fix=False))


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
    assert "other than padding" in refusal(bios_image() + rest)


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
    assert (rom.size, rom.kinds) == (301 * 512, "BIOS")
    assert [image.code_type for image in rom.images] == [CodeType.X86, CodeType.HIDDEN]
    assert problems(data, *CARD) == []
    # One reason, not one for each half.
    assert len(problems(data, 0x10EC, 0x8139)) == 1


def test_the_hidden_half_of_an_mrom_is_nothing_alone() -> None:
    assert "hidden half" in refusal(hidden_image())
    assert "hidden half" in refusal(efi_image(last=False) + hidden_image())
