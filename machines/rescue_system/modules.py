"""Which kernel modules the rescue system leaves out; run on the image as it is built: `modules.py KERNEL_FOLDER LIST`.

A whole part of the kernel (sound, say) goes, but for what a driver of storage or of the network needs of it, directly
or not: sfc, Solarflare's, needs mtd; b44 needs pcmcia. What needs something that has gone goes too.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

#: Parts whose modules must find everything that they need, by path below the kernel's folder.
ESSENTIAL = tuple(
    f"kernel/{part}/"
    for part in (
        *("drivers/ata", "drivers/block", "drivers/firewire", "drivers/infiniband", "drivers/md", "drivers/message"),
        *("drivers/mmc", "drivers/net", "drivers/nvdimm", "drivers/nvme", "drivers/scsi", "drivers/ufs"),
        *("drivers/usb/host", "drivers/usb/storage", "drivers/virtio", "drivers/hv", "drivers/xen", "fs"),
    )
)


def parse(text: str) -> dict[str, frozenset[str]]:
    """What each module needs, itself and through others, from depmod's modules.dep (modules.dep(5))."""
    lines = (line.partition(":") for line in text.splitlines())
    return {module: frozenset(needs.split()) for module, _, needs in lines}


def left_out(needs: Mapping[str, Collection[str]], parts: Iterable[str]) -> set[str]:
    """The modules to remove, of all that `needs` knows; `parts` are paths or their beginnings below kernel/."""
    beginnings = tuple(f"kernel/{part}" for part in parts)
    unwanted = {module for module in needs if module.startswith(beginnings)}
    needed = {need for module in needs.keys() - unwanted if module.startswith(ESSENTIAL) for need in needs[module]}
    gone = unwanted - needed
    return gone | {module for module in needs if not gone.isdisjoint(needs[module])}


def main(kernel: Path, listed: Path) -> None:
    lines = (line.partition("#")[0].strip() for line in listed.read_text().splitlines())
    for module in left_out(parse((kernel / "modules.dep").read_text()), [line for line in lines if line]):
        (kernel / module).unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
