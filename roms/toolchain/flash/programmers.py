"""The flashrom programmers that the site uses: those for network cards, and one for the practice chip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from roms.toolchain.flash.pci import PCISlot

#: flashrom's programmers for the boot ROMs of network cards. The site uses no others. Each has one parameter, the slot
#: (flashrom 1.3 to 1.8, programmers/*.c). nicintel_eeprom is missing on purpose: it writes the settings of the card.
NIC_PROGRAMMERS = ("nic3com", "nicintel", "nicintel_spi", "nicnatsemi", "nicrealtek")
#: flashrom's programmer without hardware, for practice.
DUMMY = "dummy"


class WrongProgrammerError(ValueError):
    """The site must not use this programmer. The message lists the allowed ones."""


@dataclass(frozen=True)
class Programmer:
    """A programmer for a card's chip: one of NIC_PROGRAMMERS.

    Raises WrongProgrammerError for other names. The name becomes part of a command line, and "dummy" and other
    programmers read and write files.
    """

    name: str
    #: Whether this is the practice chip, without hardware.
    is_practice: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.name not in NIC_PROGRAMMERS:
            raise WrongProgrammerError(
                f"“{self.name[:40]}” is not a programmer for network cards. Choose one of {', '.join(NIC_PROGRAMMERS)}."
            )

    def argument(self, slot: PCISlot | None = None) -> str:
        """The value of flashrom's -p."""
        return self.name if slot is None else f"{self.name}:pci={slot}"


@dataclass(frozen=True)
class PracticeChip:
    """The practice chip: flashrom's dummy programmer, with the contents in a file of the site.

    The site alone chooses the file. `size` is in bytes, a multiple of 1 KiB.
    """

    image: Path
    size: int
    name: ClassVar[str] = DUMMY
    is_practice: ClassVar[bool] = True

    def __post_init__(self) -> None:
        # A comma would start another parameter.
        if not re.fullmatch(r"[^,=\x00-\x1f\x7f]+", str(self.image)):
            raise WrongProgrammerError(
                f"flashrom cannot use {self.image}: the path has a comma or an equals sign. Move the data directory "
                "(RESCUESITE_DATA_DIR)."
            )

    def argument(self, slot: PCISlot | None = None) -> str:
        """The value of flashrom's -p. The slot is ignored."""
        return f"{DUMMY}:emulate=VARIABLE_SIZE,size={self.size},image={self.image}"
