"""What a rescue system posts when it is up, parsed. Pure but for Django's request object."""

import json
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest

from machines.addresses import parse_ip
from machines.boot.request import clean
from machines.models.rescue_terms import UpReport
from machines.ssh_keys import KeyFormatError, PublicKey

MAX_BODY = 64 * 1024
_MAX_KEYS = 8


class ReportError(ValueError):
    """The body is no report; the message says why, for whoever writes a rescue system."""


def read_report(request: HttpRequest) -> UpReport:
    """Read a report, sent as a form or as JSON; fields that make no sense are left out. Raises ReportError."""
    values, keys = _json_fields(request) if request.content_type == "application/json" else _form_fields(request)
    address = values.get("address")
    return UpReport(
        boot_id=_text(values.get("boot_id"), 64),
        address=parse_ip(address) if isinstance(address, str) else None,
        hostname=_text(values.get("hostname"), 253),
        host_keys=_host_keys(keys),
    )


def _json_fields(request: HttpRequest) -> tuple[dict[str, Any], list[Any]]:
    try:
        values = json.loads(request.body)
    except (ValueError, RecursionError):
        raise ReportError("The body is not JSON.") from None
    if not isinstance(values, dict):
        raise ReportError("The body is not a JSON object.")
    keys = values.get("host_keys", [])
    return values, keys if isinstance(keys, list) else [keys]


def _form_fields(request: HttpRequest) -> tuple[dict[str, Any], list[Any]]:
    return request.POST.dict(), list(request.POST.getlist("host_keys"))


def _text(value: Any, limit: int) -> str:
    return clean(value.strip(), limit) if isinstance(value, str) else ""


def _host_keys(texts: Iterable[Any]) -> list[str]:
    """One key a line; re-serialised without comment, at most one of each kind that sshd makes and a few more."""
    keys: list[str] = []
    for line in "\n".join(text for text in texts if isinstance(text, str)).splitlines():
        try:
            key = PublicKey.parse(line).line(comment=False)
        except KeyFormatError:
            continue
        if key not in keys:
            keys.append(key)
    return keys[:_MAX_KEYS]
