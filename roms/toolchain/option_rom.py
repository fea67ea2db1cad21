"""Reads option ROMs, checks whether they fit a card and its chip, and pads them. Pure.

The format: PCI Firmware Specification 3.0 section 5.1, UEFI 2.10 section 14.4.2, and iPXE's src/util/Option/ROM.pm.
The tests compare the results with ROM.pm. This module also reads the three headers that iPXE adds to its BIOS images,
and the second half of its .mrom files, which a BIOS never sees.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: The unit of lengths in an option ROM, in bytes.
BLOCK = 512
#: The value of each byte in an erased flash chip.
ERASED = 0xFF

_SIGNATURE = b"\x55\xaa"
_EFI_SIGNATURE = 0x0EF1
_HEADER = 0x1A
_PCIR = 0x18
_LAST = 0x80
_NETWORK = 0x02
_MAX_TEXT = 64


class OptionROMError(ValueError):
    """The bytes are not a valid option ROM, or the ROM does not fit. The message says why."""


class CodeType(enum.IntEnum):
    """The platform of an image."""

    X86 = 0
    OPEN_FIRMWARE = 1
    EFI = 3
    #: The second half of an iPXE .mrom. Firmware skips it; the first half loads it.
    HIDDEN = 0xFF


#: PE machine types of EFI images.
MACHINES = {
    0x014C: "ia32",
    0x01C2: "arm",
    0x5032: "riscv32",
    0x5064: "riscv64",
    0x6264: "loongarch64",
    0x8664: "x64",
    0xAA64: "aa64",
}


@dataclass(frozen=True)
class Image:
    """One image of an option ROM. Offset and length are in bytes. Texts are printable and short."""

    offset: int
    length: int
    code_type: CodeType
    vendor: int
    device: int
    #: Further devices of the same vendor (PCI 3.0). The list usually includes `device`.
    devices: tuple[int, ...]
    pcir_revision: int
    #: Base class, subclass and programming interface: 0x020000 is Ethernet.
    class_code: int
    last: bool
    #: Whether the sum of all bytes is zero. BIOS images need this; iPXE also does it for EFI images.
    sums_to_zero: bool
    #: EFI only: the PE machine type, and whether the program is compressed.
    machine: int | None = None
    compressed: bool = False
    #: BIOS only, from the PnP header.
    manufacturer: str = ""
    product: str = ""
    #: BIOS only, from iPXE's own header. It depends on the sources, the options and the script.
    build_id: int | None = None

    def is_for(self, vendor: int, device: int) -> bool:
        """Whether firmware starts this image for this card."""
        return self.vendor == vendor and device in {self.device, *self.devices}

    @property
    def kind(self) -> str:
        """The firmware that starts this image, as text."""
        if self.code_type is CodeType.EFI:
            return f"UEFI ({MACHINES.get(self.machine or 0, f'machine {self.machine:#06x}')})"
        return {CodeType.X86: "BIOS", CodeType.OPEN_FIRMWARE: "Open Firmware"}.get(self.code_type, "hidden half")


@dataclass(frozen=True)
class OptionROM:
    """A complete option ROM: its images, and the number of padding bytes after the last one."""

    images: tuple[Image, ...]
    padding: int

    @property
    def size(self) -> int:
        """The size of all images in bytes, without padding."""
        return self.images[-1].offset + self.images[-1].length

    @property
    def vendor(self) -> int:
        return self.images[0].vendor

    @property
    def device(self) -> int:
        return self.images[0].device

    @property
    def build_id(self) -> int | None:
        """iPXE's build ID; None if no BIOS image has one."""
        return next((image.build_id for image in self.images if image.build_id is not None), None)

    @property
    def kinds(self) -> str:
        """The firmware that can start this ROM, for example “BIOS and UEFI (x64)”."""
        kinds = (image.kind for image in self.images if image.code_type is not CodeType.HIDDEN)
        return " and ".join(dict.fromkeys(kinds))


