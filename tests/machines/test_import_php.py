"""An old rescue.php is read as PHP reads it, and what was not taken is named."""

from __future__ import annotations

from typing import Any

import pytest

from machines.import_export.php import _tokens, is_php
from machines.import_export.plan import apply
from machines.import_export.reading import read
from machines.import_export.rows import BulkError, Contents
from machines.models import Actor, Machine
from tests.conftest import MAC

OTHER_MAC = "52:54:00:00:00:01"
PHP = b"""<?php
switch ($_GET["mac"]) {
    case "00:02:b3:9d:94:8c":  // web01, rack 3
    case '52-54-00-00-00-01': # 12 unfit/name
    case "525400000002":
    // case "52:54:00:00:00:03":
    /* case "52:54:00:00:00:04":
       case "52:54:00:00:00:05": */
    case "52:54:00:00:00:06": echo "#!ipxe"; break; // web01
        break;
    default:
}
"""


def taken(code: str) -> list[tuple[int, str, str]]:
    """Line, name and MAC address of each machine in PHP code."""
    return [(row.line, row.values["name"], row.values["macs"]) for row in php(code).rows]


def php(code: str) -> Contents:
    return read(f"<?php\n{code}".encode())


def remarks(contents: Contents) -> list[str]:
    return [str(remark) for remark in contents.remarks]


def test_an_old_rescue_php_becomes_machines(db: None) -> None:
    apply(read(PHP), Actor("alice"))
    assert [(one.name, one.macs.get().address, one.notes) for one in Machine.objects.order_by("pk")] == [
        ("web01", MAC, "web01, rack 3"),
        ("12", OTHER_MAC, "12 unfit/name"),
        ("mac-525400000002", "52:54:00:00:00:02", ""),
        ("mac-525400000006", "52:54:00:00:00:06", "web01"),
    ]


def test_what_is_wrong_in_an_old_rescue_php_is_said_with_its_line(db: None) -> None:
    with pytest.raises(BulkError, match="line 3: “00:02” is not a valid MAC address"):
        apply(read(PHP.replace(b"00:02:b3:9d:94:8c", b"00:02")), Actor("alice"))


@pytest.mark.parametrize(
    "label",
    [
        f'case "{OTHER_MAC}":',
        f"CASE '{OTHER_MAC}' :",
        f'case ("{OTHER_MAC}"):',
        f'case(strtolower("{OTHER_MAC}"))  ;',
        f'case/* a card */"{OTHER_MAC}"/* of ours */:',
        f'case\n"{OTHER_MAC}"\n:',
        f"case <<<MAC\n{OTHER_MAC}\nMAC:",
        f"case <<<'MAC'\n  {OTHER_MAC}\n  MAC :",
        'case "5254.0000.0001":',
        'case "525400-000001":',
    ],
)
def test_a_label_is_found_however_it_is_written(label: str) -> None:
    assert len(php(f"switch ($mac) {{ {label} $r = 1; break; }}").rows) == 1


@pytest.mark.parametrize(
    "before",
    [
        "//********** web servers **********",
        "# /boot/*.img lies on NFS",
        '$text = "/* no comment";',
        "$text = '// it\\'s no comment';",
        '$text = "say \\"case\\" // twice";',
        "$text = `ls /*`;",
        "echo <<<END\n/* 'no string\nEND;",
        "echo <<<'END'\n  it's <?php no code\n  END . 'x';",
        "/* one */ /* two */",
        "// the end of PHP ends a comment ?> HTML <?php",
        "?><p>It's HTML /* and no comment</p><?=",
        "case $constant: case Other::NAME:",
    ],
)
def test_what_stands_before_a_label_does_not_hide_it(before: str) -> None:
    assert (OTHER_MAC) in [mac for _, _, mac in taken(f'{before}\ncase "{OTHER_MAC}": // web01')]


@pytest.mark.parametrize(
    ("hidden", "where"),
    [
        (f'// case "{OTHER_MAC}":', "in a comment"),
        (f'# case "{OTHER_MAC}":', "in a comment"),
        (f'/* case "{OTHER_MAC}": */', "in a comment"),
        (f"echo 'case \"{OTHER_MAC}\":';", "not the label"),
        (f'echo <<<END\ncase "{OTHER_MAC}":\nEND;', "not the label"),
        (f'?>case "{OTHER_MAC}":<?php', "outside of the PHP code"),
        (f'if ($mac == "{OTHER_MAC}") $r = 1;', "not the label"),
        (f'$rescue = ["{OTHER_MAC}" => 1];', "not the label"),
        ('in_array($mac, ["5254.0000.0001"]);', "not the label"),
    ],
)
def test_what_looks_like_a_mac_address_and_is_not_taken_is_named(hidden: str, where: str) -> None:
    contents = php(f'case "{MAC}":\n{hidden}')
    assert [row.values["macs"] for row in contents.rows] == [MAC]
    (remark,) = remarks(contents)
    assert where in remark
    assert "was not imported" in remark
    assert remark.startswith(("line 3:", "line 4:"))


def test_a_label_that_is_not_a_mac_address_is_named() -> None:
    assert remarks(php(f'case "{MAC}": case "reboot":')) == [
        "line 2: case “reboot” is not a valid MAC address. It was not imported."
    ]


def test_the_second_case_of_a_mac_address_is_named_as_php_takes_the_first() -> None:
    contents = php(f'case "{MAC}":\ncase "{MAC.upper()}":')
    assert [row.line for row in contents.rows] == [2]
    assert remarks(contents) == [
        f"line 3: {MAC.upper()} is already the label of the case in line 2. PHP uses that one."
    ]


def test_two_cases_on_a_line_are_two_machines() -> None:
    assert taken(f'case "{MAC}": case "{OTHER_MAC}": // web01') == [
        (2, "web01", MAC),
        (2, "mac-525400000001", OTHER_MAC),
    ]


def test_what_was_taken_is_not_named_again_where_a_comment_repeats_it() -> None:
    assert not remarks(php(f'case "{MAC}": // 0002.b39d.948c'))


@pytest.mark.parametrize("start", ["#!ipxe\n", "<html>\n", "\n\n", "echo\n"])
def test_php_is_php_behind_other_text(start: str) -> None:
    assert is_php(f"{start}<?php echo 1;")


@pytest.mark.parametrize("table", ["name,notes\nweb01,<?php\n", '"name";"notes"\nweb01;<?php\n'])
def test_a_table_that_mentions_php_is_a_table(table: str) -> None:
    assert not is_php(table)


def test_latin_1_is_read() -> None:
    contents = read(f'<?php case "{MAC}": // Büro-1 oben'.encode("latin-1"))
    assert contents.rows[0].values["notes"] == "Büro-1 oben"


@pytest.mark.parametrize(
    "part", ["/*", "//", "'\\", "\\'", '"', "`", "case ", "case(", "<<<A\n", "<?", "?>", "#", "1 ", "00:", "\n"]
)
def test_whatever_the_file_holds_each_character_is_read_once(part: str) -> None:
    text = f"<?php {part * 2000}\\"
    tokens = list(_tokens(text))
    ends = [token.start + len(token.text) for token in tokens]
    assert all(end <= token.start for end, token in zip(ends, tokens[1:], strict=False))


def test_an_unterminated_comment_ends_with_the_file(db: Any) -> None:
    assert remarks(php(f'case "{MAC}": /* {OTHER_MAC}')) == [
        f"line 2: {OTHER_MAC} was not imported: it is in a comment."
    ]
