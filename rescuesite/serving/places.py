"""Where a request is answered: which processes, which of their threads, and how slow its client may be. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from machines.boot.script import DHCP_SCRIPT
from rescuesite.serving.head import Head


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a request's thread waits for its client in all: `grace` seconds, and one more per `rate` bytes moved."""

    grace: float
    rate: float = math.inf


@dataclass(frozen=True, slots=True)
class Place:
    """Threads that answer one kind of request; `threads` None is as many as the site is configured to have."""

    name: str
    pace: Pace | None
    threads: int | None = None
    #: How many requests may wait for a thread; more are refused. None: all that connect.
    queue: int | None = None


#: An answer fits into the connection's send buffer; who has not read the earlier ones is not waited for.
ANSWERS = Place("answers", Pace(2))
_ANSWERED_AT_ONCE = (b"/up", b"/ready", f"/boot/{DHCP_SCRIPT}".encode())
#: A machine may take its time with an initrd. One that is switched off is noticed by TCP.
#: Who waits for a place here holds a connection that a boot answer may need.
FILES = Place("files", None, queue=256)

_STAFF_PACE = Pace(30, 4096)
PAGES = Place("pages", _STAFF_PACE)
STATIC = Place("static", _STAFF_PACE, threads=16)
#: The only requests whose thread waits for a body.
UPLOADS = Place("uploads", _STAFF_PACE, threads=16)


class Side(enum.Enum):
    """What a process is for: its places. The last one takes what has no place in the process."""

    BOOT = "boot"
    STAFF = "staff"

    @property
    def places(self) -> tuple[Place, ...]:
        return (FILES, ANSWERS) if self is Side.BOOT else (STATIC, UPLOADS, PAGES)


_ANSWERED = {b"/boot", b"/boot/", b"/rescue.php", b"/healthz", b"/readyz"}


def place_of(head: Head) -> Place:
    """The place of a request. What is no HTTP gets the answer that boots the disk."""
    path = head.path
    if not path or path in _ANSWERED:
        return ANSWERS
    if path.startswith(b"/boot/"):
        # Small, and what a rescue waits for: not behind the downloads of others.
        return ANSWERS if path.endswith(_ANSWERED_AT_ONCE) else FILES
    if not head.has_small_body:
        return UPLOADS
    return STATIC if path.startswith(b"/static/") else PAGES
