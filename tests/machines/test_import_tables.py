"""Tables are read as spreadsheets mean them."""

from __future__ import annotations

import codecs

import pytest

from machines.import_export.reading import read
from machines.import_export.rows import BulkError

TABLE = "name;notes\nweb01;Büro 7\n"


def values(contents: bytes) -> list[dict[str, str]]:
    return [row.values for row in read(contents).rows]


@pytest.mark.parametrize(
    "contents",
    [
        TABLE.encode("utf-16"),
        codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"),
        TABLE.encode("utf-16-le"),
        TABLE.encode("utf-16-be"),
        f"sep=;\n{TABLE}".encode("utf-16"),
    ],
)
def test_utf_16_is_read(contents: bytes) -> None:
    assert values(contents) == [{"name": "web01", "notes": "Büro 7"}]


@pytest.mark.parametrize("line", ["sep=;\n", "SEP=;\r\n", '"sep=;"\n'])
def test_a_line_that_names_the_delimiter_is_no_row(line: str) -> None:
    rows = read(f"{line}name;notes\nweb01;a,b,c,d\n".encode()).rows
    assert [(row.line, row.values) for row in rows] == [(3, {"name": "web01", "notes": "a,b,c,d"})]


def test_the_named_delimiter_counts_though_the_head_has_another_more_often() -> None:
    assert values(b"sep=|\nname|notes\nweb01|x\n") == [{"name": "web01", "notes": "x"}]


def test_empty_columns_without_a_name_are_left_out() -> None:
    assert values(b"name;macs;;;\nweb01;;;;\nweb02;;; ;\n") == [
        {"name": "web01", "macs": ""},
        {"name": "web02", "macs": ""},
    ]


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"name;;notes\nweb01;x;y\n", "line 2: Column 2 has a value but no name."),
        (b"name;notes\nweb01;y;z\n", "line 2: This row has 3 cells, but the table has 2 columns."),
    ],
)
def test_a_value_that_belongs_to_no_column_is_named(contents: bytes, said: str) -> None:
    with pytest.raises(BulkError) as raised:
        read(contents)
    assert [str(problem) for problem in raised.value.problems] == [said]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('="00123"', "00123"),
        ('"=""00123"""', "00123"),
        ('"=""a """"b"""""""', 'a "b"'),
        ("'=1+1", "=1+1"),
        ('"\'=""x"""', '="x"'),
        ("=1+1", "=1+1"),
    ],
)
def test_a_cell_means_what_a_spreadsheet_shows(cell: str, value: str) -> None:
    assert values(f"name,serial\nweb01,{cell}\n".encode())[0]["serial"] == value
