"""The rescue system: how large it is, how long from power-on until one can log in, and the memory that it takes.

The peer is the same root, packed the usual way: as an initramfs that the kernel unpacks into memory as a whole.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.sites import site_with_a_machine
from tests.e2e import guest, vm
from tests.e2e.site import Site, free_port

_RUNS = 3
#: MiB; the peer does not start in what the small profile is promised to run in.
_MEMORY = 1536
_OURS, _PEER = "debian-small", "debian-unpacked"


@dataclass
class Image:
    """What was measured of one image: sizes in MB, times in s, memory in MiB."""

    name: str
    kernel: float
    initrd: float
    up: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def run(base: Path) -> None:
    base.mkdir()
    disk, key = guest.disk_image(base / "disk"), base / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with site_with_a_machine(base / "data") as site:
        site.shell(
            "from django.contrib.auth.models import User\nfrom machines.models import SSHKey\n"
            "key = SSHKey(user=User.objects.create_superuser('bench'))\n"
            f"key.public_key = {key.with_suffix('.pub').read_text()!r}\n"
            "key.full_clean()\nkey.save()"
        )
        started = time.monotonic()
        site.manage("build_rescue_image", "--profile", "small", "--name", _OURS, timeout=1800)
        built = time.monotonic() - started
        _add_peer(site, base)
        images = [
            Image(image["name"], *(sum(f["size"] for f in image["files"] if f["kind"] == kind) / 1e6 for kind in kinds))
            for kinds in [("kernel", "initrd")]
            for image in site.manage("image", "list", "--json")
        ]
        site.start()
        for _ in range(_RUNS):
            for image in images:
                _measure(site, image, disk, key)
    ours, peer = sorted(images, key=lambda image: image.name != _OURS)
    print(f"\nThe rescue system, profile small (emulated, e1000, 2 processors, {_MEMORY} MiB); built in {built:.0f} s")
    print(f"{'':40}{'ours':>12}{'unpacked':>12}{'ratio':>8}")
    for name, unit, mine, other in (
        ("kernel", "MB", ours.kernel, peer.kernel),
        ("initrd", "MB", ours.initrd, peer.initrd),
        (f"power-on to up, median of {_RUNS}", "s", statistics.median(ours.up), statistics.median(peer.up)),
        ("memory not available any more", "MiB", statistics.median(ours.memory), statistics.median(peer.memory)),
    ):
        print(f"{name:40}{mine:8.1f} {unit:3}{other:8.1f} {unit:3}{mine / other:8.2f}")


def _add_peer(site: Site, base: Path) -> None:
    """Unpack our root, and make an initramfs of it."""
    files = {file["kind"]: file for file in site.manage("image", "list", "--json")[0]["files"]}
    stored = {kind: next(site.data_dir.rglob(f"*{file['sha256']}*")) for kind, file in files.items()}
    unpacked = base / "unpacked"
    unpacked.mkdir()
    subprocess.run(["cpio", "-id", "--quiet"], stdin=stored["initrd"].open("rb"), cwd=unpacked, check=True)
    subprocess.run(["unsquashfs", "-q", "-n", "-d", "root", "root.squashfs"], cwd=unpacked, check=True)
    (unpacked / "root" / "init").symlink_to("sbin/init")
    packed = base / "initrd.zst"
    pack = f"find . | cpio -o -H newc --quiet | zstd -q -10 -T0 -o {packed}"
    subprocess.run(["sh", "-c", pack], cwd=unpacked / "root", check=True)
    command_line = site.manage("image", "list", "--json")[0]["command_line"]
    parts = ("--kernel", str(stored["kernel"]), "--initrd", str(packed), "--command-line", command_line)
    site.manage("image", "add", _PEER, *parts, "--reports")


def _measure(site: Site, image: Image, disk: Path, key: Path) -> None:
    site.manage("rescue", "enable", "web01", "--image", image.name)
    port = free_port()
    started = time.monotonic()
    with vm.VirtualServer(disk, boot_file=vm.ask_at(site.port), memory=_MEMORY, cpus=2, ssh_port=port):
        site.manage("rescue", "status", "web01", "--wait", "--timeout", "300", timeout=320)
        image.up.append(time.monotonic() - started)
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        place = ["-F", "none", "-i", str(key), "-p", str(port), "root@127.0.0.1"]
        told = subprocess.run(
            ["ssh", *options, *place, "cat", "/proc/meminfo"], capture_output=True, text=True, check=True, timeout=60
        )
        lines = (line.partition(":") for line in told.stdout.splitlines())
        kilobytes = {name: int(value.split()[0]) for name, _, value in lines}
        image.memory.append((kilobytes["MemTotal"] - kilobytes["MemAvailable"]) / 1024)
    site.manage("rescue", "disable", "web01")
