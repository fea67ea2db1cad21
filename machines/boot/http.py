"""HTTP as the boot face speaks it: plain answers that nobody keeps."""

import re

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from machines.boot.deadline import Deadline

#: A name with an underscore is none by RFC 1123, and many networks have one: what reached us once reaches us again.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII)


def base_url(request: HttpRequest) -> str:
    """The site's address as a rescue system can reach it: what was configured, or what reached us this time."""
    if settings.RESCUESITE_BASE_URL_GIVEN:
        return str(settings.RESCUESITE_BASE_URL)
    host = request.META.get("HTTP_HOST", "")
    if not _HOST.fullmatch(host):
        return str(settings.RESCUESITE_BASE_URL)
    return f"{request.scheme}://{host}"


def boot_deadline() -> Deadline:
    """The moment by which a request that begins now must have its answer."""
    return Deadline(settings.RESCUESITE_BOOT_DEADLINE)


def as_utf8(raw: str) -> str:
    """What a client sent as UTF-8; WSGI hands bytes over as Latin-1 characters (PEP 3333)."""
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


def text(body: str, status: int = 200) -> HttpResponse:
    return octets(body.encode(), "text/plain; charset=utf-8", status)


def octets(body: bytes, content_type: str, status: int = 200) -> HttpResponse:
    return HttpResponse(
        body,
        status=status,
        content_type=content_type,
        headers={"Cache-Control": "no-store", "Content-Length": str(len(body))},
    )


def method_not_allowed(allowed: str, body: str = "") -> HttpResponse:
    response = text(body or f"Use one of: {allowed}.\n", status=405)
    response["Allow"] = allowed
    return response


def not_found() -> HttpResponse:
    """The one answer to whatever names no file of an active rescue: nobody learns from it which tokens exist."""
    return text("Not found.\n", status=404)
