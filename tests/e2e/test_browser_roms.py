"""Staff build and flash ROMs, in a real browser; leaves the README's screenshots in .screenshots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.site import Site
from tests.e2e.test_browser import browser_type_launch_args, log_in, shoot

__all__ = ["browser_type_launch_args"]

pytestmark = pytest.mark.e2e

#: The cards, a station whose worker was just seen, and two builds: of 61,440 bytes, which fits, and one too large.
_FURNISH = """
from django.utils import timezone
from machines.models import StoredFile
from roms.models import Build, Card, Station
from roms.toolchain.ipxe.script.spec import ScriptSpec
Card.objects.load_curated()
Station.objects.seen("local")
card = Card.objects.get(slug="8086:1229")
for profile, state, size in (("minimal", "succeeded", 61440), ("standard", "failed", 84992)):
    stored = StoredFile.objects.store([profile.encode().ljust(size, b"x")])
    build = Build.of(ScriptSpec("http://192.0.2.10"), card=card, profile=profile, state=state, size=size,
                     artifact=stored, sha256=stored.sha256, finished_at=timezone.now(), requested_by_name="alice")
    build.clean()
    build.save()
"""
#: As a worker would have it; each part begins with the latest job.
_CLAIM = """
from roms.models import {model}
job = {model}.objects.order_by("pk").last()
job.log_path.parent.mkdir(exist_ok=True)
job.claim("worker")
"""
_GO_ON = """
from roms.models import {model}
job = {model}.objects.order_by("pk").last()
job.beat(phase={phase!r}, progress={progress})
with job.log_path.open("a") as log:
    log.write({log!r})
"""
_FINISH = """
from machines.models import StoredFile
from roms.models import {model}
job = {model}.objects.order_by("pk").last()
job.finish({state!r}, {error!r}, **{results})
"""


@pytest.fixture
def staff(page: Page, site: Site) -> Iterator[Page]:
    """A page on which alice, a superuser, is logged in; no script on it may fail."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_viewport_size({"width": 1280, "height": 900})
    site.shell(_FURNISH)
    log_in(page, site, "alice")
    yield page
    assert not problems


def choose(page: Page, field: str, typed: str, found: str) -> None:
    """Choose in a field that looks for what is typed."""
    page.locator(f".field-{field} .select2-selection").click()
    page.locator(".select2-search__field").fill(typed)
    page.locator(".select2-results__option", has_text=found).first.click()


def go_on(site: Site, model: str, phase: str, progress: float, log: str) -> None:
    site.shell(_GO_ON.format(model=model, phase=phase, progress=progress, log=log))


def finish(site: Site, model: str, state: str, error: str = "", results: str = "{}") -> None:
    site.shell(_FINISH.format(model=model, state=state, error=error, results=results))


def preview(page: Page) -> Locator:
    return page.locator("#preview")


