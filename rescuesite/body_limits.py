"""Limit the size of request bodies, by URL and by user, before the body is read.

Django reads the body when something accesses a form field. The CSRF check does so first, before the permissions are
checked. Requests of network cards and rescue systems do not come here. machines.boot limits them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.urls import Resolver404, resolve

from rescuesite import disk_space
from rescuesite.api.authentication import user_of_token

#: The limits in bytes. For users who are not logged in: enough for a name and a password.
STRANGER = 64 << 10
#: For logged-in users and API tokens: forms and JSON.
STAFF = 1 << 20
#: For a table of machines in a form.
TABLE = 4 << 20
#: For all files of an image. nginx has the same limit in deploy/.
IMAGE = 4 << 30


class Larger(NamedTuple):
    """A larger limit of one URL, for users with all of `permissions`."""

    limit: int
    permissions: tuple[str, ...]


#: By the name of the route.
LARGER: Final = {
    "admin:machines_machine_import": Larger(TABLE, ("machines.add_machine", "machines.change_machine")),
    "admin:machines_rescueimage_add": Larger(IMAGE, ("machines.add_rescueimage",)),
    "admin:machines_rescueimage_change": Larger(IMAGE, ("machines.change_rescueimage",)),
    "images-list": Larger(IMAGE, ("machines.add_rescueimage",)),
    "images-detail": Larger(IMAGE, ("machines.change_rescueimage",)),
}


class BodyLimitMiddleware:
    """Refuses requests that are too large or have no room on the disk. Needs AuthenticationMiddleware before it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return _objection(request) or self._get_response(request)


def _objection(request: HttpRequest) -> HttpResponse | None:
    if "HTTP_TRANSFER_ENCODING" in request.META:
        # Django ignores a body without a length.
        return _refusal(request, 411, "Send the request with a Content-Length header.")
    length = request.META.get("CONTENT_LENGTH") or "0"
    size = int(length) if length.isascii() and length.isdigit() else 0
    if size <= STRANGER:
        return None
    limit, advice = _limit(request)
    if size > limit:
        return _refusal(request, 413, f"The request has {size:,} bytes. The limit is {limit:,} bytes. {advice}")
    # An upload is on the disk twice until it is stored.
    if size > TABLE and (problem := disk_space.problem(2 * size)):
        return _refusal(request, 507, f"The upload was refused: {problem}.")
    return None


def _limit(request: HttpRequest) -> tuple[int, str]:
    """Return the limit of the request in bytes, and advice for a larger request."""
    user = _user(request)
    if not user.is_authenticated:
        return STRANGER, "Log in first, or send a valid token."
    try:
        larger = LARGER.get(resolve(request.path_info).view_name)
    except Resolver404:
        larger = None
    if larger is None:
        return STAFF, "Upload files only on the pages to add and change images."
    if not user.has_perms(larger.permissions):  # type: ignore[attr-defined]
        needed = " and ".join(_permission_text(name) for name in larger.permissions)
        return STAFF, f"Larger requests need the permission to {needed}."
    return larger.limit, "Send less at once, or use the command on the server."


def _permission_text(permission: str) -> str:
    return permission.partition(".")[2].replace("_", " ").replace("rescueimage", "rescue image") + "s"


def _user(request: HttpRequest) -> AbstractBaseUser | AnonymousUser:
    return request.user if request.user.is_authenticated else user_of_token(request) or AnonymousUser()


def _refusal(request: HttpRequest, status: int, text: str) -> HttpResponse:
    if request.path_info.startswith("/api/"):
        return JsonResponse({"detail": text}, status=status)
    return render(request, "too_large.html", {"text": text}, status=status)
