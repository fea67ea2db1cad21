"""Option ROMs: what is in one, whether it fits a card and its chip, and padding it to the chip's size. Pure.

The format: PCI Firmware Specification 3.0 section 5.1, UEFI 2.10 section 14.4.2, and iPXE's src/util/Option/ROM.pm,
whose output for the same bytes agrees with this reader's. What is kept here besides: the three headers that iPXE
puts into its BIOS images, and the second half of its .mrom files, which a BIOS never sees.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Lengths in an option ROM are counted in these.
BLOCK = 512
#: What flash chips read as when erased.
ERASED = 0xFF

_SIGNATURE = b"\x55\xaa"
_EFI_SIGNATURE = 0x0EF1
_HEADER = 0x1A
_PCIR = 0x18
_LAST = 0x80
_NETWORK = 0x02
_MAX_TEXT = 64


class OptionROMError(ValueError):
    """The bytes are no option ROM, or not one that fits; the message says why, for a person."""


class CodeType(enum.IntEnum):
    """What an image is written for."""

    X86 = 0
    OPEN_FIRMWARE = 1
    EFI = 3
    #: The second half of an iPXE .mrom: firmware skips it, the first half fetches it.
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
    """One image of an option ROM. Offset and length are in bytes; texts are printable and bounded."""

    offset: int
    length: int
    code_type: CodeType
    vendor: int
    device: int
    #: Further devices of the same vendor (PCI 3.0), the first one usually among them.
    devices: tuple[int, ...]
    pcir_revision: int
    #: Base class, subclass and programming interface: 0x020000 is Ethernet.
    class_code: int
    last: bool
    #: Whether its bytes add up to zero. They must in an image for a BIOS; iPXE sees to it in its EFI images too.
    sums_to_zero: bool
    #: EFI only: the PE machine type, and whether the program is compressed.
    machine: int | None = None
    compressed: bool = False
    #: BIOS only, from the PnP header.
    manufacturer: str = ""
    product: str = ""
    #: BIOS only, from iPXE's own header: the same for the same sources, options and script.
    build_id: int | None = None

    def is_for(self, vendor: int, device: int) -> bool:
        """Whether firmware starts it for this card."""
        return self.vendor == vendor and device in {self.device, *self.devices}

    @property
    def kind(self) -> str:
        """What starts it, in words."""
        if self.code_type is CodeType.EFI:
            return f"UEFI ({MACHINES.get(self.machine or 0, f'machine {self.machine:#06x}')})"
        return {CodeType.X86: "BIOS", CodeType.OPEN_FIRMWARE: "Open Firmware"}.get(self.code_type, "hidden half")


@dataclass(frozen=True)
class OptionROM:
    """A whole option ROM: its images, and how many bytes of padding follow the last one."""

    images: tuple[Image, ...]
    padding: int

    @property
    def size(self) -> int:
        """How many bytes the images take."""
        return self.images[-1].offset + self.images[-1].length

    @property
    def vendor(self) -> int:
        return self.images[0].vendor

    @property
    def device(self) -> int:
        return self.images[0].device

    @property
    def build_id(self) -> int | None:
        """iPXE's build id; None where no image for a BIOS has one."""
        return next((image.build_id for image in self.images if image.build_id is not None), None)

    @property
    def kinds(self) -> str:
        """What can start it, in words: “BIOS and UEFI (x64)”."""
        kinds = (image.kind for image in self.images if image.code_type is not CodeType.HIDDEN)
        return " and ".join(dict.fromkeys(kinds))


def read(data: bytes) -> OptionROM:
    """Read all images of an option ROM, padded or not.

    Raises OptionROMError for everything that a BIOS or a UEFI would not start, among it a checksum that is wrong. One
    is not checked in EFI images: their specification asks for none, and though iPXE's add up to zero, one that has been
    joined with another behind it no longer does. `sums_to_zero` tells. The hidden half of an .mrom has none either.
    """
    images: list[Image] = []
    while not images or not images[-1].last:
        images.append(_image(data, images))
    end = images[-1].offset + images[-1].length
    # The first character that is neither 00 nor ff ends what is stripped on either side.
    if data[end:].strip(b"\x00\xff"):
        raise OptionROMError(
            f"Behind its last image, at {end:#x}, the ROM holds something that is not padding (bytes ff or 00)."
        )
    return OptionROM(tuple(images), len(data) - end)


