"""Rescue systems that cannot come up: a stored kernel that was damaged, a kernel that panics."""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import guest
from tests.e2e.proxy import Proxy
from tests.e2e.site import Site
from tests.e2e.vm import VirtualServer, ask_at

pytestmark = pytest.mark.e2e


def damage(path: Path) -> None:
    """Change a byte in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_a_kernel_that_was_damaged_on_the_sites_disk_is_not_booted(site: Site, disk: Path) -> None:
    site.manage("rescue", "enable", "web01")
    damage(next(site.data_dir.rglob(hashlib.sha256(guest.kernel().read_bytes()).hexdigest())))
    site.expect_in_log("damaged")
    with Proxy(site.port) as proxy, VirtualServer(disk, boot_file=ask_at(proxy.port)) as server:
        server.wait_for(guest.DISK_MARKER)
        assert proxy.count("/kernel$") == 0
    (asked,) = site.rows("SELECT outcome, reason FROM machines_auditentry WHERE action = 'boot'")
    assert (asked["outcome"], asked["reason"]) == ("local", "image_damaged")
    assert "a file of its image is damaged" in server.text
    assert site.rescue()["state"] == "armed"


def add_panicking(site: Site, folder: Path, command_line: str) -> None:
    """An image whose initrd is no archive: Linux finds no root and panics."""
    junk = folder / "junk"
    junk.write_bytes(b"no archive" * 1000)
    parts = ("--kernel", str(guest.kernel()), "--initrd", str(junk), "--reports", "--command-line", command_line)
    site.manage("image", "add", "dead", *parts, "--json")
    site.manage("rescue", "enable", "web01", "--image", "dead")


def test_a_kernel_that_panics_asks_again(site: Site, disk: Path, tmp_path: Path) -> None:
    add_panicking(site, tmp_path, "console=ttyS0 quiet panic=1")
    with Proxy(site.port) as proxy, VirtualServer(disk, boot_file=ask_at(proxy.port)) as server:
        server.wait_for(r"(?s)Kernel panic.*Rebooting in 1 seconds.*/ready", unless=guest.DISK_MARKER)
        assert proxy.count(r"/boot\?") == 2
    # Both were of one minute: that is one try.
    assert site.rescue()["tries"] == 1


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_kernel_that_panics_at_each_boot_gives_way_to_the_disk(
    site: Site, disk: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    add_panicking(site, tmp_path, "console=ttyS0 quiet")
    began = time.monotonic()
    with VirtualServer(disk, boot_file=ask_at(site.port)) as server:
        server.wait_for(guest.DISK_MARKER, timeout=1200)
    seconds = time.monotonic() - began
    record_property("measured", f"a kernel that panics at each boot: the disk after {seconds:.0f} s and 5 tries")
    assert "was started several times and never came up" in server.text
    assert len(re.findall("Rebooting in 60 seconds", server.text)) == 5
    assert site.rescue()["tries"] == 5
    (entry,) = site.rows("SELECT details FROM machines_auditentry WHERE action = 'rescue_failed'")
    assert "5" in entry["details"]