def read(data: bytes) -> OptionROM:
    """Read all images of an option ROM, with or without padding.

    Raises OptionROMError for a ROM that a BIOS or UEFI would not start, for example because of a wrong checksum. EFI
    images and the hidden half of an .mrom need no checksum, so `read` does not check it there; see `sums_to_zero`.
    """
    images: list[Image] = []
    while not images or not images[-1].last:
        images.append(_image(data, images))
    end = images[-1].offset + images[-1].length
    # strip() leaves any byte that is neither 00 nor ff.
    if data[end:].strip(b"\x00\xff"):
        raise OptionROMError(f"After the last image, at {end:#x}, the ROM has bytes other than padding (ff or 00).")
    return OptionROM(tuple(images), len(data) - end)


def problems(data: bytes, vendor: int, device: int, chip_size: int | None = None) -> list[str]:
    """The reasons why this ROM must not be written to this card, one sentence each; none if it may.

    `chip_size` is in bytes. Without it, the size of the chip is not checked.
    """
    try:
        rom = read(data)
    except OptionROMError as error:
        return [str(error), *_size_problems(len(data), chip_size)]
    return [*_card_problems(rom, vendor, device), *_size_problems(len(data), chip_size)]


def check_fits(data: bytes, vendor: int, device: int, chip_size: int | None = None) -> OptionROM:
    """Read a ROM for this card. Raises OptionROMError with everything that `problems` finds."""
    if found := problems(data, vendor, device, chip_size):
        raise OptionROMError(" ".join(found))
    return read(data)


def pad(data: bytes, size: int) -> bytes:
    """Pad with ff, the value of an erased chip, to `size` bytes. Raises OptionROMError if the data is larger."""
    if too_large := _too_large(len(data), size):
        raise OptionROMError(too_large)
    return data + bytes([ERASED]) * (size - len(data))


def identify(data: bytes) -> str:
    """A short description of the contents of a chip. Accepts any bytes."""
    if not data:
        return "nothing at all"
    if len(set(data)) == 1:
        return "erased (every byte is ff)" if data[0] == ERASED else f"nothing (every byte is {data[0]:02x})"
    try:
        rom = read(data)
    except OptionROMError as error:
        return _identify_broken(data, error)
    made_for = f"for {rom.vendor:04x}:{rom.device:04x}, {rom.kinds}"
    used = f"{rom.size:,} of {len(data):,} bytes"
    if rom.build_id is not None:
        return f"iPXE {made_for}, build ID {rom.build_id:08x}, {used}"
    names = " ".join(filter(None, (rom.images[0].manufacturer, rom.images[0].product)))
    return f"an option ROM {made_for}{f', “{names}”' if names else ''}, {used}"


def _identify_broken(data: bytes, error: OptionROMError) -> str:
    if not data.startswith(_SIGNATURE):
        return "not an option ROM"
    pcir = _u16(data, 0x18) if len(data) >= _HEADER else 0
    if len(data) < pcir + _PCIR or data[pcir : pcir + 4] != b"PCIR":
        return f"an option ROM without a PCI card. {error}"
    whose = "iPXE" if b"iPXE" in data[:0x200] else "an option ROM"
    card = f"{_u16(data, pcir + 4):04x}:{_u16(data, pcir + 6):04x}"
    return f"{whose} for {card}, incomplete or damaged. {error}"


