"""What a machine is made of, for all that read, write or tell of one: form, API, commands, tables, audit entries. Pure.

A further plain text is a field of the model, with its migration, and a name in TEXTS; every face has it then.
"""

from __future__ import annotations

from typing import Any

#: The plain texts: fields of the model and the form, of the JSON, options of `machine add`, columns of tables.
TEXTS = ("notes",)
#: The parts of the rescue system's own network, in JSON; the model's fields are `rescue_network_…`.
NETWORK_PARTS = ("addresses", "gateways", "dns")
NETWORK_FIELDS = tuple(f"rescue_network_{part}" for part in NETWORK_PARTS)
#: What says nothing of who the machine is: it can be changed by everybody who may change machines, in a rescue too.
ALWAYS_EDITABLE = frozenset({"notes"})


def empty() -> dict[str, Any]:
    """A machine of which nothing is said, as `Machine.snapshot` has it."""
    return {
        "name": "",
        "macs": [],
        "allowed_networks": [],
        "image": None,
        "identity": {},
        "rescue_network": {part: [] for part in NETWORK_PARTS},
        **dict.fromkeys(TEXTS, ""),
    }
