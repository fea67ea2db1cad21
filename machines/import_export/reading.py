"""From a file to rows: tables as spreadsheets write them, and the rescue.php whose place this site takes. Pure."""

from __future__ import annotations

import codecs
import csv
import io
import re

from machines.import_export.csv_text import unguarded
from machines.import_export.php import is_php, read_php
from machines.import_export.rows import BulkError, Contents, Problem, Row
from machines.machine_fields import TEXTS

#: What a table may have; only `name` must be there.
COLUMNS = ("name", "macs", "networks", "uuid", "serial", "image", *TEXTS)
#: More than it is not a table of machines. In bytes.
MAX_BYTES = 20 << 20
_DELIMITERS = (",", ";", "\t")
_SEP_LINE = re.compile(r"\"?sep=(?P<delimiter>[^\n\"])\"?[ \t]*\r?\n", re.IGNORECASE)
_AS_TEXT = re.compile(r'="(?P<text>(?:[^"]|"")*)"', re.DOTALL)


def read(contents: bytes) -> Contents:
    """What a file holds, whatever its kind. Raises BulkError."""
    text = decode(contents)
    return read_php(text) if is_php(text) else Contents(read_table(text))


def decode(contents: bytes) -> str:
    """The text of a file: UTF-8, UTF-16 as spreadsheets write it, and PHP in Latin-1 too. Raises BulkError."""
    if len(contents) > MAX_BYTES:
        raise BulkError([Problem(1, f"The file has more than {MAX_BYTES >> 20} MB; it is not a table of machines.")])
    try:
        text = contents.decode(_encoding(contents))
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        raise BulkError([Problem(line, "This is not UTF-8; save the table as “CSV UTF-8”.")]) from error
    if "\0" in text:
        raise BulkError([Problem(text[: text.index("\0")].count("\n") + 1, "There is a zero byte; is this a table?")])
    return text


def _encoding(contents: bytes) -> str:
    if contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(contents) > 1 and 0 in contents[:2] and len(contents) % 2 == 0:
        # Without its mark: the first letter of a column's name is ASCII, so one of its two bytes is zero.
        return "utf-16-le" if contents[1] == 0 else "utf-16-be"
    try:
        contents.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1" if is_php(contents.decode("latin-1")) else "utf-8-sig"
    return "utf-8-sig"


def read_table(text: str) -> list[Row]:
    """The rows of a table whose first line names the columns. Raises BulkError.

    A line before it that names the delimiter (`sep=;`, which spreadsheets write and read) is taken at its word.
    Columns without a name may be there as long as they are empty.
    """
    skipped = 0
    if told := _SEP_LINE.match(text):
        text, skipped = text[told.end() :], 1
    first = text.lstrip().partition("\n")[0]
    delimiter = told["delimiter"] if told else max(_DELIMITERS, key=first.count)
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
    """What is wrong with a row that has a value where no column has a name; empty where it has none."""
    if any(cell.strip() for cell in cells[len(names) :]):
        return f"There are {len(cells)} cells, and {len(names)} columns."
    nameless = [
        number for number, name in enumerate(names, 1) if not name and "".join(cells[number - 1 : number]).strip()
    ]
    return f"There is a value in column {nameless[0]}, which has no name." if nameless else ""


def plain(cell: str) -> str:
    """A cell's value, without what spreadsheets write around it.

    That is an apostrophe that keeps it from being a formula (see `csv_text`), or the formula of a constant text, which
    keeps the zeros of `="00123"`.
    """
    text = cell.lstrip().replace("\r\n", "\n")
    if (given := unguarded(text)) != text:
        return given.strip()
    text = text.rstrip()
    constant = _AS_TEXT.fullmatch(text)
    return constant["text"].replace('""', '"').strip() if constant else text


def _check_head(names: list[str]) -> None:
    known = ", ".join(COLUMNS)
    problems = [f"There is no column “{name}”; known are: {known}." for name in names if name and name not in COLUMNS]
    problems += [f"The column “{name}” is there twice." for name in COLUMNS if names.count(name) > 1]
    if "name" not in names:
        problems.append(f"The first line must name the columns, “name” among them: {known}.")
    if problems:
        raise BulkError(Problem(1, text) for text in problems)
