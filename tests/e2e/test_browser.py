"""Staff at work, in a real browser; leaves the README's screenshots in .screenshots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from tests.e2e import vm
from tests.e2e.conftest import PASSWORD, MakeSite
from tests.e2e.site import ROOT, Site, token_in

pytestmark = pytest.mark.e2e
expect.set_options(timeout=20_000)

SHOTS = Path(os.environ.get("RESCUESITE_SCREENSHOTS") or ROOT / ".screenshots").absolute()
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGrPS0gb0J4fsoIdAJpvDoLZL5FyGQhV8HkKBvHZcIlM"
FINGERPRINT = "SHA256:"


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, object]:
    """The distribution's Chromium, which must not look for the internet."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    return {"executable_path": "/usr/bin/chromium", "args": ["--no-sandbox", "--disable-gpu", *quiet]}


@pytest.fixture
def staff(page: Page, site: Site) -> Iterator[Page]:
    """A page on which alice, a superuser, is logged in; no script on it may fail."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_viewport_size({"width": 1280, "height": 860})
    log_in(page, site, "alice")
    yield page
    assert not problems


def log_in(page: Page, site: Site, name: str) -> None:
    page.goto(f"{site.url}/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()


def open_machine(page: Page, site: Site, name: str = "web01") -> None:
    page.goto(f"{site.url}/admin/machines/machine/?q={name}")
    page.get_by_role("link", name=name, exact=True).click()


def enable(page: Page, reason: str) -> None:
    page.get_by_role("link", name="Enable rescue").click()
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Enable rescue").click()


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def ask(site: Site, mac: str = vm.MAC, **said: str) -> str:
    return site.get(f"/boot?{urlencode({'mac': mac, 'ip': '192.0.2.7', **said})}").text


def test_a_rescue_is_enabled_followed_and_seen_to_end_on_the_machines_page(staff: Page, site: Site) -> None:
    open_machine(staff, site)
    enable(staff, "RAID lost two disks, ticket 4711")
    state = staff.locator("#panel .state-big")
    expect(state).to_have_text("rescue from the next power-on")

    # The page is left alone from here on: what happens elsewhere must show on it.
    token = token_in(ask(site, serial="SN 42"))
    expect(state).to_have_text("rescue system is booting")
    for name in ("kernel", "initrd", "rescue.cpio", "ready"):
        assert site.get(f"/boot/{token}/{name}").status == 200
    report = urlencode({"address": "192.0.2.7", "hostname": "rescue", "boot_id": "b1", "host_keys": HOST_KEY}).encode()
    site.get(f"/boot/{token}/up", method="POST", body=report, Content_Type="application/x-www-form-urlencoded")
    expect(state).to_have_text("rescue system is up")
    timeline = staff.locator(".timeline")
    expect(timeline).to_contain_text("ssh root@192.0.2.7")
    expect(timeline).to_contain_text(FINGERPRINT)
    shoot(staff, "machine")
    assert "The rescue of this machine was for one boot" in ask(site)
    expect(state).to_have_text("boots its disk")

    events = timeline.locator("b").all_inner_texts()
    assert events == [
        "Told to boot its disk",
        "Rescue ended",
        "Rescue system is up",
        "Ready",
        "Files requested",
        "Rescue script served",
        "Rescue enabled",
        "Machine added",
    ]
    expect(timeline).to_contain_text("RAID lost two disks, ticket 4711")
    expect(timeline).to_contain_text("by alice")


def test_a_rescue_is_disabled_with_the_same_button(staff: Page, site: Site) -> None:
    open_machine(staff, site)
    enable(staff, "a mistake")
    staff.get_by_role("link", name="Disable rescue").click()
    staff.get_by_label("Reason").fill("wrong machine")
    staff.get_by_role("button", name="Disable rescue").click()
    expect(staff.locator("#panel .state-big")).to_have_text("boots its disk")
    expect(staff.locator(".timeline")).to_contain_text("wrong machine")
    assert "set rescuesite local" in ask(site)


def test_an_order_that_makes_no_sense_is_asked_for_again_and_changes_nothing(staff: Page, site: Site) -> None:
    open_machine(staff, site)
    staff.get_by_role("link", name="Enable rescue").click()
    staff.get_by_label("until a time").check()
    staff.get_by_label("Reason").fill("kept while the form is mended")
    staff.get_by_role("button", name="Enable rescue").click()
    expect(staff.locator(".errornote")).to_contain_text("Nothing has been changed")
    expect(staff.get_by_text("Enter the time when the rescue ends.")).to_be_visible()
    expect(staff.get_by_label("Reason")).to_have_value("kept while the form is mended")
    assert site.manage("rescue", "status", "web01", "--json") is None


def test_many_machines_are_enabled_at_once_from_the_list(staff: Page, site: Site) -> None:
    for n in (2, 3, 4):
        site.manage("machine", "add", f"web0{n}", "--mac", f"52:54:00:00:00:0{n}", "--network", "192.0.2.0/24")
    ask(site)
    staff.goto(f"{site.url}/admin/machines/machine/")
    staff.locator("#action-toggle").check()
    staff.locator("select[name=action]").select_option(label="Enable rescue…")
    staff.get_by_role("button", name="Go").click()
    staff.get_by_label("Reason").fill("power failure in row 7")
    expect(staff.locator("h1")).to_have_text("Enable rescue of 4 machines")
    shoot(staff, "enable")
    staff.get_by_role("button", name="Enable rescue").click()
    expect(staff.locator("#result_list .state-armed")).to_have_count(4)
    shoot(staff, "machines")
    assert site.rescue("web03")["reason"] == "power failure in row 7"


def test_an_image_is_uploaded_and_a_machine_made_of_a_sighting(staff: Page, site: Site, tmp_path: Path) -> None:
    for name in ("vmlinuz", "initrd.img"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    staff.goto(f"{site.url}/admin/machines/rescueimage/add/")
    staff.get_by_label("Name:").first.fill("grml")
    rows = staff.locator(".dynamic-files")
    for n, (kind, name) in enumerate([("Kernel", "vmlinuz"), ("Initrd", "initrd.img")]):
        rows.nth(n).locator("select").select_option(label=kind)
        rows.nth(n).locator("input[type=file]").set_input_files(tmp_path / name)
    staff.get_by_role("button", name="Save", exact=True).click()
    expect(staff.locator(".messagelist")).to_contain_text("was added successfully")
    files = {file["name"]: file["size"] for file in site.manage("image", "show", "grml", "--json")["files"]}
    assert files == {"kernel": 7000, "initrd": 10000}

    ask(site, mac="00:02:b3:9d:94:8c", serial="CZ1234", product="ProLiant DL360")
    staff.goto(f"{site.url}/admin/machines/sighting/")
    staff.get_by_role("link", name="Make a machine").click()
    staff.get_by_label("Name:").fill("db07")
    staff.get_by_role("button", name="Save", exact=True).click()
    made = site.manage("machine", "show", "db07", "--json")
    assert (made["macs"], made["identity"], made["allowed_networks"]) == (
        ["00:02:b3:9d:94:8c"], {"serial": "CZ1234"}, ["127.0.0.1"],
    )  # fmt: skip
    assert site.rows("SELECT count(*) AS number FROM machines_sighting") == [{"number": 0}]


def test_the_front_page_shows_how_things_stand(staff: Page, site: Site) -> None:
    site.manage("machine", "add", "db01", "--mac", "52:54:00:00:00:09", "--network", "192.0.2.0/24")
    for n in range(20, 26):
        site.manage("machine", "add", f"node{n}", "--mac", f"52:54:00:00:00:{n}", "--network", "127.0.0.1")
        ask(site, mac=f"52:54:00:00:00:{n}")
    site.manage("rescue", "enable", "web01", "--reason", "will not boot", "--by", "alice")
    site.manage("rescue", "enable", "db01", "--reason", "file system check", "--by", "alice")
    ask(site)
    assert "IP Failed Match" in ask(site, mac="52:54:00:00:00:09")
    ask(site, mac="00:02:b3:9d:94:8c", serial="CZ1234")
    staff.goto(f"{site.url}/admin/")
    for tile in ("1 armed", "1 booting", "0 up", "1 refused in the last day", "1 waiting sighting"):
        expect(staff.locator(".tile", has_text=tile.split(" ", 1)[1])).to_contain_text(tile.split(" ")[0])
    shoot(staff, "front-page")


def test_a_preview_shows_decision_and_script_without_the_token(staff: Page, site: Site) -> None:
    site.manage("rescue", "enable", "web01", "--by", "alice")
    open_machine(staff, site)
    staff.get_by_role("link", name="What would this machine be told?").click()
    expect(staff.locator(".script")).to_contain_text("/boot/<token>/kernel")
    staff.get_by_label("Request comes from").fill("198.51.100.1")
    staff.get_by_role("button", name="What would it be told?").click()
    expect(staff.locator(".panel")).to_contain_text("address_not_allowed")
    expect(staff.locator(".script")).to_contain_text("echo IP Failed Match")
    shoot(staff, "preview")
    assert site.rescue()["state"] == "armed"


def test_who_may_only_look_gets_no_button(page: Page, make_site: MakeSite) -> None:
    site = make_site()
    site.shell(
        "from django.contrib.auth.models import Permission, User\n"
        f"user = User.objects.create_user('bob', password={PASSWORD!r}, is_staff=True)\n"
        "user.user_permissions.add(Permission.objects.get(codename='view_machine'))"
    )
    log_in(page, site, "bob")
    open_machine(page, site)
    expect(page.locator("#panel .state-big")).to_have_text("boots its disk")
    expect(page.get_by_role("link", name="Enable rescue")).to_have_count(0)
    pk = page.url.rstrip("/").split("/")[-2]
    site.expect_in_log("Forbidden|Traceback|PermissionDenied")
    refused = page.goto(f"{site.url}/admin/machines/machine/rescue/enable/?ids={pk}")
    assert refused is not None
    assert refused.status == 403