def problems(data: bytes, vendor: int, device: int, chip_size: int | None = None) -> list[str]:
    """Why this file is not to be written to that card: one sentence for each reason, none where it may be.

    Without `chip_size` (in bytes) a ROM of any size is as good as another: whether a build is one is another question
    than whether it fits.
    """
    try:
        rom = read(data)
    except OptionROMError as error:
        return [str(error), *_size_problems(len(data), chip_size)]
    return [*_card_problems(rom, vendor, device), *_size_problems(len(data), chip_size)]


def check_fits(data: bytes, vendor: int, device: int, chip_size: int | None = None) -> OptionROM:
    """Read a ROM that is about to be written. Raises OptionROMError with all that `problems` finds."""
    if found := problems(data, vendor, device, chip_size):
        raise OptionROMError(" ".join(found))
    return read(data)


def pad(data: bytes, size: int) -> bytes:
    """Fill up with ff, what an erased chip holds, to exactly `size` bytes.

    Raises OptionROMError where there are more already: `dd conv=sync` would silently make it two blocks.
    """
    if too_large := _too_large(len(data), size):
        raise OptionROMError(too_large)
    return data + bytes([ERASED]) * (size - len(data))


def identify(data: bytes) -> str:
    """What a chip holds, in a few words for a person. Takes any bytes."""
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
        return f"iPXE {made_for}, build id {rom.build_id:08x}, {used}"
    names = " ".join(filter(None, (rom.images[0].manufacturer, rom.images[0].product)))
    return f"an option ROM {made_for}{f', “{names}”' if names else ''}, {used}"


def _identify_broken(data: bytes, error: OptionROMError) -> str:
    if not data.startswith(_SIGNATURE):
        return "not an option ROM"
    pcir = _u16(data, 0x18) if len(data) >= _HEADER else 0
    if len(data) < pcir + _PCIR or data[pcir : pcir + 4] != b"PCIR":
        return f"an option ROM that names no PCI card. {error}"
    whose = "iPXE" if b"iPXE" in data[:0x200] else "an option ROM"
    card = f"{_u16(data, pcir + 4):04x}:{_u16(data, pcir + 6):04x}"
    return f"{whose} for {card} that does not read as a whole one. {error}"


def _card_problems(rom: OptionROM, vendor: int, device: int) -> Iterator[str]:
    card = f"{vendor:04x}:{device:04x}"
    if not {CodeType.X86, CodeType.EFI}.intersection(image.code_type for image in rom.images):
        yield "The ROM holds no image that a PC's firmware starts."
    for number, image in enumerate(rom.images, 1):
        if image.code_type is CodeType.HIDDEN:
            # Firmware never looks at it.
            continue
        its = f"{image.vendor:04x}:{image.device:04x}"
        which = f"Image {number} of the ROM ({image.kind})"
        if not image.vendor:
            yield f"{which} is made for no card ({its}), so no firmware starts it; build it for {card}."
        elif not image.is_for(vendor, device):
            others = "".join(f", {image.vendor:04x}:{other:04x}" for other in image.devices if other != image.device)
            yield f"{which} is made for {its}{others}, and the card is {card}."
        if image.class_code >> 16 != _NETWORK:
            yield f"{which} is not for a network card (its class is {image.class_code:06x})."
        # What joins images fixes the sum of an EFI image only where nothing follows.
        if image.code_type is CodeType.EFI and image.last and not image.sums_to_zero:
            yield f"{which} is damaged: its bytes do not add up to zero, as iPXE makes them."


def _size_problems(size: int, chip_size: int | None) -> Iterator[str]:
    if size % BLOCK:
        yield f"The ROM has {size:,} bytes, and an option ROM has a multiple of {BLOCK}; it is not complete."
    if chip_size is not None and (too_large := _too_large(size, chip_size)):
        yield too_large


