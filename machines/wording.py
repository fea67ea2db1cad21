"""The names of states and audit actions for people."""

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

#: The words for model names and other parts of action codes.
_WORDS = {
    "rescueimage": "image",
    "notificationrule": "notification rule",
    "sshkey": "SSH key",
    "installedrom": "installed ROM",
    "mac": "MAC address",
    "token": "API token",
    "flash": "flash job",
}
_ACTIONS = {
    "boot": "Boot request",
    "ready": "Files have arrived",
    "up": "Rescue system is up",
    "up_refused": "Report refused",
}


def action_text(action: str) -> str:
    """Return an action code in words: `rescueimage_changed` becomes “Image changed”."""
    words = " ".join(_WORDS.get(word, word) for word in action.split("_"))
    return _ACTIONS.get(action) or words[:1].upper() + words[1:]


#: The actions of clients on the network. An entry of these without a source had an unknown source address.
_NETWORK_ACTIONS = frozenset({"boot", "file_sent", "file_refused", "ready", "up", "up_refused", "logins_blocked"})


def source_text(entry: AuditEntry) -> str:
    """Return the source address in words; empty for actions of the site itself or at the command line."""
    return entry.source or ("unknown address" if entry.action in _NETWORK_ACTIONS and not entry.actor else "")
