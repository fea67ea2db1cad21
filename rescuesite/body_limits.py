"""How large a request may be, by what its address needs and who asks: decided before any of its body is read.

Django reads a body as soon as somebody looks for a form's field; the CSRF check is the first to do so, before anybody
has asked who is there. What NICs and rescue systems send does not come here; machines.boot bounds it.
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

#: In bytes. From who is not logged in: a name and a password.
STRANGER = 64 << 10
#: From staff and programs: forms, and JSON.
STAFF = 1 << 20
#: A table of machines, as a form carries it.
TABLE = 4 << 20
#: An image's files together. nginx's limit in deploy/ is this one.
IMAGE = 4 << 30


class Larger(NamedTuple):
    """An address that takes more than a form, from users who hold all of `permissions`."""

    limit: int
    permissions: tuple[str, ...]


#: By the names of their routes.
LARGER: Final = {
    "admin:machines_machine_import": Larger(TABLE, ("machines.add_machine", "machines.change_machine")),
    "admin:machines_rescueimage_add": Larger(IMAGE, ("machines.add_rescueimage",)),
    "admin:machines_rescueimage_change": Larger(IMAGE, ("machines.change_rescueimage",)),
    "images-list": Larger(IMAGE, ("machines.add_rescueimage",)),
    "images-detail": Larger(IMAGE, ("machines.change_rescueimage",)),
}


class BodyLimitMiddleware:
    """Refuses what is too large, or has no room on the disk. Stands behind the one that knows the session's user."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return _objection(request) or self._get_response(request)


def _objection(request: HttpRequest) -> HttpResponse | None:
    if "HTTP_TRANSFER_ENCODING" in request.META:
        # Django reads no body without a length; what was sent would be lost in silence.
        return _refusal(request, 411, "Send the request with a Content-Length.")
    length = request.META.get("CONTENT_LENGTH") or "0"
    size = int(length) if length.isascii() and length.isdigit() else 0
    if size <= STRANGER:
        return None
    limit, advice = _limit(request)
    if size > limit:
        text = f"The request has {size:,} bytes; there is room for {limit:,}. {advice}"
        return _refusal(request, 413, text.strip())
    # What is uploaded lies on the disk twice until it is stored.
    if size > TABLE and (problem := disk_space.problem(2 * size)):
        return _refusal(request, 507, f"Nothing was taken: {problem}.")
    return None


def _limit(request: HttpRequest) -> tuple[int, str]:
    """How many bytes the request may have, and what to do where it has more."""
    user = _user(request)
    if not user.is_authenticated:
        return STRANGER, "Log in first, or send a token that works."
    try:
        larger = LARGER.get(resolve(request.path_info).view_name)
    except Resolver404:
        larger = None
    if larger is None:
        return STAFF, "An image's files are uploaded where images are added or changed."
    if not user.has_perms(larger.permissions):  # type: ignore[attr-defined]
        return STAFF, "More may be sent by who may " + " and ".join(_right(name) for name in larger.permissions) + "."
    return larger.limit, "Send less at once, or use the command on the server."


def _right(permission: str) -> str:
    return permission.partition(".")[2].replace("_", " ").replace("rescueimage", "rescue image") + "s"


def _user(request: HttpRequest) -> AbstractBaseUser | AnonymousUser:
    return request.user if request.user.is_authenticated else user_of_token(request) or AnonymousUser()


def _refusal(request: HttpRequest, status: int, text: str) -> HttpResponse:
    if request.path_info.startswith("/api/"):
        return JsonResponse({"detail": text}, status=status)
    return render(request, "too_large.html", {"text": text}, status=status)
