"""Machines that a plain TFTP server answers, from the scripts of `export_boot`."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e import guest
from tests.e2e.site import Site
from tests.e2e.vm import GATEWAY, MAC, VirtualServer

pytestmark = pytest.mark.e2e

SCRIPT = f"MAC-{MAC.replace(':', '')}.ipxe"


@pytest.fixture
def tftp(tmp_path: Path) -> Path:
    return tmp_path / "tftp"


def export(site: Site, tftp: Path, *options: str) -> dict[str, Any]:
    site.environment["RESCUESITE_BASE_URL"] = f"http://{GATEWAY}:{site.port}"
    told: dict[str, Any] = site.manage("export_boot", str(tftp), "--json", *options)
    return told


def answers(site: Site) -> list[str]:
    return [
        row["reason"] for row in site.rows("SELECT reason FROM machines_auditentry WHERE action = 'boot' ORDER BY id")
    ]


def test_a_machine_without_rescue_boots_its_disk_and_asks_nobody(site: Site, disk: Path, tftp: Path) -> None:
    assert export(site, tftp)["in_rescue"] == []
    with VirtualServer(disk, tftp=tftp, boot_file=SCRIPT) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "No rescue mode requested, exiting" in server.text
    assert answers(site) == []


def test_a_machine_in_rescue_is_sent_on_and_one_boot_is_one(site: Site, disk: Path, tftp: Path) -> None:
    site.manage("rescue", "enable", "web01", "--by", "alice")
    assert export(site, tftp)["in_rescue"] == ["web01"]
    with VirtualServer(disk, tftp=tftp, boot_file=SCRIPT) as server:
        server.wait_for("RESCUE-REPORTED", unless=guest.DISK_MARKER)
        assert site.rescue()["state"] == "up"
        # The script still sends it on; the site says that the one boot was used.
        server.reset()
        server.wait_for(guest.DISK_MARKER)
    assert site.rescue()["end_cause"] == "next_boot"
    assert answers(site) == ["rescue_armed", "rescue_used"]


def test_a_machine_whose_site_is_down_boots_its_disk_after_three_tries(site: Site, disk: Path, tftp: Path) -> None:
    site.manage("rescue", "enable", "web01", "--by", "alice")
    export(site, tftp)
    site.stop()
    with VirtualServer(disk, tftp=tftp, boot_file=SCRIPT) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "The rescue site does not answer, going on to the local disk" in server.text


def test_with_files_a_machine_is_rescued_without_the_site(site: Site, disk: Path, tftp: Path) -> None:
    site.manage("rescue", "enable", "web01", "--by", "alice", "--reason", "no site here")
    told = export(site, tftp, "--files")
    assert len(told["written"]) == 5
    site.stop()
    with VirtualServer(disk, tftp=tftp, boot_file=SCRIPT) as server:
        server.wait_for("RESCUE-REASON no site here", timeout=300, unless=guest.DISK_MARKER)
    assert "RESCUE-KEYS-MODE 600 0 700" in server.text
    assert f"BOOTIF=01-{MAC.replace(':', '-')}" in server.text
