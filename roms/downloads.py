"""What is taken out of the site: ROMs and saved contents, as they are or filled up to a chip's size."""

from __future__ import annotations

from django.core.exceptions import ValidationError

from machines.models.stored_file import DamagedFileError
from roms.models import Build
from roms.toolchain.option_rom import OptionROMError, pad

#: Instead of a number: the size of the chip that the ROM was made for.
CHIP = "chip"
#: No card's chip is larger; in bytes.
MAX_PAD = 16 << 20


def pad_size(build: Build, text: str) -> int:
    """To how many bytes a ROM is to be filled up: a number, or `chip`. Raises ValidationError."""
    if not build.is_rom:
        raise ValidationError({"pad": f"An {build.target} is not a ROM; it does not go into a chip."})
    if text == CHIP:
        size = build.chip_size or (build.card.chip_size if build.card else None)
        if size is None:
            raise ValidationError({"pad": "How large this card's chip is, is not known; name a number of bytes."})
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= MAX_PAD):
        raise ValidationError({"pad": f"Write a number of bytes up to {MAX_PAD}, or “{CHIP}”."})
    return int(text)


def padded(build: Build, text: str) -> bytes:
    """The ROM of a build that has one, filled up with ff to exactly that size. Raises ValidationError."""
    size = pad_size(build, text)
    assert build.artifact
    if build.artifact.size > size:
        raise ValidationError({"pad": f"The ROM has {build.artifact.size:,} bytes, more than {size:,}."})
    try:
        return pad(build.artifact.contents(), size)
    except (OptionROMError, DamagedFileError) as error:
        raise ValidationError({"pad": str(error)}) from error