def _card_problems(rom: OptionROM, vendor: int, device: int) -> Iterator[str]:
    card = f"{vendor:04x}:{device:04x}"
    if not {CodeType.X86, CodeType.EFI}.intersection(image.code_type for image in rom.images):
        yield "The ROM has no image that the firmware of a PC starts."
    for number, image in enumerate(rom.images, 1):
        if image.code_type is CodeType.HIDDEN:
            # Firmware never reads it.
            continue
        its = f"{image.vendor:04x}:{image.device:04x}"
        which = f"Image {number} of the ROM ({image.kind})"
        if not image.vendor:
            yield f"{which} is not made for a card ({its}), so firmware never starts it. Build it for {card}."
        elif not image.is_for(vendor, device):
            others = "".join(f", {image.vendor:04x}:{other:04x}" for other in image.devices if other != image.device)
            yield f"{which} is made for {its}{others}, but the card is {card}."
        if image.class_code >> 16 != _NETWORK:
            yield f"{which} is not for a network card (its class is {image.class_code:06x})."
        # If another image follows, iPXE does not correct the sum of an EFI image.
        if image.code_type is CodeType.EFI and image.last and not image.sums_to_zero:
            yield f"{which} is damaged: the sum of its bytes is not zero."


def _size_problems(size: int, chip_size: int | None) -> Iterator[str]:
    if size % BLOCK:
        yield f"The ROM is incomplete: it has {size:,} bytes, which is not a multiple of {BLOCK}."
    if chip_size is not None and (too_large := _too_large(size, chip_size)):
        yield too_large


def _too_large(size: int, chip_size: int) -> str:
    if size <= chip_size:
        return ""
    return (
        f"The ROM has {size:,} bytes, {size - chip_size:,} more than the chip ({chip_size:,}). "
        "Build it with fewer features."
    )


def _image(data: bytes, before: list[Image]) -> Image:
    """Read the image that follows those in `before`."""
    offset = before[-1].offset + before[-1].length if before else 0
    pcir = _pcir(data, offset, len(before))
    what = f"Image {len(before) + 1} of the ROM, at {offset:#x},"
    length = _u16(data, pcir + 0x10) * BLOCK
    if not length:
        raise OptionROMError(f"{what} has length zero.")
    if offset + length > len(data):
        raise OptionROMError(
            f"{what} is cut off: it should have {length:,} bytes, but {offset + length - len(data):,} are missing."
        )
    image = data[offset : offset + length]
    pcir -= offset
    if not _PCIR <= (header := _u16(image, pcir + 0x0A)) <= length - pcir:
        raise OptionROMError(f"{what} has a PCI header with the invalid size of {header} bytes.")
    try:
        code_type = CodeType(image[pcir + 0x14])
    except ValueError:
        raise OptionROMError(f"{what} has the unknown code type {image[pcir + 0x14]:#04x}.") from None
    if code_type is CodeType.HIDDEN and (not before or before[-1].code_type is not CodeType.X86):
        raise OptionROMError(f"{what} is the hidden half of a BIOS image, but that image is missing before it.")
    about: dict[str, Any] = {}
    if code_type is CodeType.X86:
        about = _about_bios(image, what)
    elif code_type is CodeType.EFI:
        about = _about_efi(image, what)
    total = sum(image) % 256
    if total and code_type in {CodeType.X86, CodeType.OPEN_FIRMWARE}:
        raise OptionROMError(f"{what} is damaged: the sum of its bytes is {total:#04x} instead of 0x00.")
    return Image(
        offset=offset,
        length=length,
        code_type=code_type,
        vendor=_u16(image, pcir + 0x04),
        device=_u16(image, pcir + 0x06),
        devices=_devices(image, pcir, what),
        pcir_revision=image[pcir + 0x0C],
        class_code=int.from_bytes(image[pcir + 0x0D : pcir + 0x10], "little"),
        last=bool(image[pcir + 0x15] & _LAST),
        sums_to_zero=not total,
        **about,
    )


def _pcir(data: bytes, offset: int, before: int) -> int:
    """The position of the PCI data structure of the image at `offset`."""
    if data[offset : offset + 2] != _SIGNATURE:
        if not before:
            raise OptionROMError("This is not an option ROM: it does not start with the bytes 55 aa.")
        raise OptionROMError(
            f"Image {before} of the ROM is not marked as the last one, but no image follows at {offset:#x}."
        )
    what = f"Image {before + 1} of the ROM, at {offset:#x},"
    if len(data) < offset + _HEADER:
        raise OptionROMError(f"{what} is cut off within its header.")
    pointer = _u16(data, offset + 0x18)
    if pointer < _HEADER or offset + pointer + _PCIR > len(data):
        raise OptionROMError(f"{what} has no PCI header: {pointer:#x} is not a valid position.")
    if data[offset + pointer : offset + pointer + 4] != b"PCIR":
        raise OptionROMError(f"{what} has no PCI header: “PCIR” is missing at {pointer:#x}.")
    return offset + pointer