def _too_large(size: int, chip_size: int) -> str:
    if size <= chip_size:
        return ""
    return (
        f"The ROM has {size:,} bytes, and the chip has room for {chip_size:,}: {size - chip_size:,} too many; "
        "build it with fewer features."
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
            f"{what} has {length:,} bytes, {offset + length - len(data):,} more than there are; it is cut off."
        )
    image = data[offset : offset + length]
    pcir -= offset
    if not _PCIR <= (header := _u16(image, pcir + 0x0A)) <= length - pcir:
        raise OptionROMError(f"{what} has a PCI header of {header} bytes, which it cannot have.")
    try:
        code_type = CodeType(image[pcir + 0x14])
    except ValueError:
        raise OptionROMError(f"{what} is of the unknown code type {image[pcir + 0x14]:#04x}.") from None
    if code_type is CodeType.HIDDEN and (not before or before[-1].code_type is not CodeType.X86):
        raise OptionROMError(f"{what} is the hidden half of a BIOS image, and that image is not before it.")
    about: dict[str, Any] = {}
    if code_type is CodeType.X86:
        about = _about_bios(image, what)
    elif code_type is CodeType.EFI:
        about = _about_efi(image, what)
    total = sum(image) % 256
    if total and code_type in {CodeType.X86, CodeType.OPEN_FIRMWARE}:
        raise OptionROMError(f"{what} is damaged: the sum of its bytes is {total:#04x}, and must be 0x00.")
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
    """Where the PCI data structure of the image at `offset` begins in `data`."""
    if data[offset : offset + 2] != _SIGNATURE:
        if not before:
            raise OptionROMError("This is not an option ROM: it does not begin with the bytes 55 aa.")
        raise OptionROMError(
            f"Image {before} of the ROM is not marked as the last one, and no other begins where it ends ({offset:#x})."
        )
    what = f"Image {before + 1} of the ROM, at {offset:#x},"
    if len(data) < offset + _HEADER:
        raise OptionROMError(f"{what} is cut off within its header.")
    pointer = _u16(data, offset + 0x18)
    if pointer < _HEADER or offset + pointer + _PCIR > len(data):
        raise OptionROMError(f"{what} has no PCI header: none can be at {pointer:#x}.")
    if data[offset + pointer : offset + pointer + 4] != b"PCIR":
        raise OptionROMError(f"{what} has no PCI header: no “PCIR” is at {pointer:#x}.")
    return offset + pointer


def _devices(image: bytes, pcir: int, what: str) -> tuple[int, ...]:
    """The list of further devices; before revision 3 its pointer meant something else (vital product data)."""
    pointer = _u16(image, pcir + 0x08)
    if image[pcir + 0x0C] < 3 or not pointer:
        return ()
    devices: list[int] = []
    for at in range(pcir + pointer, len(image) - 1, 2):
        if not (device := _u16(image, at)):
            return tuple(devices)
        devices.append(device)
    raise OptionROMError(f"{what} has a list of devices that does not end.")


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
        raise OptionROMError(f"{what} says that it is for UEFI, and lacks UEFI's signature.")
    # The third byte is the lower half of a 16-bit length here, not a BIOS image's length.
    initialisation = _u16(image, 2) * BLOCK
    if not 0 < initialisation <= len(image):
        raise OptionROMError(
            f"{what} has two lengths: {initialisation:,} bytes in its first header, {len(image):,} in the PCI header."
        )
    if not _HEADER <= _u16(image, 0x16) < len(image):
        raise OptionROMError(f"{what} has its program at {_u16(image, 0x16):#x}, where none can be.")
    return {"machine": _u16(image, 0x0A), "compressed": _u16(image, 0x0C) != 0}


def _header(
    image: bytes, pointer_at: int, signature: bytes, what: str, *, size_at: int, minimum: int, unit: int = 1
) -> int | None:
    """Where one of the checksummed headers begins; None where there is none.

    Raises OptionROMError for one that is cut off, or does not add up to zero.
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
        raise OptionROMError(f"{what} has a {name} header of {size} bytes, which it cannot have.")
    if sum(image[at : at + size]) % 256:
        raise OptionROMError(f"{what} has a damaged {name} header: its bytes do not add up to zero.")
    return at


def _text(image: bytes, at: int) -> str:
    """A text that ends with a zero byte; where `at` is zero there is none."""
    raw = image[at : at + _MAX_TEXT].partition(b"\0")[0] if at else b""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in raw)


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")
