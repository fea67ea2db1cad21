"""Real boots: SeaBIOS, Debian's own iPXE ROM, and a site under gunicorn."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import guest
from tests.e2e.conftest import KEY, MakeSite
from tests.e2e.proxy import Proxy, answered, silent
from tests.e2e.site import Site
from tests.e2e.vm import MAC, VirtualServer, ask_at

pytestmark = pytest.mark.e2e

REPORTED = "RESCUE-REPORTED"


def test_a_machine_without_rescue_boots_its_disk(site: Site, disk: Path) -> None:
    with VirtualServer(disk, boot_file=ask_at(site.port)) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "No rescue mode requested, exiting" in server.text


@pytest.fixture(scope="module")
def rescued(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VirtualServer, Site]]:
    """A machine that has been switched on with rescue enabled, and what its site knows afterwards."""
    folder = tmp_path_factory.mktemp("rescued")
    shutil.copytree(furnished, folder / "site")
    with Site(folder / "site") as site:
        site.start()
        site.manage("rescue", "enable", "web01", "--reason", "disk full; see ticket", "--by", "alice")
        with VirtualServer(guest.disk_image(folder / "disk"), boot_file=ask_at(site.port)) as server:
            server.wait_for(REPORTED, unless=guest.DISK_MARKER)
        yield server, site
    site.check_log()


Rescued = tuple[VirtualServer, Site]


def test_a_machine_with_rescue_enabled_boots_the_rescue_kernel(rescued: Rescued) -> None:
    server, _ = rescued
    assert re.search(r"RESCUE-KERNEL 6\.", server.text)
    assert guest.DISK_MARKER not in server.text


def test_the_rescue_kernel_gets_the_command_line_with_the_card_and_the_initrds(rescued: Rescued) -> None:
    server, _ = rescued
    expected = f"console=ttyS0 quiet panic=60 BOOTIF=01-{MAC.replace(':', '-')} initrd=initrd initrd=rescue.cpio"
    found = re.search(r"RESCUE-CMDLINE (?:kernel )?(.*?)\r?\n", server.text)
    assert found
    assert found.group(1) == expected


def test_the_rescue_system_has_the_keys_of_those_who_may_log_in(rescued: Rescued) -> None:
    server, _ = rescued
    assert f"RESCUE-KEYS {KEY}\r\nRESCUE-KEYS-MODE" in server.text.replace("\r\r", "\r")


def test_the_keys_file_is_for_root_alone(rescued: Rescued) -> None:
    server, _ = rescued
    assert "RESCUE-KEYS-MODE 600 0 700" in server.text


def test_the_rescue_system_knows_why_it_runs(rescued: Rescued) -> None:
    server, _ = rescued
    assert "RESCUE-REASON disk full; see ticket" in server.text


def test_a_rescue_system_that_reports_is_up_with_its_address(rescued: Rescued) -> None:
    _, site = rescued
    rescue = site.rescue()
    assert (rescue["state"], rescue["address"]) == ("up", "10.0.2.15")


def test_the_audit_log_tells_the_boot_in_order(rescued: Rescued) -> None:
    _, site = rescued
    entries = site.rows("SELECT action, subject, count FROM machines_auditentry WHERE rescue_pk NOT NULL ORDER BY id")
    told = [f"{entry['action']} {entry['subject']}".strip() for entry in entries]
    files = [f"file_sent {name}" for name in ("kernel", "initrd", "rescue.cpio")]
    assert told == ["rescue_enabled debian", "boot", *files, "ready ready", "up"]


def test_a_machine_whose_address_is_refused_boots_its_disk(site: Site, disk: Path) -> None:
    site.manage("machine", "add", "web02", "--mac", "52:54:00:00:00:02", "--network", "192.0.2.0/24")
    site.manage("rescue", "enable", "web02")
    asks = ask_at(site.port).replace("${mac}", "52:54:00:00:00:02")
    with VirtualServer(disk, boot_file=asks) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "IP Failed Match" in server.text


def test_a_machine_boots_its_disk_while_the_site_is_down(site: Site, disk: Path) -> None:
    site.stop()
    with VirtualServer(disk, boot_file=ask_at(site.port)) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "10.0.2.2" in server.text


def test_a_machine_boots_its_disk_where_no_dhcp_server_answers(disk: Path) -> None:
    with VirtualServer(disk, dhcp=False) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "Configuring" in server.text


def test_a_machine_boots_its_disk_while_its_cable_is_out(disk: Path) -> None:
    with VirtualServer(disk, boot_file=ask_at(1), link=False) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "Waiting for link-up" in server.text


def test_a_machine_boots_its_disk_after_the_database_became_garbage(site: Site, disk: Path) -> None:
    site.manage("rescue", "enable", "web01")
    # The workers hold it open, and have read it.
    assert "set rescuesite rescue" in site.get(f"/boot?mac={MAC}").text
    spoil(site)
    site.expect_in_log("answered without the database")
    with VirtualServer(disk, boot_file=ask_at(site.port)) as server:
        server.wait_for(guest.DISK_MARKER)
    assert "The rescue site cannot read its database" in server.text


def spoil(site: Site) -> None:
    """Overwrite the database in place, while the site runs."""
    size = site.database.stat().st_size
    with site.database.open("r+b") as file:
        file.write(b"garbage " * (size // 8))
    for suffix in ("-wal", "-shm"):
        site.database.with_name(site.database.name + suffix).unlink(missing_ok=True)
    with pytest.raises(sqlite3.DatabaseError):
        site.rows("SELECT 1 FROM machines_machine")


def test_a_kernel_that_answers_404_is_tried_three_times_and_then_the_disk_boots(site: Site, disk: Path) -> None:
    site.manage("rescue", "enable", "web01")
    with Proxy(site.port, answered("/kernel$", 404)) as proxy:
        with VirtualServer(disk, boot_file=ask_at(proxy.port)) as server:
            server.wait_for(guest.DISK_MARKER)
        assert proxy.count("/kernel$") == 3
    assert "Rescue could not be booted, going on to the local disk" in server.text
    # Nothing has been used up: the next power-on tries again.
    assert site.rescue()["state"] == "booting"


def test_a_one_boot_rescue_survives_a_reset_and_ends_with_the_boot_after_it_was_up(site: Site, disk: Path) -> None:
    site.manage("rescue", "enable", "web01")
    with Proxy(site.port, silent("/initrd$", after=200_000, once=True)) as proxy:
        with VirtualServer(disk, boot_file=ask_at(proxy.port)) as server:
            proxy.wait_for_trouble()
            server.reset()
            server.wait_for(REPORTED, unless=guest.DISK_MARKER)
            assert site.rescue()["state"] == "up"
            server.reset()
            server.wait_for(guest.DISK_MARKER)
        assert proxy.count(r"GET /boot\?") == 3
    rescue = site.rescue()
    assert (rescue["state"], rescue["end_cause"]) == ("ended", "next_boot")


def test_an_image_that_chains_a_script_runs_it(make_site: MakeSite, disk: Path, tmp_path: Path) -> None:
    site = make_site()
    script = tmp_path / "chained.ipxe"
    script.write_text("#!ipxe\necho CHAINED on ${platform}\nimgfetch notes.txt && echo NOTES-FETCHED ||\nexit 0\n")
    (tmp_path / "notes.txt").write_text("some notes\n")
    site.manage(
        *("image", "add", "menu", "--chain-script", str(script), "--file", str(tmp_path / "notes.txt"), "--json")
    )
    site.manage("rescue", "enable", "web01", "--image", "menu")
    with VirtualServer(disk, boot_file=ask_at(site.port)) as server:
        server.wait_for("CHAINED on pcbios")
        server.wait_for("NOTES-FETCHED")
        server.wait_for(guest.DISK_MARKER)
