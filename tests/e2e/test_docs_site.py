"""The documentation as a site: `make docs` from a fresh clone, read in a real browser."""

from __future__ import annotations

import os
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests import pages
from tests.e2e.site import ROOT
from tests.e2e.test_browser import browser_type_launch_args

__all__ = ["browser_type_launch_args"]
pytestmark = pytest.mark.e2e


class Handler(SimpleHTTPRequestHandler):
    """Serves the files of a folder, and says nothing of it."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is nothing to clone: this is not a checkout")
def test_the_site_is_built_and_its_pages_ask_no_other_host(page: Page, tmp_path: Path) -> None:
    assert pages.lines_of(pages.MAKE_DOCS)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(clone)], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    made = subprocess.run(["make", "docs"], cwd=clone, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(clone / "site"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        built = sorted(path.parent.relative_to(clone / "site") for path in (clone / "site").rglob("index.html"))
        assert len(built) == len(list((ROOT / "docs").glob("*.md")))
        for path in built:
            page.goto(f"http://{place}/{path}/", wait_until="networkidle")
            expect(page.locator("h1")).to_be_visible()
        # What is read on the first search.
        page.locator("input.md-search__input").fill("image_damaged")
        expect(page.locator(".md-search-result__item").first).to_be_visible()
        server.shutdown()
    assert asked == {place}
