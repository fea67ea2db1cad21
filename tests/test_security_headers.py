"""Every page tells the browser to run nothing but the site's own scripts."""

from __future__ import annotations

import re

import pytest
from django.conf import LazySettings
from django.test import Client

from machines.models import Machine
from rescuesite.security_headers import CONTENT_SECURITY_POLICY

PAGES = [
    "/admin/",
    "/admin/login/",
    "/admin/machines/machine/",
    "/api/",
    "/api/docs/",
    "/api/docs/?script=",
    "/nowhere/",
]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("logged_in", [True, False])
def test_every_answer_has_the_policy(client: Client, admin_client: Client, path: str, logged_in: bool) -> None:
    response = (admin_client if logged_in else Client()).get(path)
    assert response["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert (response["X-Content-Type-Options"], response["Referrer-Policy"]) == ("nosniff", "same-origin")
    assert (response["Cross-Origin-Opener-Policy"], response["X-Frame-Options"]) == ("same-origin", "DENY")
    assert "camera=()" in response["Permissions-Policy"]


def test_the_policy_has_no_exception() -> None:
    assert not re.search(r"unsafe|\*|https?:|data:|blob:|nonce|sha", CONTENT_SECURITY_POLICY)


@pytest.mark.parametrize(
    ("asked", "status"),
    [({"HTTP_HOST": "evil.example"}, 400), ({"CONTENT_LENGTH": "900000"}, 413), ({"HTTP_TRANSFER_ENCODING": "x"}, 411)],
)
def test_a_refusal_has_the_policy(db: None, asked: dict[str, str], status: int) -> None:
    response = Client().post("/admin/login/", **asked)  # type: ignore[arg-type]
    assert (response.status_code, response["Content-Security-Policy"]) == (status, CONTENT_SECURITY_POLICY)


def test_an_error_of_the_site_has_the_policy(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("machines.dashboard.dashboard", fail)
    admin_client.raise_request_exception = False
    response = admin_client.get("/admin/")
    assert (response.status_code, response["Content-Security-Policy"]) == (500, CONTENT_SECURITY_POLICY)


def test_browsers_are_told_to_keep_to_https_where_staff_do(client: Client, settings: LazySettings, db: None) -> None:
    settings.SECURE_HSTS_SECONDS = 31_536_000
    assert client.get("/admin/login/", secure=True)["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.parametrize("path", PAGES)
def test_no_page_holds_a_script_or_a_style_of_its_own(admin_client: Client, machine: Machine, path: str) -> None:
    page = admin_client.get(path).content.decode()
    if path != "/api/docs/?script=":
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)[^>]*>\s*\S|javascript:", page)
