"""A table of 10,000 machines: how long it takes to import it, and to import it again."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.site import Site

_MACHINES = 10_000


def run(base: Path) -> None:
    base.mkdir()
    path = base / "machines.csv"
    lines = [_line(number >> 16, number >> 8 & 255, number & 255) for number in range(_MACHINES)]
    path.write_text("\n".join(["name,macs,networks,serial,notes", *lines]))
    with Site(base / "data") as site:
        site.data_dir.mkdir()
        site.manage("migrate", "--verbosity", "0")
        first, again = _seconds(site, path), _seconds(site, path)
    print(f"\nImport of {_MACHINES:,} machines (SQLite)\n{'':40}{'seconds':>9}{'ratio':>8}")
    print(f"{'first':40}{first:9.1f}")
    print(f"{'again: nothing to change':40}{again:9.1f}{again / first:8.2f}")


def _line(*octets: int) -> str:
    mac, number = ":".join(f"{octet:02x}" for octet in octets), ".".join(map(str, octets))
    return f"node{number},52:54:00:{mac},10.{number},CZ{number},note"


def _seconds(site: Site, path: Path) -> float:
    started = time.monotonic()
    site.manage("import_machines", str(path), timeout=300)
    return time.monotonic() - started