def test_a_rom_is_built_from_the_form_with_its_preview_and_followed_to_its_end(staff: Page, site: Site) -> None:
    staff.goto(f"{site.url}/admin/roms/build/add/")
    expect(preview(staff)).to_contain_text("A network card cannot reach 127.0.0.1")
    staff.get_by_label("Address of the site").fill("http://192.0.2.10:8000")
    expect(preview(staff)).to_contain_text("http://192.0.2.10:8000/boot?mac=${netX/mac}")
    choose(staff, "card", "pro/100 1229", "82557")
    staff.get_by_label("Features").select_option("standard")
    expect(preview(staff)).to_contain_text("Does not fit the chip")
    expect(preview(staff)).to_contain_text("84,992 bytes")
    shoot(staff, "rom-build")
    staff.get_by_role("button", name="Use “minimal”").click()
    expect(preview(staff)).to_contain_text("Fits the chip")
    expect(staff.get_by_label("Features")).to_have_value("minimal")

    before = preview(staff).get_by_role("heading", name="If the site is down").inner_text()
    staff.get_by_label("Tries").fill("1")
    expect(preview(staff).get_by_role("heading", name="If the site is down")).not_to_have_text(before)
    staff.get_by_label("Tries").fill("99")
    expect(staff.locator(".field-tries .errorlist")).to_have_text("Must be between 1 and 10.")
    staff.get_by_label("Tries").fill("2")
    expect(staff.locator(".field-tries .errorlist")).to_have_count(0)

    staff.get_by_role("button", name="Build", exact=True).click()
    panel = staff.locator("#job-panel")
    expect(panel.locator(".state-big")).to_have_text("queued")
    # The page is left alone from here on: what a worker does must show on it.
    site.shell(_CLAIM.format(model="Build"))
    go_on(site, "Build", "compiling", 0.4, "  [BUILD] bin/eepro100.o <b>warning</b>\n")
    expect(panel.locator(".state-big")).to_have_text("running")
    expect(panel).to_contain_text("compiling")
    expect(panel.locator("progress")).to_have_attribute("value", "40")
    expect(staff.locator("#job-log")).to_contain_text("[BUILD] bin/eepro100.o <b>warning</b>")
    go_on(site, "Build", "linking", 0.9, "  [LD] bin/80861229.rom\n")
    expect(staff.locator("#job-log")).to_contain_text("[LD] bin/80861229.rom")
    stored = "{'size': 61440, 'artifact': StoredFile.objects.get(size=61440), 'sha256': 'ab' * 32}"
    finish(site, "Build", "succeeded", results=stored)
    expect(panel.locator(".state-big")).to_have_text("succeeded")
    expect(panel).to_contain_text("61,440 bytes; the chip has 65,536 (64 KiB): it fits")
    expect(panel.get_by_role("link", name="padded to the chip's 64 KiB")).to_be_visible()
    expect(panel.get_by_role("link", name="Flash this ROM…")).to_be_visible()


def test_a_file_for_each_machine_is_offered_and_switches_its_protocol_on(staff: Page, site: Site) -> None:
    staff.goto(f"{site.url}/admin/roms/build/add/")
    staff.get_by_label("Address of the site").fill("http://192.0.2.10:8000")
    staff.get_by_label("Features").select_option("minimal")
    shoot(staff, "rom-build-file")
    staff.get_by_role("button", name="FTP", exact=True).click()
    expect(staff.get_by_label("Address of the site")).to_have_value("ftp://192.0.2.10/MAC-${mac:hexraw}.ipxe")
    expect(preview(staff)).to_contain_text(
        "chain --autofree --timeout 8000 ftp://192.0.2.10/MAC-${netX/mac:hexraw}.ipxe"
    )
    expect(preview(staff)).to_contain_text("The profile leaves out DOWNLOAD_PROTO_FTP. This script needs it")


def test_network_settings_and_a_script_by_hand_show_their_fields(staff: Page, site: Site) -> None:
    staff.goto(f"{site.url}/admin/roms/build/add/")
    expect(staff.get_by_label("Netmask:", exact=True)).to_be_hidden()
    staff.get_by_label("Address of the site").fill("http://192.0.2.10")
    staff.get_by_label("static: this ROM is for one machine only").check()
    staff.get_by_label("Address:", exact=True).fill("192.0.2.7")
    staff.get_by_label("Netmask:", exact=True).fill("24")
    expect(preview(staff)).to_contain_text("set net${nic}/netmask 255.255.255.0")
    staff.get_by_label("written by hand").check()
    expect(staff.get_by_label("Netmask:", exact=True)).to_be_hidden()
    staff.get_by_label("Script:", exact=True).fill("#!ipxe\nconfig\n")
    expect(preview(staff)).to_contain_text("“config” waits for a person at the machine")


def test_a_build_is_cancelled_with_its_button(staff: Page, site: Site) -> None:
    staff.goto(f"{site.url}/admin/roms/build/1/change/")
    staff.get_by_role("button", name="Retry").click()
    expect(staff.locator(".state-big")).to_have_text("queued")
    staff.get_by_role("button", name="Cancel").click()
    expect(staff.locator(".state-big")).to_have_text("cancelled")
    expect(staff.locator(".messagelist")).to_contain_text("Cancelled.")


