"""Why a boot request got its answer: each reason with its outcome and the words for it. Nothing else lists them."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    LOCAL = "local"
    REFUSED = "refused"
    RESCUE = "rescue"


#: Contracts: programs look for these lines on a machine's console.
_NO_RESCUE = "No rescue mode requested, exiting"
_ADDRESS = "IP Failed Match"
_IDENTITY = "Identity Failed Match"


class Reason(StrEnum):
    """`decide` tries them from the top; the first that holds is the reason.

    A member's value is its code for programs. `sentence` is for staff. `console` is what the machine prints: strangers
    read it too, so it says nothing of a machine before its address and identity have been checked.
    """

    outcome: Outcome
    sentence: str
    console: tuple[str, ...]

    # Only a look-up by code gives no more than the code, and never gets here.
    def __new__(cls, code: str, outcome: Outcome = Outcome.LOCAL, sentence: str = "", said: str = "") -> Reason:
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.outcome = outcome
        reason.sentence = sentence
        last = f"Rescue refused: {code}" if outcome is Outcome.REFUSED else ""
        first = _NO_RESCUE if outcome is Outcome.LOCAL else ""
        reason.console = tuple(filter(None, (first, said, last)))
        return reason

    BAD_MAC = "bad_mac", Outcome.LOCAL, "The request has no valid MAC address."
    UNKNOWN_MAC = "unknown_mac", Outcome.LOCAL, "No machine has this MAC address."
    NO_RESCUE = "no_rescue", Outcome.LOCAL, "No rescue is enabled. The machine boots its disk."
    RESCUE_EXPIRED = "rescue_expired", Outcome.LOCAL, "The rescue has expired. The machine boots its disk."
    ADDRESS_NOT_ALLOWED = (
        "address_not_allowed",
        Outcome.REFUSED,
        (
            "The request comes from outside the machine's allowed networks, or from an unknown address: "
            "a proxy in front of the site did not say from which."
        ),
        _ADDRESS,
    )
    ADDRESS_MISMATCH = (
        "address_mismatch",
        Outcome.REFUSED,
        (
            "The machine lists no network, and the address that it claims is not the address that the request comes "
            "from, or that address is unknown. Behind a router or NAT, list the network that its requests come from."
        ),
        _ADDRESS,
    )
    IDENTITY_MISSING = (
        "identity_missing",
        Outcome.REFUSED,
        "The request leaves out a value that the machine's identity requires.",
        _IDENTITY,
    )
    IDENTITY_MISMATCH = (
        "identity_mismatch",
        Outcome.REFUSED,
        "A value in the request differs from the machine's identity.",
        _IDENTITY,
    )
    RESCUE_USED = (
        "rescue_used",
        Outcome.LOCAL,
        "The rescue was for one boot and has been used. The machine boots its disk.",
        "The rescue of this machine was for one boot and has been used",
    )
    RESCUE_FAILED = (
        "rescue_failed",
        Outcome.LOCAL,
        (
            "The rescue system was started several times and did not come up. The machine boots its disk until "
            "somebody tries again."
        ),
        "The rescue system of this machine was started several times and never came up",
    )
    IMAGE_UNAVAILABLE = (
        "image_unavailable",
        Outcome.LOCAL,
        "The image cannot be served: a file is lost, or the image is for another architecture.",
        "A rescue is enabled but its image cannot be served to this machine",
    )
    IMAGE_DAMAGED = (
        "image_damaged",
        Outcome.LOCAL,
        (
            "A file of the image is damaged, or has changed and is about to be read again. The machine boots its disk. "
            "Upload the file again."
        ),
        "A rescue is enabled but a file of its image is damaged",
    )
    RESCUE_ARMED = "rescue_armed", Outcome.RESCUE, "A rescue is enabled. The machine boots the rescue system."
    RESCUE_BOOTING = "rescue_booting", Outcome.RESCUE, "The machine boots the rescue system once more."
    # Around the decision, not of it:
    DATABASE_ERROR = (
        "database_error",
        Outcome.LOCAL,
        "The site could not read its database. Machines booted their disks.",
        "The rescue site cannot read its database",
    )
    INTERNAL_ERROR = (
        "internal_error",
        Outcome.LOCAL,
        "The site made an error; see its log. The machine booted its disk.",
        "The rescue site made an error",
    )


def reason_words(reason: str) -> str:
    """The words for a decision's reason, for a list; other texts are returned as they are."""
    return reason.replace("_", " ") if reason in {*Reason} else reason


def reason_text(reason: str) -> str:
    """The sentence for a decision's reason; other texts (what staff wrote) are returned as they are."""
    try:
        return Reason(reason).sentence
    except ValueError:
        return reason
