"""What tests of option ROMs share."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from roms.toolchain.option_rom import OptionROM, OptionROMError, read

#: iPXE of 2019, as QEMU uses it; the package ipxe-qemu.
QEMU_ROMS = Path("/usr/lib/ipxe/qemu")
KIB = 1024
CARD = (0x8086, 0x1229)
#: Where the made images have their headers.
IPXE, UNDI, PCIR, PNP, DEVICES, TEXTS = 0x100, 0x110, 0x1C, 0x40, 0x140, 0x180
WRONG_SUM = "Image 1 of the ROM, at 0x0, is damaged: the sum of its bytes is 0x01 instead of 0x00."


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
