"""How large a request may be is decided before anybody reads its body."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client

from machines.models import APIToken, RescueImage
from rescuesite.body_limits import IMAGE, STAFF, STRANGER, TABLE

LOGIN, ADD_IMAGE, IMPORT = "/admin/login/", "/admin/machines/rescueimage/add/", "/admin/machines/machine/import/"
IMAGES = "/api/images/"
MULTIPART = "multipart/form-data; boundary=x"


class BodyReadError(Exception):
    """Somebody has begun to read the body."""


class Unread:
    """A body that tells when it is read."""

    def read(self, *_: Any) -> NoReturn:
        raise BodyReadError

    readline = read


def announce(client: Client, path: str, size: int, method: str = "POST", **extra: Any) -> HttpResponse | None:
    """Send a request of `size` bytes; None where its body is read."""
    body = {"CONTENT_LENGTH": str(size), "wsgi.input": Unread()}
    try:
        return client.generic(method, path, b"x", MULTIPART, **body, **extra)  # type: ignore[arg-type, return-value]
    except BodyReadError:
        return None


def taken(client: Client, path: str, size: int, **extra: Any) -> int:
    """The largest of `size` and one byte more of which the body is read; 0 for none."""
    below, above = announce(client, path, size, **extra), announce(client, path, size + 1, **extra)
    assert above is not None
    assert above.status_code == 413
    return 0 if below is not None else size


@pytest.fixture
def staff(db: None) -> Callable[..., Client]:
    """Log in as a staff user with the named permissions."""

    def log_in(*permissions: str) -> Client:
        client = Client(enforce_csrf_checks=True)
        client.cookies["csrftoken"] = "x" * 32
        client.force_login(user_with(*permissions))
        return client

    return log_in


def user_with(*permissions: str) -> User:
    user = User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.fixture
def stranger(db: None) -> Client:
    """Somebody with an invented CSRF cookie."""
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "x" * 32
    return client


@pytest.mark.parametrize("path", [LOGIN, ADD_IMAGE, IMPORT, "/admin/", "/favicon.ico", "/nowhere/", IMAGES, "/api/"])
def test_who_is_not_logged_in_sends_little(stranger: Client, path: str) -> None:
    refused = announce(stranger, path, STRANGER + 1)
    assert refused is not None
    assert refused.status_code == 413
    assert "65,537 bytes. The limit is 65,536 bytes. Log in first" in refused.content.decode()


def test_a_log_in_is_read(stranger: Client) -> None:
    assert taken(stranger, LOGIN, STRANGER) == STRANGER


def test_what_is_sent_before_log_in_never_reaches_the_disk(stranger: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("django.core.files.uploadedfile.tempfile.NamedTemporaryFile", written)
    response = stranger.post(LOGIN, {"username": "bob", "file": SimpleUploadedFile("f", b"x" * 60_000)})
    assert response.status_code == 403


def test_staff_send_forms(staff: Callable[..., Client]) -> None:
    client = staff("add_machine", "view_rescueimage", "delete_rescueimage")
    assert [taken(client, path, STAFF) for path in ("/admin/machines/machine/add/", ADD_IMAGE, IMPORT)] == [STAFF] * 3


def test_who_may_not_upload_is_told_who_may(staff: Callable[..., Client]) -> None:
    refused = announce(staff(), IMPORT, STAFF + 1)
    assert refused is not None
    assert "Larger requests need the permission to add machines and change machines." in refused.content.decode()


def test_who_may_import_machines_sends_a_table(staff: Callable[..., Client]) -> None:
    assert taken(staff("add_machine", "change_machine"), IMPORT, TABLE) == TABLE


def test_who_may_add_images_sends_them(staff: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, total=100 << 30, free=90 << 30)
    assert taken(staff("add_rescueimage"), ADD_IMAGE, IMAGE) == IMAGE


def test_who_may_add_images_may_not_send_as_much_elsewhere(
    staff: Callable[..., Client], image: RescueImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, total=100 << 30, free=90 << 30)
    client = staff("add_rescueimage")
    others = [f"/admin/machines/rescueimage/{image.pk}/change/", LOGIN, f"{IMAGES}tiny/", "/api/machines/"]
    assert {path: getattr(announce(client, path, STAFF + 1), "status_code", 0) for path in others} == dict.fromkeys(
        others, 413
    )


@pytest.mark.parametrize(
    ("permission", "method", "path", "status"),
    [
        ("add_rescueimage", "POST", IMAGES, None),
        ("add_rescueimage", "PATCH", f"{IMAGES}tiny/", 413),
        ("change_rescueimage", "PATCH", f"{IMAGES}tiny/", None),
        ("change_rescueimage", "POST", IMAGES, 413),
        ("view_rescueimage", "POST", IMAGES, 413),
    ],
)
def test_a_token_sends_what_its_user_may(
    client: Client, image: RescueImage, permission: str, method: str, path: str, status: int | None
) -> None:
    _, token = APIToken.objects.make(user_with("view_rescueimage", permission), "program")
    response = announce(client, path, TABLE, method, headers={"Authorization": f"Token {token}"})
    assert (response and response.status_code) == status


def test_a_token_that_does_not_work_is_a_stranger(client: Client, db: None) -> None:
    response = announce(client, IMAGES, STRANGER + 1, headers={"Authorization": "Token rs_guess"})
    assert response is not None
    assert response.status_code == 413
    assert response["Content-Type"] == "application/json"
    assert "send a valid token" in response.json()["detail"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", [LOGIN, "/api/machines/"])
def test_a_body_without_a_length_is_refused(stranger: Client, path: str) -> None:
    response = stranger.post(path, headers={"Transfer-Encoding": "chunked"})
    assert (response.status_code, "Send the request with a Content-Length header." in response.content.decode()) == (
        411,
        True,
    )


def test_an_upload_for_which_the_disk_has_no_room_is_refused_unread(
    staff: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, total=100 << 30, free=6 << 30)
    client = staff("add_rescueimage")
    # Twice on the disk while it is stored, and 5 % stay free.
    assert announce(client, ADD_IMAGE, 500 << 20) is None
    refused = announce(client, ADD_IMAGE, 600 << 20)
    assert refused is not None
    assert refused.status_code == 507
    assert "has 6,144 MB free and 1,200 MB are needed" in refused.content.decode()


def room(monkeypatch: pytest.MonkeyPatch, *, total: int, free: int) -> None:
    usage = shutil._ntuple_diskusage(total, total - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
