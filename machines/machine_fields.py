"""The fields of a machine, for forms, the API, commands, tables and audit entries. Pure.

To add a plain text field, add it to the model with a migration, and add its name to TEXTS.
"""

from __future__ import annotations

from typing import Any

#: The plain text fields. They are also options of `machine add` and columns of tables.
TEXTS = ("notes",)
#: The parts of the rescue system's network in JSON, and the fields of the model for them.
NETWORK = {part: f"rescue_network_{part}" for part in ("addresses", "gateways", "dns")}
NETWORK_FIELDS = tuple(NETWORK.values())
#: The fields that every user who may change machines can change during a rescue too.
ALWAYS_EDITABLE = frozenset({"notes"})


def empty() -> dict[str, Any]:
    """Return the values of an empty machine, in the form of `Machine.snapshot`."""
    return {
        "name": "",
        "macs": [],
        "allowed_networks": [],
        "image": None,
        "identity": {},
        "rescue_network": {part: [] for part in NETWORK},
        **dict.fromkeys(TEXTS, ""),
    }
