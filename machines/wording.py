"""What states and audited actions mean, for the person who reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from machines.models import AuditEntry

STATES = {
    "local": "boots its disk",
    "armed": "rescue from the next power-on",
    "booting": "rescue system is booting",
    "up": "rescue system is up",
    "ended": "ended",
}

SHORT_STATES = {"local": "boots disk", "armed": "armed", "booting": "booting", "up": "up", "ended": "ended"}

#: Django's names of models, and whatever else is not a word.
_WORDS = {
    "rescueimage": "image",
    "notificationrule": "notification rule",
    "sshkey": "SSH key",
    "installedrom": "installed ROM",
    "mac": "MAC address",
    "token": "API token",
    "flash": "flash job",
    "logins": "log-ins",
}
_ACTIONS = {
    "boot": "Boot request",
    "ready": "Files have arrived",
    "up": "Rescue system is up",
    "up_refused": "Report refused",
}


def action_text(action: str) -> str:
    """What was done, in words: `rescueimage_changed` is “Image changed”."""
    words = " ".join(_WORDS.get(word, word) for word in action.split("_"))
    return _ACTIONS.get(action) or words[:1].upper() + words[1:]


#: What is done from an address on the network; where an entry of these names none, it was unknown.
_ASKED = frozenset({"boot", "file_sent", "file_refused", "ready", "up", "up_refused", "logins_blocked"})


def source_text(entry: AuditEntry) -> str:
    """From where it was done; empty for what time or the command line did."""
    return entry.source or ("unknown address" if entry.action in _ASKED and not entry.actor else "")
