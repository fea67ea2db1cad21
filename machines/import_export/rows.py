"""The contents of an imported file: rows and problems. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_SEVERAL = re.compile(r"[\s,;]+")


@dataclass(frozen=True)
class Problem:
    """A problem in a line, as a message for people."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class BulkError(Exception):
    """The file cannot be imported, and nothing was changed. `problems` lists all problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Row:
    """One line of the file. `values` has only the columns of the file."""

    line: int
    values: dict[str, str]

    def several(self, column: str) -> list[str] | None:
        """Return the values of a cell with several values; None if the file does not have this column."""
        return None if column not in self.values else [one for one in _SEVERAL.split(self.values[column]) if one]


@dataclass(frozen=True)
class Contents:
    """The rows of a file, and remarks about parts that are not imported."""

    rows: list[Row]
    remarks: list[Problem] = field(default_factory=list)
