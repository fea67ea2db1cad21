"""What is read from a file: the rows, and what was not understood. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_SEVERAL = re.compile(r"[\s,;]+")


@dataclass(frozen=True)
class Problem:
    """What is wrong in a line, for the person who mends the file."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class BulkError(Exception):
    """The file cannot be taken over; nothing was changed. `problems` are all that were found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Row:
    """A machine as a line of the file has it: `values` by column, for those columns alone that the file has."""

    line: int
    values: dict[str, str]

    def several(self, column: str) -> list[str] | None:
        """The values of a cell that may hold some; None where the file has no such column."""
        return None if column not in self.values else [one for one in _SEVERAL.split(self.values[column]) if one]


@dataclass(frozen=True)
class Contents:
    """A file's rows, and remarks on what of it was not taken."""

    rows: list[Row]
    remarks: list[Problem] = field(default_factory=list)
