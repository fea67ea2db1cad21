"""A site that falls silent in the middle of a file, and stock iPXE of 2019: the disk is booted in time."""

from pathlib import Path

import pytest

from machines.boot.script import FILE_TIMEOUT, longest_silence
from tests.e2e import guest
from tests.e2e.proxy import Proxy, silent, slow
from tests.e2e.site import Site
from tests.e2e.vm import VirtualServer, ask_at

pytestmark = pytest.mark.e2e

#: For a busy host, and for the way from iPXE to what the disk prints.
_SLACK = 60


def boot_through(proxy: Proxy, disk: Path, file: str) -> str:
    """Boot until the disk says so; `file` was then tried three times, and took no longer than is shown."""
    with proxy, VirtualServer(disk, boot_file=ask_at(proxy.port)) as server:
        server.wait_for(guest.DISK_MARKER, timeout=longest_silence(4) + 2 * _SLACK)
        took = proxy.seconds_since(file)
    assert proxy.count(file) == 3
    assert took <= longest_silence(1) + _SLACK
    return server.text


def test_a_site_that_falls_silent_in_the_kernel_costs_no_more_than_is_shown(site: Site, disk: Path) -> None:
    site.manage("rescue", "enable", "web01")
    text = boot_through(Proxy(site.port, silent("/kernel$", after=200_000)), disk, "/kernel$")
    assert "Rescue could not be booted, going on to the local disk" in text
    # Silence uses nothing up.
    assert site.rescue()["state"] == "booting"


def test_a_slow_line_is_not_hurt_and_silence_in_the_initrd_ends_at_the_disk(site: Site, disk: Path) -> None:
    site.manage("rescue", "enable", "web01")
    proxy = Proxy(site.port, slow("/kernel$", FILE_TIMEOUT / 2), silent("/initrd$", after=200_000))
    boot_through(proxy, disk, "/initrd$")
    # 20 s of pauses: twice what one silence may take.
    assert proxy.count("/kernel$") == 1
