"""Downloads of ROMs, padded to a size."""

from __future__ import annotations

from django.core.exceptions import ValidationError

from machines.models.stored_file import DamagedFileError
from roms.models import Build
from roms.toolchain.option_rom import OptionROMError, pad

#: The word for the size of the ROM's own chip.
CHIP = "chip"
#: The largest size, in bytes. The chips of cards are smaller.
MAX_PAD = 16 << 20


def pad_size(build: Build, text: str) -> int:
    """The size in bytes that `text` asks for: a number, or `chip`. Raises ValidationError."""
    if not build.is_rom:
        raise ValidationError({"pad": f"The target {build.target} is not a ROM, so it cannot be padded to a chip."})
    if text == CHIP:
        size = build.chip_size or (build.card.chip_size if build.card else None)
        if size is None:
            raise ValidationError({"pad": "The size of this card's chip is unknown. Write a number of bytes."})
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= MAX_PAD):
        raise ValidationError({"pad": f"Write a number of bytes up to {MAX_PAD}, or “{CHIP}”."})
    return int(text)


def padded(build: Build, text: str) -> bytes:
    """The ROM of this build, padded with ff to exactly the given size. Raises ValidationError."""
    size = pad_size(build, text)
    assert build.artifact
    if build.artifact.size > size:
        raise ValidationError({"pad": f"The ROM has {build.artifact.size:,} bytes, more than {size:,}."})
    try:
        return pad(build.artifact.contents(), size)
    except (OptionROMError, DamagedFileError) as error:
        raise ValidationError({"pad": str(error)}) from error
