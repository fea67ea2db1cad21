"""Write CSV row by row, without cells that a spreadsheet reads as formulas."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

#: The characters that a formula can begin with.
FORMULA = tuple("=+-@\t\r")


class _Echo:
    def write(self, line: str) -> str:
        return line


def lines(rows: Iterable[Iterable[str]], end: str = "\r\n") -> Iterator[str]:
    """Yield each row as a line with guarded cells. A cell with a character of `end` is quoted."""
    writer = csv.writer(_Echo(), lineterminator=end)
    for row in rows:
        yield writer.writerow([guarded(cell) for cell in row])


def guarded(text: str) -> str:
    """Put an apostrophe before text that looks like a formula or is already guarded. `unguarded` removes it."""
    return f"'{text}" if text[:1] in FORMULA or _looks_guarded(text) else text


def unguarded(text: str) -> str:
    """Return the text that was passed to `guarded`."""
    return text[1:] if _looks_guarded(text) else text


def _looks_guarded(text: str) -> bool:
    return text[:1] == "'" and text[1:2] in FORMULA
