"""What a rescue system posts when it is up, parsed. Pure but for Django's request object."""

import json
import re
from contextlib import suppress
from typing import Any

from django.http import HttpRequest

from machines.addresses import IPAddress, parse_ip
from machines.boot.request import clean
from machines.models.rescue_terms import UpReport
from machines.ssh_keys import KeyFormatError, PublicKey

MAX_BODY = 64 * 1024
_FIELDS = ("boot_id", "address", "hostname", "host_keys")
_MAX_KEYS, _MAX_LINES = 8, 16
#: A key of 16,384 bits has some 43 plus signs; as many addresses has no machine.
_MAX_WORDS = 64
#: What is told of one thing that was not understood, in characters; and of how many things.
_MAX_TOLD, _MAX_REMARKS = 160, 8


class ReportError(ValueError):
    """The body is no report; the message says why, for whoever writes a rescue system."""


def read_report(request: HttpRequest) -> UpReport:
    """Read a report, sent as a form or as JSON; it names what was not understood. Raises ReportError.

    JSON is read whatever the content type says: curl says that everything is a form.
    """
    as_json = request.content_type == "application/json" or request.body.lstrip()[:1] == b"{"
    values = _json_fields(request) if as_json else dict(request.POST.lists())
    boot_id, hostname = _text(values.get("boot_id"), 64), _text(values.get("hostname"), 253)
    address, strange = _address(_texts(values.get("address")))
    host_keys, damaged = _host_keys(_texts(values.get("host_keys")))
    unread = [
        f"{name}: not a text" for name in ("boot_id", "hostname") if values.get(name) and not _texts(values[name])
    ]
    unknown = [f"unknown field “{name}”" for name in values if name not in _FIELDS]
    return UpReport(
        boot_id=boot_id,
        address=address,
        hostname=hostname,
        host_keys=host_keys,
        not_understood=[clean(text, _MAX_TOLD) for text in (*unread, *strange, *damaged, *unknown)][:_MAX_REMARKS],
    )


def _json_fields(request: HttpRequest) -> dict[str, Any]:
    try:
        values = json.loads(request.body)
    except (ValueError, RecursionError):
        raise ReportError("The body is not JSON.") from None
    if not isinstance(values, dict):
        raise ReportError("The body is not a JSON object.")
    return values


def _texts(value: Any) -> list[str]:
    """The texts of a field that may hold one or several."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _text(value: Any, limit: int) -> str:
    """The last text counts, as in PHP."""
    texts = _texts(value)
    return clean(texts[-1].strip(), limit) if texts else ""


def _address(texts: list[str]) -> tuple[IPAddress | None, list[str]]:
    """The first address of a list that others can reach, and what is no address.

    `hostname -I` prints several; `ip` prints a prefix length behind each.
    """
    words = [word for text in texts for word in re.split(r"[\s,;]+", text) if word]
    read = {word: parse_ip(word.partition("/")[0].strip("[]")) for word in words[:_MAX_WORDS]}
    found = [address for address in read.values() if address and not address.is_loopback and not address.is_unspecified]
    # A link-local address only means something on its own link.
    usual = sorted(found, key=lambda address: address.is_link_local)
    return usual[0] if usual else None, [f"address “{word}”" for word, address in read.items() if address not in found]


def _host_keys(texts: list[str]) -> tuple[list[str], list[str]]:
    """One key a line, re-serialised without comment, at most one of each kind that sshd makes and a few more.

    Also returns what is wrong with those that are left out.
    """
    keys: dict[str, None] = {}
    damaged = []
    lines = [line.strip() for line in "\n".join(texts).splitlines() if line.strip()]
    for line in lines[:_MAX_LINES]:
        try:
            keys[_host_key(line)] = None
        except KeyFormatError as error:
            damaged.append(f"host key “{line[:24]}”: {error}")
    if len(lines) > _MAX_LINES or len(keys) > _MAX_KEYS:
        damaged.insert(0, f"host keys: more than {_MAX_KEYS}; the first ones count")
    return list(keys)[:_MAX_KEYS], damaged


def _host_key(line: str) -> str:
    """A key in which each `+` may have become a space: a form that was not encoded says so. Raises KeyFormatError."""
    words = line.split(" ")
    for end in range(2, min(len(words), _MAX_WORDS) + 1):
        with suppress(KeyFormatError):
            return PublicKey.parse(f"{words[0]} {'+'.join(words[1:end])}").line(comment=False)
    return PublicKey.parse(line).line(comment=False)
