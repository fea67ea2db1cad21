"""What asking costs a server at power-on: time to its local disk, against the same machine that asks nobody."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from bench.sites import site_with_a_machine
from tests.e2e import guest, vm

_RUNS = 3


def run(base: Path) -> None:
    base.mkdir()
    disk = guest.disk_image(base / "disk")
    with site_with_a_machine(base / "data") as site:
        initrd = guest.initrd(base / "initrd")
        parts = ["--kernel", str(guest.kernel()), "--initrd", str(initrd), "--command-line", "console=ttyS0 quiet"]
        site.manage("image", "add", "debian", *parts, "--reports", "--default")
        site.start()
        boot_file = f"http://10.0.2.2:{site.port}/boot?{vm.ASK}"
        alone, asking, rescued = [], [], []
        for _ in range(_RUNS):
            alone.append(_seconds(disk, "", guest.DISK_MARKER))
            asking.append(_seconds(disk, boot_file, guest.DISK_MARKER))
        for _ in range(_RUNS):
            site.manage("rescue", "enable", "web01")
            rescued.append(_seconds(disk, boot_file, "RESCUE-REPORTED"))
            site.manage("rescue", "disable", "web01")
    reference = statistics.median(alone)
    print(f"\nFrom power-on, median of {_RUNS} (emulated, e1000, stock iPXE)")
    print(f"{'':40}{'seconds':>9}{'ratio':>8}")
    for name, times in {
        "local disk, asking nobody (peer)": alone,
        "local disk, as the site says": asking,
        "test rescue system up and reported": rescued,
    }.items():
        print(f"{name:40}{statistics.median(times):9.1f}{statistics.median(times) / reference:8.2f}")


def _seconds(disk: Path, boot_file: str, marker: str) -> float:
    started = time.monotonic()
    with vm.VirtualServer(disk, boot_file=boot_file) as server:
        server.wait_for(marker)
        return time.monotonic() - started
