"""The PCI cards of this host, and their slots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PCI_DEVICES = Path("/sys/bus/pci/devices")


class WrongAddressError(ValueError):
    """The text is not a valid PCI address. The message shows a valid one."""


@dataclass(frozen=True, order=True)
class PCISlot:
    """The slot of a card."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "0000:03:00.0" or "03:00.0". The check is strict: the slot becomes part of a command line."""
        pattern = r"(?:([0-9a-fA-F]{4}):)?([0-9a-fA-F]{2}):([01][0-9a-fA-F])\.([0-7])"
        found = re.fullmatch(pattern, text)
        if not found:
            raise WrongAddressError(
                f"“{text[:40]}” is not a valid PCI address. Write it like 03:00.0 or 0000:03:00.0 (see lspci -D)."
            )
        domain, *rest = found.groups()
        return cls(int(domain or "0", 16), *(int(part, 16) for part in rest))

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"


@dataclass(frozen=True)
class PCICard:
    """A card in this host."""

    slot: PCISlot
    id: str  # vendor and device, as in "8086:1229"
    driver: str = ""
    macs: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = [*self.macs, *([f"driver {self.driver}"] if self.driver else [])]
        return f"{self.slot} ({', '.join([self.id, *more])})"


def plugged_in(devices: Path = PCI_DEVICES) -> list[PCICard]:
    """The PCI devices of this host, sorted by slot. A card has MAC addresses only while its driver is loaded."""
    found = []
    for folder in devices.iterdir() if devices.is_dir() else []:
        try:
            slot = PCISlot.parse(folder.name)
            number = ":".join((folder / name).read_text().strip().removeprefix("0x") for name in ("vendor", "device"))
        except (ValueError, OSError):
            continue
        driver = (folder / "driver").resolve().name if (folder / "driver").exists() else ""
        macs = tuple(sorted(path.read_text().strip() for path in folder.glob("net/*/address")))
        found.append(PCICard(slot, number.lower(), driver, macs))
    return sorted(found, key=lambda card: card.slot)
