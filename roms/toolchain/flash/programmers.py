"""What flashrom may reach a chip through: the programmers of network cards, and the practice chip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from roms.toolchain.flash.pci import PCISlot

#: flashrom's programmers for the boot ROMs of network cards, and all that a card can be flashed with. Each takes one
#: parameter, the slot (flashrom 1.3 to 1.8, programmers/*.c). nicintel_eeprom is not among them: it writes the card's
#: own settings.
NIC_PROGRAMMERS = ("nic3com", "nicintel", "nicintel_spi", "nicnatsemi", "nicrealtek")
#: flashrom's programmer without a card, for practice.
DUMMY = "dummy"


class WrongProgrammerError(ValueError):
    """No programmer that a card may be flashed with; the message says which ones are."""


@dataclass(frozen=True)
class Programmer:
    """What flashrom reaches a card's chip through: one of NIC_PROGRAMMERS. The slot comes extra.

    Raises WrongProgrammerError for anything else: "dummy" and others read and write files that they are told.
    """

    name: str
    #: Whether there is no card.
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
    """A chip to practise with: flashrom's dummy programmer, with the chip's contents in a file of the site's own.

    No text that somebody writes leads here: the site names the file. `size` is a multiple of 1 KiB, in bytes.
    """

    image: Path
    size: int
    name: ClassVar[str] = DUMMY
    is_practice: ClassVar[bool] = True

    def __post_init__(self) -> None:
        # A comma would begin another parameter.
        if not re.fullmatch(r"[^,=\x00-\x1f\x7f]+", str(self.image)):
            raise WrongProgrammerError(
                f"flashrom cannot keep a chip in {self.image}: its path has a comma or an equals sign in it. Move the "
                "data directory (RESCUESITE_DATA_DIR)."
            )

    def argument(self, slot: PCISlot | None = None) -> str:
        """The value of flashrom's -p; there is no slot."""
        return f"{DUMMY}:emulate=VARIABLE_SIZE,size={self.size},image={self.image}"
