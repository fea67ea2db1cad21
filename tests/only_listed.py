"""Run a command with the programs of listed packages alone: python -m tests.only_listed PACKAGE… -- COMMAND [ARG…].

PATH becomes a folder of links to the programs of the packages, of what they depend on, and of every Debian system. A
test that needs a program of another package, which somebody has installed by hand, fails here as it does elsewhere.
"""

# ruff: noqa: T201
from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

#: All that README asks for.
GIVEN = ("git", "python3", "make")
FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
#: Tells the tests that there is such a folder; see tests/conftest.py.
VARIABLE = "RESCUESITE_ONLY_LISTED"
_FIELDS = ("Package", "Depends", "Pre-Depends", "Provides", "Essential", "Priority")


class Package(NamedTuple):
    """An installed package."""

    #: Each is a choice: one of these names must be there.
    depends: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]
    is_everywhere: bool


def main(arguments: Sequence[str]) -> int:
    end = arguments.index("--")
    names, command = arguments[:end], arguments[end + 1 :]
    with tempfile.TemporaryDirectory(prefix="rescuesite-programs-") as folder:
        # Builds run under another account.
        Path(folder).chmod(0o755)
        needed = closure(names, installed())
        link_programs(needed, Path(folder))
        print(f"Programs of {len(needed)} packages are in PATH: those listed, and what they depend on.", flush=True)
        return subprocess.run(command, env=os.environ | {"PATH": folder, VARIABLE: folder}, check=False).returncode


def installed() -> dict[str, Package]:
    """What dpkg has, by name."""
    wanted = "\\t".join(f"${{{name}}}" for name in _FIELDS) + "\\n"
    output = subprocess.run(["dpkg-query", "-W", "-f", wanted], check=True, capture_output=True, text=True).stdout
    found = {}
    for line in output.splitlines():
        name, depends, before, provides, essential, priority = line.split("\t")
        choices = tuple(_names(choice, "|") for text in (depends, before) for choice in text.split(",") if choice)
        everywhere = essential == "yes" or priority == "required"
        found[name] = Package(choices, _names(provides, ","), everywhere)
    return found


def _names(text: str, between: str) -> tuple[str, ...]:
    """The names in a relation, without versions and architectures: deb-control(5)."""
    return tuple(match[1] for part in text.split(between) if (match := re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", part)))


def closure(names: Iterable[str], packages: dict[str, Package]) -> set[str]:
    """The packages, those that are on every system, and all that they depend on."""
    providers: dict[str, list[str]] = {}
    for name, package in packages.items():
        for provided in (name, *package.provides):
            providers.setdefault(provided, []).append(name)
    waiting = [*GIVEN, *names, *(name for name, package in packages.items() if package.is_everywhere)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name not in packages:
            continue
        found.add(name)
        for choice in packages[name].depends:
            # The first that is there is the one that apt would have taken.
            waiting += next(([one] for one in choice if one in packages), [])
            waiting += [one for other in choice if other not in packages for one in providers.get(other, [])]
    return found


def link_programs(packages: Iterable[str], folder: Path) -> None:
    """Link each program that belongs to one of the packages, by itself or by what its link leads to."""
    listed = subprocess.run(["dpkg-query", "-L", *packages], check=True, capture_output=True, text=True).stdout
    owned = {os.path.realpath(path) for path in listed.splitlines() if "/bin/" in path or "/sbin/" in path}
    for program in (program for place in FOLDERS for program in Path(place).iterdir()):
        link = folder / program.name
        if os.path.realpath(program) in owned and not link.exists():
            link.symlink_to(program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
