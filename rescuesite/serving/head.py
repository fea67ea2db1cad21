"""The head of a request, as far as it says where the request belongs and when it is complete. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

#: A head that is longer is refused.
MAX_HEAD = 16 * 1024
#: A body of this size is waited for before a thread takes the request; the body of a report is not larger.
SMALL_BODY = 64 * 1024

_END = b"\r\n\r\n"
_FIELD = re.compile(rb"\r\n(content-length|transfer-encoding|expect):[ \t]*([^\r\n]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Head:
    """`size` includes the empty line; `body` is None where nobody knows its length beforehand."""

    size: int
    path: bytes
    body: int | None
    #: Whether the client sends the body only once it is asked to (RFC 9110 section 10.1.1).
    expects_continue: bool

    @classmethod
    def read(cls, received: bytes | bytearray, searched: int = 0) -> Head | None:
        """Read the head that `received` begins with; None while it is incomplete.

        The first `searched` bytes are known not to hold the end.
        """
        # An empty line before a request is skipped by the HTTP parser, so it is no end of a head.
        end = received.find(_END, max(searched - len(_END), 2))
        if end < 0:
            return None
        text = bytes(received[: end + 2]).lstrip(b"\r\n")
        found = [(name.lower(), value.strip()) for name, value in _FIELD.findall(text)]
        fields = dict(found)
        length = fields.get(b"content-length", b"0")
        known = length.isdigit() and len(length) < 20 and b"transfer-encoding" not in fields
        # The HTTP parser refuses several lengths: nothing is waited for.
        known = known and sum(name == b"content-length" for name, _ in found) < 2
        words = text[: text.find(b"\r\n")].split(b" ", 2)
        return cls(
            size=end + len(_END),
            path=_path(words[1]) if len(words) > 1 else b"",
            body=int(length) if known else None,
            expects_continue=fields.get(b"expect", b"").lower() == b"100-continue",
        )

    @property
    def has_small_body(self) -> bool:
        return self.body is not None and self.body <= SMALL_BODY

    @property
    def awaited(self) -> int:
        """So many bytes are there before a thread takes the request: no thread waits for a small body."""
        return self.size + (self.body or 0 if self.has_small_body else 0)


def _path(target: bytes) -> bytes:
    """The path of a request's target, as the site's addresses are matched: decoded, with one leading slash."""
    path = target.split(b"?", 1)[0]
    if b"://" in path and not path.startswith(b"/"):
        # The form that proxies are asked with (RFC 9112 section 3.2.2).
        path = path.split(b"://", 1)[1].partition(b"/")[2]
    return b"/" + (unquote_to_bytes(path) if b"%" in path else path).lstrip(b"/")