def test_a_card_is_flashed_after_its_machines_name_was_typed_and_a_failure_says_what_to_do(
    staff: Page, site: Site
) -> None:
    staff.goto(f"{site.url}/admin/roms/build/1/change/")
    staff.get_by_role("link", name="Flash this ROM…").click()
    expect(staff.locator("#id_confirm_helptext")).to_have_text("Type local, the station's name.")
    choose(staff, "card", "practice", "Practice card")
    choose(staff, "machine", "web", "web01")
    expect(staff.locator("#id_confirm_helptext")).to_have_text("Type web01, the machine's name.")
    staff.get_by_label("To confirm").fill("web02")
    staff.get_by_role("button", name="Flash").click()
    expect(staff.locator(".field-confirm .errorlist")).to_have_text("Type the machine's name, web01, to confirm.")
    staff.get_by_label("To confirm").fill("web01")
    staff.get_by_role("button", name="Flash").click()

    panel = staff.locator("#job-panel")
    expect(panel.locator(".state-big")).to_have_text("queued")
    site.shell(_CLAIM.format(model="FlashJob"))
    go_on(site, "FlashJob", "probe", 0.1, "== probe\nflashrom v1.3 on Linux\nFound Atmel flash chip.\n")
    expect(panel.locator(".step-now")).to_contain_text("Find the chip")
    expect(staff.locator("#job-log")).to_contain_text("Found Atmel flash chip.")
    site.shell(
        "from machines.models import StoredFile\nfrom roms.models import FlashJob\n"
        "backup = StoredFile.objects.store([bytes([255]) * 65536])\n"
        "FlashJob.objects.order_by('pk').last().beat(chip_found='Atmel AT49F512 (64 KiB)', backup=backup,"
        " backup_sha256=backup.sha256, backup_description='erased (every byte is ff)')"
    )
    go_on(
        site, "FlashJob", "write", 0.6, "== save\nReading flash... done.\n== write\nErasing and writing flash chip...\n"
    )
    expect(panel.locator(".step-now")).to_contain_text("Write")
    expect(panel.locator(".step-done")).to_have_count(2)
    expect(panel.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(panel).to_contain_text(hashlib.sha256(b"\xff" * 65536).hexdigest())
    shoot(staff, "flash")
    finish(site, "FlashJob", "failed", "Erasing or writing the chip failed.", "{'chip_state': 'unknown'}")
    expect(panel.locator(".danger")).to_contain_text("Do not power off the station or unplug the card")
    panel.get_by_role("link", name="Restore the saved contents…").click()
    expect(staff.get_by_label("write back saved contents")).to_be_checked()
    expect(staff.locator(".field-restores")).to_be_visible()
    expect(staff.locator(".field-build")).to_be_hidden()
    expect(staff.get_by_label("To confirm")).to_have_value("")


def test_a_pasted_lspci_leads_to_the_form_of_a_build(staff: Page, site: Site) -> None:
    staff.goto(f"{site.url}/admin/roms/card/")
    staff.get_by_role("link", name="Paste lspci -nn…").click()
    staff.get_by_label("Output of lspci").fill(
        "03:00.0 Ethernet controller [0200]: Intel Corporation 82557/8/9/0/1 [8086:1229] (rev 08)\n"
        "\tKernel driver in use: e100\n"
        "04:00.0 Ethernet controller [0200]: Intel Corporation I210 [8086:1533]\n"
        "05:00.0 Ethernet controller [0200]: Nobody Fast [1234:5678]\n"
    )
    staff.get_by_role("button", name="Look them up").click()
    expect(staff.locator(".results")).to_contain_text("modprobe -r e100")
    staff.get_by_role("link", name="Build a ROM for this card").first.click()
    expect(staff.locator(".field-card .select2-selection")).to_contain_text("8086:1229")
