"""The example of an embedded script, roms/embedded/boot.ipxe, run by a real iPXE."""

from pathlib import Path

import pytest

from tests.e2e import guest
from tests.e2e.site import ROOT, Site
from tests.e2e.vm import GATEWAY, MAC, PRODUCT, SERIAL, UUID, VirtualServer

pytestmark = pytest.mark.e2e

SCRIPT = (ROOT / "roms" / "embedded" / "boot.ipxe").read_text()


@pytest.fixture
def tftp(tmp_path: Path) -> Path:
    folder = tmp_path / "tftp"
    folder.mkdir()
    return folder


def embed(tftp: Path, host: str) -> None:
    """Do what the script tells its reader to do before building it."""
    (tftp / "boot.ipxe").write_text(SCRIPT.replace("SITE/boot?", f"{host}/boot?"))


def boot_entries(site: Site) -> list[dict[str, object]]:
    return site.rows("SELECT reason, count FROM machines_auditentry WHERE action = 'boot'")


def test_a_machine_without_rescue_asks_once_and_boots_its_disk(site: Site, disk: Path, tftp: Path) -> None:
    embed(tftp, f"{GATEWAY}:{site.port}")
    with VirtualServer(disk, tftp=tftp, boot_file="boot.ipxe") as server:
        server.wait_for(guest.DISK_MARKER)
    assert "No rescue mode requested, exiting" in server.text
    assert boot_entries(site) == [{"reason": "no_rescue", "count": 1}]


def test_a_machine_that_is_known_by_what_it_says_of_itself_is_rescued(site: Site, disk: Path, tftp: Path) -> None:
    mac = "52:54:00:00:00:03"
    identity = [f"uuid={UUID}", f"serial={SERIAL}", "platform=pcbios", "gateway=10.0.2.2", f"product={PRODUCT}"]
    arguments = [word for item in identity for word in ("--identity", item)]
    site.manage("machine", "add", "web03", "--mac", mac, "--network", "127.0.0.1", *arguments)
    site.manage("rescue", "enable", "web03")
    embed(tftp, f"{GATEWAY}:{site.port}")
    with VirtualServer(disk, tftp=tftp, boot_file="boot.ipxe", mac=mac) as server:
        server.wait_for("RESCUE-REPORTED", unless=guest.DISK_MARKER)
    assert site.rescue("web03")["state"] == "up"
    assert boot_entries(site) == [{"reason": "rescue_armed", "count": 1}]


def test_a_machine_whose_site_is_down_boots_its_disk_after_three_tries(site: Site, disk: Path, tftp: Path) -> None:
    site.stop()
    embed(tftp, f"{GATEWAY}:{site.port}")
    with VirtualServer(disk, tftp=tftp, boot_file="boot.ipxe") as server:
        server.wait_for(guest.DISK_MARKER)
    assert server.text.count("The rescue site does not answer, trying again") == 2


def test_a_refused_machine_is_not_asked_again_and_boots_its_disk(site: Site, disk: Path, tftp: Path) -> None:
    mac = "52:54:00:00:00:04"
    site.manage("machine", "add", "web04", "--mac", mac, "--network", "192.0.2.0/24")
    site.manage("rescue", "enable", "web04")
    embed(tftp, f"{GATEWAY}:{site.port}")
    with VirtualServer(disk, tftp=tftp, boot_file="boot.ipxe", mac=mac) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "IP Failed Match" in server.text
    assert boot_entries(site) == [{"reason": "address_not_allowed", "count": 1}]
    assert MAC not in server.text
