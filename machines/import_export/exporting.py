"""Export machines as a table in the format of the import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from machines.import_export import csv_text
from machines.import_export.reading import COLUMNS
from machines.machine_fields import TEXTS
from machines.models import Machine


def table(machines: Iterable[Machine]) -> Iterator[str]:
    """Yield the lines of the table. Read the machines with `for_lists`."""
    yield from csv_text.lines(_rows(machines), end="\n")


def _rows(machines: Iterable[Machine]) -> Iterator[Iterable[str]]:
    yield COLUMNS
    for machine in machines:
        values = {
            "name": machine.name,
            "macs": " ".join(mac.address for mac in machine.macs.all()),
            "networks": " ".join(allowed.network for allowed in machine.allowed_networks.all()),
            "uuid": machine.identity.get("uuid", ""),
            "serial": machine.identity.get("serial", ""),
            "image": machine.image.name if machine.image else "",
            # Some readers end the row at other line breaks. The import ignores the kind of line breaks.
            **{name: getattr(machine, name).replace("\r\n", "\n").replace("\r", "\n") for name in TEXTS},
        }
        yield [values[column] for column in COLUMNS]
