"""What reasons, states and audited actions mean, in a sentence for the person who reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.boot.decide import Reason
from machines.models.rescue_terms import MAX_TRIES

if TYPE_CHECKING:
    from machines.models import AuditEntry

REASONS = {
    Reason.BAD_MAC: "The request names no usable MAC address.",
    Reason.UNKNOWN_MAC: "The MAC address belongs to no machine.",
    Reason.NO_RESCUE: "No rescue is enabled; the machine boots its disk.",
    Reason.RESCUE_EXPIRED: "The rescue has expired; the machine boots its disk.",
    Reason.ADDRESS_NOT_ALLOWED: (
        "The request comes from outside the machine's allowed networks, or from an unknown address: a proxy in front "
        "of the site did not say from which."
    ),
    Reason.ADDRESS_MISMATCH: (
        "The machine lists no network, and the address that it claims is not the one that the request comes from, or "
        "that one is unknown. "
        "Behind a router or NAT, list the network that its requests come from."
    ),
    Reason.IDENTITY_MISSING: "The request does not say all that the machine's identity asks for.",
    Reason.IDENTITY_MISMATCH: "The request says something else than the machine's identity asks for.",
    Reason.RESCUE_USED: "The rescue was for one boot and has been used; the machine boots its disk.",
    Reason.RESCUE_FAILED: (
        f"The rescue system was started {MAX_TRIES} times and has not come up; the machine boots its disk until "
        "somebody has it tried again."
    ),
    Reason.IMAGE_UNAVAILABLE: "The image cannot be served: a file of it is lost, or it is for another architecture.",
    Reason.IMAGE_DAMAGED: (
        "A file of the image is damaged, or has changed and is about to be read again; the machine boots its disk. "
        "Upload the file again."
    ),
    Reason.RESCUE_ARMED: "Rescue is enabled; the machine is told to boot the rescue system.",
    Reason.RESCUE_BOOTING: "The rescue system is told to boot once more.",
    Reason.DATABASE_ERROR: "The site could not read its database; machines were told to boot their disks.",
    Reason.INTERNAL_ERROR: "The site made an error, see its log; the machine was told to boot its disk.",
}

STATES = {
    "local": "boots its disk",
    "armed": "rescue from the next power-on",
    "booting": "rescue system is booting",
    "up": "rescue system is up",
    "ended": "ended",
}

SHORT_STATES = {"local": "boots disk", "armed": "armed", "booting": "booting", "up": "up", "ended": "ended"}

#: What is done from an address on the network; where an entry of these names none, it was unknown.
_ASKED = frozenset({"boot", "file_sent", "file_refused", "ready", "up", "up_refused", "logins_blocked"})


def source_text(entry: AuditEntry) -> str:
    """From where it was done; empty for what time or the command line did."""
    return entry.source or ("unknown address" if entry.action in _ASKED and not entry.actor else "")


def reason_text(reason: str) -> str:
    """The sentence for a decision's reason; other texts (what staff wrote) are returned as they are."""
    try:
        return REASONS[Reason(reason)]
    except ValueError:
        return reason
