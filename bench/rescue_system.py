"""The rescue system: how long its build takes, how large it is, and how long from power-on until one can log in.

To beat, reached by hand on such a machine with a root unpacked into memory as a whole: 34 s and an initrd of 126 MB.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from tests.e2e import guest, vm
from tests.e2e.site import Site

_RUNS = 3
_BY_HAND_SECONDS, _BY_HAND_MB = 34, 126


def run(base: Path) -> None:
    base.mkdir()
    disk = guest.disk_image(base / "disk")
    with Site(base / "data") as site:
        site.data_dir.mkdir()
        site.manage("migrate", "--verbosity", "0")
        started = time.monotonic()
        site.manage("build_rescue_image", "--profile", "small", timeout=1800)
        built = time.monotonic() - started
        image = site.manage("image", "list", "--json")[0]
        sizes = {file["name"]: file["size"] / 1e6 for file in image["files"]}
        site.manage("machine", "add", "web01", "--mac", vm.MAC, "--network", "127.0.0.1")
        site.start()
        times = [_until_up(site, disk) for _ in range(_RUNS)]
    up = statistics.median(times)
    print(f"\nThe rescue system, profile small (emulated, e1000, 2 processors, 768 MB)\n{'':40}{'':>9}{'ratio':>8}")
    print(f"{'build':40}{built:7.0f} s")
    print(f"{'kernel':40}{sizes['kernel']:6.0f} MB")
    print(f"{'initrd (by hand: 126 MB)':40}{sizes['initrd']:6.0f} MB{sizes['initrd'] / _BY_HAND_MB:8.2f}")
    print(f"{'power-on to up (by hand: 34 s)':40}{up:7.1f} s{up / _BY_HAND_SECONDS:8.2f}")


def _until_up(site: Site, disk: Path) -> float:
    site.manage("rescue", "enable", "web01")
    started = time.monotonic()
    with vm.VirtualServer(disk, boot_file=vm.ask_at(site.port), memory=768, cpus=2):
        site.manage("rescue", "status", "web01", "--wait", "--timeout", "200", timeout=240)
        taken = time.monotonic() - started
    site.manage("rescue", "disable", "web01")
    return taken
