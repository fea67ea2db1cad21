"""What is promised to programs, as it was when it was last written down: a rename cannot change it unseen.

Where a change is meant, write it down anew: RESCUESITE_WRITE_CONTRACTS=1 pytest tests/test_contracts.py, and read the
difference before you commit it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from drf_spectacular.generators import SchemaGenerator

from machines.import_export.reading import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
WRITTEN_DOWN = ROOT / "tests" / "contracts"
OURS = ("machines", "roms", "rescuesite")


def api() -> Iterator[str]:
    """Each operation with its parameters, and the properties of what is sent and answered; no names of components."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    for path, methods in sorted(schema["paths"].items()):
        for method, operation in sorted(methods.items()):
            yield f"{method.upper()} {path}"
            for parameter in sorted(operation.get("parameters", []), key=lambda one: (one["in"], one["name"])):
                yield f"  {parameter['in']} {parameter['name']}: {'; '.join(properties(schema, parameter['schema']))}"
            for kind, content in sorted(operation.get("requestBody", {}).get("content", {}).items()):
                yield from (f"  sent {kind} {line}" for line in properties(schema, content["schema"]))
            for status, answer in sorted(operation["responses"].items()):
                contents = sorted(answer.get("content", {}).items()) or [("nothing", {"schema": {}})]
                for kind, content in contents:
                    yield from (f"  {status} {kind} {line}" for line in properties(schema, content["schema"]))


def properties(schema: dict[str, Any], part: dict[str, Any], name: str = "", seen: tuple[str, ...] = ()) -> list[str]:
    """The leaves below `part`, each with its path, its type and its choices."""
    while "$ref" in part or len(part.get("allOf", [])) == 1:
        reference = part.get("$ref", "")
        if reference in seen:
            return [f"{name}: as above"]
        seen = (*seen, reference) if reference else seen
        part = schema["components"]["schemas"][reference.rsplit("/", 1)[1]] if reference else part["allOf"][0]
    if part.get("properties"):
        required = part.get("required", [])
        return [
            line
            for key, value in sorted(part["properties"].items())
            for line in properties(schema, value, f"{name}.{key}{'' if key in required else '?'}".lstrip("."), seen)
        ]
    if "items" in part:
        return properties(schema, part["items"], f"{name}[]", seen)
    several = [line for key in ("oneOf", "anyOf") for one in part.get(key, []) for line in properties(schema, one)]
    kind = " | ".join(sorted(one.strip(": ") for one in several)) or str(part.get("type", "any"))
    if "enum" in part:
        kind += f" {sorted(map(str, part['enum']))}"
    if isinstance(part.get("additionalProperties"), dict):
        kind += f" of {'; '.join(properties(schema, part['additionalProperties']))}"
    return [f"{name}: {kind}"]


def commands() -> Iterator[str]:
    """How each command is called, and each of its actions."""
    for name, app in sorted(get_commands().items()):
        if app in OURS:
            parser = load_command_class(app, name).create_parser("manage.py", name)
            yield from usages(parser)


def usages(parser: argparse.ArgumentParser) -> Iterator[str]:
    own = re.sub(r"\s+", " ", parser.format_usage().removeprefix("usage: ")).strip()
    for option in ("-h", "--version", "-v {0,1,2,3}", "--settings SETTINGS", "--pythonpath PYTHONPATH", "--traceback",
                   "--no-color", "--force-color", "--skip-checks"):  # fmt: skip
        own = own.replace(f" [{option}]", "")
    yield own
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for _, inner in sorted(action.choices.items()):
                yield from usages(inner)


def environment() -> Iterator[str]:
    """The variables that are read anywhere."""
    read = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\(|words\(|flag\(|number\(|\b\w+\()\s*["'](RESCUESITE_\w+)""")
    files = [path for app in OURS for path in (ROOT / app).rglob("*.py")]
    yield from sorted({name for path in files for name in read.findall(path.read_text())} | {"DATABASE_URL"})


def tables() -> Iterator[str]:
    """The header of the table of machines."""
    yield ",".join(COLUMNS)


@pytest.mark.parametrize("promised", [api, commands, environment, tables])
def test_what_is_promised_is_as_it_was_written_down(promised: Any) -> None:
    file = WRITTEN_DOWN / f"{promised.__name__}.txt"
    now = "".join(f"{line}\n" for line in promised())
    if os.environ.get("RESCUESITE_WRITE_CONTRACTS"):
        file.write_text(now)
    assert now == file.read_text()
