"""Machines as a table of the shape that is imported."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from machines.import_export.reading import COLUMNS, FORMULA
from machines.models import Machine


class _Echo:
    def write(self, line: str) -> str:
        return line


def table(machines: Iterable[Machine]) -> Iterator[str]:
    """The lines of the table; `machines` with their addresses read already (`for_lists`)."""
    writer = csv.writer(_Echo(), lineterminator="\n")
    yield writer.writerow(COLUMNS)
    for machine in machines:
        values = {
            "name": machine.name,
            "macs": " ".join(mac.address for mac in machine.macs.all()),
            "networks": " ".join(allowed.network for allowed in machine.allowed_networks.all()),
            "uuid": machine.identity.get("uuid", ""),
            "serial": machine.identity.get("serial", ""),
            "image": machine.image.name if machine.image else "",
            # A line break of another kind would end the row for some readers; importing compares lines.
            "notes": machine.notes.replace("\r\n", "\n").replace("\r", "\n"),
        }
        yield writer.writerow([guarded(values[column]) for column in COLUMNS])


def guarded(text: str) -> str:
    """A cell that no spreadsheet takes for a formula; importing takes the apostrophe away again."""
    is_guarded = text[:1] == "'" and text[1:2] in FORMULA
    return f"'{text}" if text[:1] in FORMULA or is_guarded else text
