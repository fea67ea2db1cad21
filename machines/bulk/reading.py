"""From a file to rows: tables as spreadsheets write them, and the rescue.php whose place this site takes. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

#: What a table may have; only `name` must be there.
COLUMNS = ("name", "macs", "networks", "uuid", "serial", "image", "notes")
#: More than this is no table of machines. In bytes.
MAX_BYTES = 20 << 20
#: With these begins what a spreadsheet computes.
FORMULA = tuple("=+-@\t\r")
_DELIMITERS = (",", ";", "\t")
_SEVERAL = re.compile(r"[\s,;]+")

_CASE = re.compile(
    r"""^[ \t]*case\s+(['"])(?P<mac>[^'"\n]*)\1\s*:             # case "00:02:b3:9d:94:8c":
        (?:"[^"\n]*"|'[^'\n]*'|(?!//|\#)[^\n'"])*              # code; texts in it hold no comments
        (?:(?://|\#)[ \t]*(?P<note>[^\n]*))?$                   # // web01, rack 3""",
    re.VERBOSE | re.MULTILINE,
)
_COMMENTS = re.compile(r"/\*.*?\*/", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


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


def read(contents: bytes) -> list[Row]:
    """The rows of a file, whatever its kind. Raises BulkError."""
    if len(contents) > MAX_BYTES:
        raise BulkError([Problem(1, f"The file has more than {MAX_BYTES >> 20} MB; this is no table of machines.")])
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        raise BulkError([Problem(line, "This is not UTF-8; save the table as “CSV UTF-8”.")]) from error
    if "\0" in text:
        raise BulkError([Problem(text[: text.index("\0")].count("\n") + 1, "There is a zero byte; is this a table?")])
    return read_php(text) if text.lstrip().startswith("<?") else read_table(text)


def read_table(text: str) -> list[Row]:
    """The rows of a table whose first line names the columns. Raises BulkError."""
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    problems: list[Problem] = []
    rows: list[Row] = []
    names: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip().lower() for cell in cells]
                _check_head(names)
                continue
            # Where the row began: a note may span lines.
            line = reader.line_num - sum(cell.count("\n") for cell in cells)
            if len(cells) > len(names) and any(cells[len(names) :]):
                problems.append(Problem(line, f"There are {len(cells)} cells, and {len(names)} columns."))
                continue
            cells += [""] * (len(names) - len(cells))
            rows.append(Row(line, {name: plain(cell) for name, cell in zip(names, cells, strict=False)}))
    except csv.Error as error:
        problems.append(Problem(reader.line_num, f"This is no table: {error}."))
    if not names:
        problems.append(Problem(1, f"The first line must name the columns: {', '.join(COLUMNS)}."))
    if problems:
        raise BulkError(problems)
    return rows


def plain(cell: str) -> str:
    """A cell without the apostrophe that keeps a spreadsheet from taking it for a formula; see `exporting`."""
    text = cell.strip().replace("\r\n", "\n")
    return text[1:] if text[:1] == "'" and text[1:2] in FORMULA else text


def _check_head(names: list[str]) -> None:
    known = ", ".join(COLUMNS)
    problems = [f"There is no column “{name}”; known are: {known}." for name in names if name not in COLUMNS]
    problems += [f"The column “{name}” is there twice." for name in COLUMNS if names.count(name) > 1]
    if "name" not in names:
        problems.append(f"The first line must name the columns, “name” among them: {known}.")
    if problems:
        raise BulkError(Problem(1, text) for text in problems)


def read_php(text: str) -> list[Row]:
    """The machines of an old rescue.php: its `case "MAC":` lines, and what a comment behind one says. Raises BulkError.

    A comment's first word that can be a name is the machine's; otherwise it is called after its MAC address. Cases that
    are commented out are left out.
    """
    # What is in a block comment goes, its line breaks stay.
    plain = _COMMENTS.sub(lambda comment: "\n" * comment.group().count("\n"), text)
    rows, taken = [], set()
    for found in _CASE.finditer(plain):
        mac, note = found["mac"], (found["note"] or "").strip()
        digits = re.sub(r"[^0-9a-f]", "", mac.lower())
        first = note.split(maxsplit=1)[0].rstrip(",:;") if note else ""
        name = first if _NAME.fullmatch(first) and first.lower() not in taken else f"mac-{digits}"
        taken.add(name.lower())
        rows.append(Row(plain[: found.start()].count("\n") + 1, {"name": name, "macs": mac, "notes": note}))
    if not rows:
        raise BulkError([Problem(1, 'This PHP file has no lines like: case "00:02:b3:9d:94:8c":')])
    return rows
