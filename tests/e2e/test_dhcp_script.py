"""Stock iPXE of 2019, which DHCP sends to the site's small script, by TFTP or HTTP: what a bad site costs."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from machines.boot.script import for_dhcp, longest_question
from tests.e2e import guest
from tests.e2e.proxy import Proxy, Trouble, answered, silent
from tests.e2e.site import Site
from tests.e2e.vm import GATEWAY, VirtualServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

logger = logging.getLogger(__name__)

ASK = r"/boot\?"
TROUBLES = {
    "silent": silent(ASK),
    "half-sent": silent(ASK, after=12),
    "redirects for ever": answered(ASK, 302, head="Location: /boot?again=1\r\n"),
    "to come again": answered(ASK, 503, head="Retry-After: 5\r\n"),
    "a portal": answered(ASK, 200, b"<!DOCTYPE html><title>Log in</title>\n" * 50),
}
soak = pytest.mark.soak


def names(proxy: Proxy, way: str, tftp: Path) -> dict[str, object]:
    """What DHCP says, for VirtualServer."""
    if way == "http":
        return {"boot_file": f"http://{GATEWAY}:{proxy.port}/boot/dhcp.ipxe"}
    tftp.mkdir()
    (tftp / "dhcp.ipxe").write_text(for_dhcp(f"http://{GATEWAY}:{proxy.port}/boot"))
    return {"boot_file": "dhcp.ipxe", "tftp": tftp}


@pytest.mark.parametrize(
    ("firmware", "way", "trouble"),
    [
        pytest.param("bios", "tftp", "silent", marks=soak),
        ("bios", "http", "half-sent"),
        ("bios", "tftp", "redirects for ever"),
        pytest.param("bios", "http", "to come again", marks=soak),
        # A BIOS with IMAGE_PXE, as the stock ROM has it, runs the page: docs/dhcp.md.
        ("uefi", "tftp", "a portal"),
        pytest.param("uefi", "http", "silent", marks=soak),
        pytest.param("uefi", "tftp", "half-sent", marks=soak),
        pytest.param("uefi", "http", "redirects for ever", marks=soak),
    ],
)
def test_a_machine_that_dhcp_sends_reaches_its_disk_in_time(
    firmware: str,
    way: str,
    trouble: str,
    site: Site,
    disk: Path,
    tmp_path: Path,
) -> None:
    met: Trouble = TROUBLES[trouble]
    with Proxy(site.port, met) as proxy:
        options = names(proxy, way, tmp_path / "tftp")
        if firmware == "uefi":
            disk = guest.efi_disk(tmp_path / "efi")
            options["uefi_vars"] = tmp_path / "vars"
        with VirtualServer(disk, **options) as server:  # type: ignore[arg-type]
            proxy.wait_for_trouble(120)
            began = time.monotonic()
            server.wait_for("going on to the local disk", timeout=longest_question() + 120)
            took = time.monotonic() - began
            if firmware == "uefi":
                # The firmware has network entries of its own for the card; without a cable they give up at once.
                server.unplug()
            server.wait_for(guest.DISK_MARKER)
            logger.info("%s %s %s: %.0f s, %d requests", firmware, way, trouble, took, len(proxy.requests))


def test_a_machine_that_dhcp_sends_is_rescued(site: Site, disk: Path, tmp_path: Path) -> None:
    site.manage("rescue", "enable", "web01", "--by", "alice")
    with Proxy(site.port) as proxy, VirtualServer(disk, **names(proxy, "http", tmp_path)) as server:  # type: ignore[arg-type]
        server.wait_for("RESCUE-REPORTED", unless=guest.DISK_MARKER)
    assert site.rescue()["state"] == "up"
