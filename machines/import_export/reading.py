"""Read a file into rows: a table from a spreadsheet, or an old rescue.php. Pure."""

from __future__ import annotations

import codecs
import csv
import io
import re

from machines.import_export.csv_text import unguarded
from machines.import_export.php import is_php, read_php
from machines.import_export.rows import BulkError, Contents, Problem, Row
from machines.machine_fields import TEXTS

#: The columns of a table. Only `name` is required.
COLUMNS = ("name", "macs", "networks", "uuid", "serial", "image", *TEXTS)
#: The largest file, in bytes.
MAX_BYTES = 20 << 20
_DELIMITERS = (",", ";", "\t")
_SEP_LINE = re.compile(r"\"?sep=(?P<delimiter>[^\n\"])\"?[ \t]*\r?\n", re.IGNORECASE)
_AS_TEXT = re.compile(r'="(?P<text>(?:[^"]|"")*)"', re.DOTALL)


def read(contents: bytes) -> Contents:
    """Read a table or a PHP file. Raises BulkError."""
    text = decode(contents)
    return read_php(text) if is_php(text) else Contents(read_table(text))


def decode(contents: bytes) -> str:
    """Decode a file in UTF-8 or UTF-16, or PHP in Latin-1. Raises BulkError."""
    if len(contents) > MAX_BYTES:
        raise BulkError([Problem(1, f"The file is larger than {MAX_BYTES >> 20} MB.")])
    try:
        text = contents.decode(_encoding(contents))
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        raise BulkError([Problem(line, "This is not UTF-8. Save the table as “CSV UTF-8”.")]) from error
    if "\0" in text:
        raise BulkError([Problem(text[: text.index("\0")].count("\n") + 1, "There is a zero byte. Is this a table?")])
    return text


def _encoding(contents: bytes) -> str:
    if contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(contents) > 1 and 0 in contents[:2] and len(contents) % 2 == 0:
        # UTF-16 without a byte order mark: one of the two bytes of the first letter is zero, because it is ASCII.
        return "utf-16-le" if contents[1] == 0 else "utf-16-be"
    try:
        contents.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1" if is_php(contents.decode("latin-1")) else "utf-8-sig"
    return "utf-8-sig"


def read_table(text: str) -> list[Row]:
    """Read a table. Its first line names the columns. Raises BulkError.

    A line `sep=;` before it sets the delimiter, as in spreadsheets. Columns without a name must be empty.
    """
    skipped = 0
    if separator := _SEP_LINE.match(text):
        text, skipped = text[separator.end() :], 1
    first = text.lstrip().partition("\n")[0]
    delimiter = separator["delimiter"] if separator else max(_DELIMITERS, key=first.count)
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
            # The line where the row begins. A note may have several lines.
            line = reader.line_num + skipped - sum(cell.count("\n") for cell in cells)
            if surplus := _surplus(cells, names):
                problems.append(Problem(line, surplus))
                continue
            named = zip(names, cells + [""] * (len(names) - len(cells)), strict=False)
            rows.append(Row(line, {name: plain(cell) for name, cell in named if name}))
    except csv.Error as error:
        problems.append(Problem(reader.line_num + skipped, f"This is not a valid table: {error}."))
    if not names:
        problems.append(Problem(1, f"The first line must name the columns: {', '.join(COLUMNS)}."))
    if problems:
        raise BulkError(problems)
    return rows


def _surplus(cells: list[str], names: list[str]) -> str:
    """Return the problem of a row with a value outside of the named columns; empty if there is none."""
    if any(cell.strip() for cell in cells[len(names) :]):
        return f"This row has {len(cells)} cells, but the table has {len(names)} columns."
    nameless = [
        number for number, name in enumerate(names, 1) if not name and "".join(cells[number - 1 : number]).strip()
    ]
    return f"Column {nameless[0]} has a value but no name." if nameless else ""


def plain(cell: str) -> str:
    """Return the value of a cell without the additions of spreadsheets.

    These are an apostrophe that prevents a formula (see `csv_text`), and the formula of a constant text, which keeps
    the zeros of `="00123"`.
    """
    text = cell.lstrip().replace("\r\n", "\n")
    if (given := unguarded(text)) != text:
        return given.strip()
    text = text.rstrip()
    constant = _AS_TEXT.fullmatch(text)
    return constant["text"].replace('""', '"').strip() if constant else text


def _check_head(names: list[str]) -> None:
    known = ", ".join(COLUMNS)
    problems = [f"Unknown column “{name}”. Use: {known}." for name in names if name and name not in COLUMNS]
    problems += [f"The column “{name}” occurs twice." for name in COLUMNS if names.count(name) > 1]
    if "name" not in names:
        problems.append(f"The first line must name the columns. “name” is required. All columns: {known}.")
    if problems:
        raise BulkError(Problem(1, text) for text in problems)