def _devices(image: bytes, pcir: int, what: str) -> tuple[int, ...]:
    """The list of further devices. Before revision 3 this pointer had another meaning (vital product data)."""
    pointer = _u16(image, pcir + 0x08)
    if image[pcir + 0x0C] < 3 or not pointer:
        return ()
    devices: list[int] = []
    for at in range(pcir + pointer, len(image) - 1, 2):
        if not (device := _u16(image, at)):
            return tuple(devices)
        devices.append(device)
    raise OptionROMError(f"{what} has a list of devices without an end.")


def _about_bios(image: bytes, what: str) -> dict[str, Any]:
    if image[2] * BLOCK != len(image):
        raise OptionROMError(
            f"{what} has two lengths: {image[2] * BLOCK:,} bytes in its first header, {len(image):,} in the PCI header."
        )
    _header(image, 0x16, b"UNDI", what, size_at=4, minimum=0x16)
    ipxe = _header(image, 0x10, b"iPXE", what, size_at=4, minimum=0x0C)
    pnp = _header(image, 0x1A, b"$PnP", what, size_at=5, unit=16, minimum=0x20)
    return {
        "build_id": None if ipxe is None else int.from_bytes(image[ipxe + 8 : ipxe + 12], "little"),
        "manufacturer": "" if pnp is None else _text(image, _u16(image, pnp + 0x0E)),
        "product": "" if pnp is None else _text(image, _u16(image, pnp + 0x10)),
    }


def _about_efi(image: bytes, what: str) -> dict[str, Any]:
    if int.from_bytes(image[4:8], "little") != _EFI_SIGNATURE:
        raise OptionROMError(f"{what} is marked as a UEFI image, but UEFI's signature is missing.")
    # In EFI images the length has 16 bits; in BIOS images it has 8.
    initialisation = _u16(image, 2) * BLOCK
    if not 0 < initialisation <= len(image):
        raise OptionROMError(
            f"{what} has two lengths: {initialisation:,} bytes in its first header, {len(image):,} in the PCI header."
        )
    if not _HEADER <= _u16(image, 0x16) < len(image):
        raise OptionROMError(f"{what} has its program at the invalid position {_u16(image, 0x16):#x}.")
    return {"machine": _u16(image, 0x0A), "compressed": _u16(image, 0x0C) != 0}


def _header(
    image: bytes, pointer_at: int, signature: bytes, what: str, *, size_at: int, minimum: int, unit: int = 1
) -> int | None:
    """The position of a header with a checksum; None if there is no such header.

    Raises OptionROMError if the header is cut off or damaged.
    """
    if pointer_at + 2 > len(image):
        return None
    at = _u16(image, pointer_at)
    if not at or image[at : at + 4] != signature:
        return None
    name = signature.decode()
    if at + minimum > len(image):
        raise OptionROMError(f"{what} has a {name} header that is cut off.")
    size = image[at + size_at] * unit
    if size < minimum or at + size > len(image):
        raise OptionROMError(f"{what} has a {name} header with the invalid size of {size} bytes.")
    if sum(image[at : at + size]) % 256:
        raise OptionROMError(f"{what} has a damaged {name} header: the sum of its bytes is not zero.")
    return at


def _text(image: bytes, at: int) -> str:
    """The text at this position, up to a zero byte; empty if the position is zero."""
    raw = image[at : at + _MAX_TEXT].partition(b"\0")[0] if at else b""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in raw)


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")
