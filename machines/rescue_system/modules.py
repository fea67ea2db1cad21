"""Remove unneeded kernel modules during the build of the image. Run it as `modules.py KERNEL_FOLDER LIST`.

It removes whole parts of the kernel, such as sound. It keeps modules that drivers of storage or network need, directly
or indirectly: for example, sfc (Solarflare) needs mtd, and b44 needs pcmcia. It also removes modules that need a
removed one.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

#: The parts whose dependencies are kept, by their path below the kernel's folder.
ESSENTIAL = tuple(
    f"kernel/{part}/"
    for part in (
        *("drivers/ata", "drivers/block", "drivers/firewire", "drivers/infiniband", "drivers/md", "drivers/message"),
        *("drivers/mmc", "drivers/net", "drivers/nvdimm", "drivers/nvme", "drivers/scsi", "drivers/ufs"),
        *("drivers/usb/host", "drivers/usb/storage", "drivers/virtio", "drivers/hv", "drivers/xen", "fs"),
    )
)


def parse(text: str) -> dict[str, frozenset[str]]:
    """Return the direct and indirect dependencies of each module, from modules.dep(5)."""
    lines = (line.partition(":") for line in text.splitlines())
    return {module: frozenset(needs.split()) for module, _, needs in lines}


def left_out(needs: Mapping[str, Collection[str]], parts: Iterable[str]) -> set[str]:
    """Return the modules of `needs` to remove. `parts` are paths or beginnings of paths below kernel/."""
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
