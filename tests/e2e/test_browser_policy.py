"""A walk over all pages in a real browser: the Content-Security-Policy is in force, and no page offends against it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.site import Site
from tests.e2e.test_browser import browser_type_launch_args, log_in
from tests.e2e.test_browser_roms import _FURNISH

__all__ = ["browser_type_launch_args"]

pytestmark = pytest.mark.e2e

#: What there is to look at, besides what the site's fixture has.
_MORE = """
from django.contrib.auth.models import Group
from machines.models import Actor, Machine, NotificationRule
from machines.models.rescue_terms import RescueRequest
from machines.models import Rescue
from roms.models import Card, FlashJob, Build
Group.objects.create(name="night shift")
NotificationRule.objects.create(name="chat", url="https://chat.example.net/hook", events=["rescue.enabled"])
Rescue.objects.enable(Machine.objects.get(), RescueRequest(reason="RAID"), Actor("alice"))
"""
_TELL = """
document.addEventListener("securitypolicyviolation", event =>
    console.error(`VIOLATION ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile} ${event.sample}`));
"""
#: What somebody managed to write into a page.
_WRITTEN = '<img src="/x" onerror="window.taken = 1"><p style="top: 0">'
#: Pages that no list or form leads to at once.
_OTHERS = (
    *("/admin/password_change/", "/admin/machines/machine/import/", "/admin/machines/machine/?q=web01&state=armed"),
    *("/admin/roms/card/lspci/", "/admin/nowhere/", "/nowhere/", "/admin/machines/machine/enable/?ids=1"),
    *("/admin/machines/machine/disable/?ids=1", "/admin/machines/machine/1/preview/"),
)


@pytest.fixture
def violations(page: Page) -> list[str]:
    """What the browser forbade, with the page on which it did."""
    found: list[str] = []

    def note(message: object) -> None:
        text = str(getattr(message, "text", ""))
        if "VIOLATION" in text or "Content Security Policy" in text:
            found.append(f"{page.url}: {text}")

    page.on("console", note)
    page.add_init_script(_TELL)
    return found


@pytest.fixture
def staff(page: Page, site: Site, violations: list[str]) -> Iterator[Page]:
    """alice's browser; at the end nothing was forbidden, and no script has failed."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    site.shell(_FURNISH)
    site.shell(_MORE)
    log_in(page, site, "alice")
    yield page
    assert (violations, problems) == ([], [])


def links(page: Page, pattern: str) -> list[str]:
    """Where the page leads within the admin, by path."""
    found = page.eval_on_selector_all("a[href]", "all => all.map(one => one.href)")
    return sorted({urlsplit(one).path for one in found if re.search(pattern, urlsplit(one).path)})


def test_no_page_of_the_admin_offends_against_the_policy(staff: Page, site: Site) -> None:
    seen = {*_OTHERS}
    staff.goto(f"{site.url}/admin/")
    for listed in links(staff, r"^/admin/\w+/\w+/$"):
        staff.goto(f"{site.url}{listed}")
        seen |= {*links(staff, rf"^{listed}add/$"), *links(staff, rf"^{listed}(?!export)\w+/(change/)?$")[:3]}
    forms = {
        path.replace("/change/", f"/{view}/") for path in seen if "/change/" in path for view in ("delete", "history")
    }
    for path in sorted(seen | forms):
        staff.goto(f"{site.url}{path}")
        expect(staff.locator("body")).to_be_visible()
    assert len(seen | forms) > 40


def test_dates_and_choices_are_picked_without_offence(staff: Page, site: Site) -> None:
    staff.goto(f"{site.url}/admin/machines/machine/enable/?ids=1")
    staff.goto(f"{site.url}/admin/roms/build/add/")
    staff.locator(".field-card .select2-selection").click()
    staff.locator(".select2-search__field").fill("82559")
    expect(staff.locator(".select2-results__option").first).to_be_visible()


def test_the_pages_of_the_api_offend_not_and_can_be_tried_out(staff: Page, site: Site) -> None:
    staff.goto(f"{site.url}/api/docs/")
    operation = staff.locator(".opblock", has_text="/api/machines/").first
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".responses-wrapper")).to_contain_text('"web01"')
    # The models, and the menu of content types.
    staff.locator(".models .model-toggle, .models button").first.click()
    upload = staff.locator(".opblock-post", has_text="/api/images/").first
    upload.locator(".opblock-summary").click()
    expect(upload.locator("select").first).to_be_visible()


def test_error_pages_offend_not(staff: Page, site: Site) -> None:
    staff.goto(site.url.replace("127.0.0.1", "elsewhere.localhost") + "/admin/")
    expect(staff.get_by_role("heading")).to_have_text("Bad request")
    # Its style sheet has come too.
    assert staff.locator("body").evaluate("body => getComputedStyle(body).maxWidth") == "640px"
    site.expect_in_log("Invalid HTTP_HOST header")


def test_what_somebody_writes_into_a_page_is_not_run(page: Page, site: Site, violations: list[str]) -> None:
    log_in(page, site, "alice")
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", _WRITTEN)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.taken = 1'}))")
    page.wait_for_timeout(500)
    assert page.evaluate("window.taken") is None
    assert {text.split("VIOLATION ")[1].split()[0] for text in violations if "VIOLATION" in text} == {
        "script-src-attr",
        "script-src-elem",
        "style-src-attr",
    }
