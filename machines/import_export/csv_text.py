"""CSV as text: rows as they are sent, with no cell that a spreadsheet takes for a formula."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

#: What a formula begins with.
FORMULA = tuple("=+-@\t\r")


class _Echo:
    def write(self, line: str) -> str:
        return line


def lines(rows: Iterable[Iterable[str]], end: str = "\r\n") -> Iterator[str]:
    """Each row as a line, its cells guarded. A cell is quoted where it holds a character of `end`."""
    writer = csv.writer(_Echo(), lineterminator=end)
    for row in rows:
        yield writer.writerow([guarded(cell) for cell in row])


def guarded(text: str) -> str:
    """The text behind an apostrophe where it would be a formula, or looks guarded: `unguarded` gives it back."""
    return f"'{text}" if text[:1] in FORMULA or _looks_guarded(text) else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if _looks_guarded(text) else text


def _looks_guarded(text: str) -> bool:
    return text[:1] == "'" and text[1:2] in FORMULA
