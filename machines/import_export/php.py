"""Find the machines in an old rescue.php: a PHP lexer, and the `case` labels among its tokens. Pure.

The lexer recognises everything that can hide a label: strings, the three kinds of comments, heredocs and text outside
of PHP (https://www.php.net/manual/en/langref.php). It reads each character once.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, auto

from machines.addresses import AddressError, macs_in, normalise_mac
from machines.import_export.rows import BulkError, Contents, Problem, Row

_OPEN = re.compile(r"<\?(?:php\b|=|(?!xml\b))", re.IGNORECASE)
# An alternative without its end matches up to the end of the file, so that nothing is read twice.
_TOKEN = re.compile(
    r"""(?P<space>\s++)
      | (?P<close>\?>\n?)
      | (?P<block>/\*)
      | (?P<comment>(?://|\#)(?:[^\n?]|\?(?!>))*+)
      | (?P<string>'(?:[^'\\]|\\(?:.|\Z))*+(?:'|\Z)
                 | "(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)
                 | `(?:[^`\\]|\\(?:.|\Z))*+(?:`|\Z))
      | <<<[ \t]*(?P<quote>["']?)(?P<heredoc>[^\W\d]\w*)(?P=quote)\n
      | (?P<word>[\w$\\]++)
      | (?P<other>::|.)""",
    re.VERBOSE | re.DOTALL,
)
_LINE_START_WORD = re.compile(r"^[ \t]*(\w+)", re.MULTILINE)
#: Text that looks like a MAC address, valid or not: hexadecimal digits and separators.
_LIKE_MAC = re.compile(r"[0-9a-f]{1,6}(?:[:.-][0-9a-f]{0,6})+|[0-9a-f]{6,}", re.IGNORECASE | re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


class Kind(StrEnum):
    """The kind of a token. Only a string can be the MAC address of a label."""

    OUTSIDE = auto()
    COMMENT = auto()
    STRING = auto()
    CODE = auto()


_KINDS = {"comment": Kind.COMMENT, "string": Kind.STRING, "word": Kind.CODE, "other": Kind.CODE}
_WHERE = {
    Kind.OUTSIDE: "it is outside of the PHP code",
    Kind.COMMENT: "it is in a comment",
    Kind.STRING: "it is not the label of a “case”",
    Kind.CODE: "it is not the label of a “case”",
}


@dataclass(frozen=True)
class Token:
    kind: Kind
    text: str
    start: int
    line: int

    @property
    def last_line(self) -> int:
        return self.line + self.text.count("\n")


def is_php(text: str) -> bool:
    """Whether `text` is PHP, possibly after other lines, and not a table that mentions PHP."""
    if text.lstrip().startswith("<?"):
        return True
    first = text.lstrip().partition("\n")[0].lower()
    return "<?php" in text.lower() and "name" not in re.split(r"[,;\t\s\"]+", first)


def read_php(text: str) -> Contents:
    """Return a machine for each `case` label with a MAC address. Raises BulkError if there is none.

    A comment after the label, on the same line, becomes the machine's note. The first word of the comment becomes the
    name, if it is a valid name. Otherwise the name is made from the MAC address. The remarks list text that looks like
    a MAC address and was not imported.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    tokens = list(_tokens(text))
    reader = _Cases(tokens)
    remarks = [*reader.remarks, *_not_imported(text, tokens, reader.taken)]
    if not reader.rows:
        raise BulkError([Problem(1, 'This PHP file has no line like: case "00:02:b3:9d:94:8c":'), *remarks])
    return Contents(reader.rows, sorted(remarks, key=lambda remark: remark.line))


def _tokens(text: str) -> Iterator[Token]:
    position, line, inside = 0, 1, False
    while position < len(text):
        kind, end, inside = _next(text, position) if inside else _outside(text, position)
        part = text[position:end]
        if kind:
            yield Token(kind, part, position, line)
        position, line = end, line + part.count("\n")


def _outside(text: str, position: int) -> tuple[Kind, int, bool]:
    """Return the text up to and including the next opening tag."""
    opened = _OPEN.search(text, position)
    return Kind.OUTSIDE, opened.end() if opened else len(text), bool(opened)


def _next(text: str, position: int) -> tuple[Kind | None, int, bool]:
    """Return the kind (None: white space) and the end of the token at `position`, and whether PHP continues there."""
    found = _TOKEN.match(text, position)
    assert found, "every character is a token"
    if label := found["heredoc"]:
        return Kind.STRING, _heredoc_end(text, label, found.end()), True
    if found["block"]:
        end = text.find("*/", found.end())
        return Kind.COMMENT, len(text) if end < 0 else end + 2, True
    return _KINDS.get(found.lastgroup or ""), found.end(), found.lastgroup != "close"


def _heredoc_end(text: str, label: str, body: int) -> int:
    """Return the end of the heredoc whose body begins at `body`: after its label at the start of a line."""
    words = _LINE_START_WORD.finditer(text, body)
    return next((word.end() for word in words if word[1] == label), len(text))


class _Cases:
    """Collects machines and remarks, in one pass over the tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self.rows: list[Row] = []
        self.remarks: list[Problem] = []
        #: The line of each imported MAC address, by its normal form.
        self.taken: dict[str, int] = {}
        self._names: set[str] = set()
        self._notes = {token.line: token for token in tokens if token.kind is Kind.COMMENT}
        code = [token for token in tokens if token.kind in {Kind.STRING, Kind.CODE}]
        for number, token in enumerate(code):
            if token.kind is Kind.CODE and token.text.lower() == "case":
                self._take(_label(code, number + 1))

    def _take(self, label: list[Token]) -> None:
        for token in label:
            if token.kind is Kind.STRING:
                self._take_mac(token, self._note(label[-1]))

    def _take_mac(self, string: Token, note: str) -> None:
        mac = _body(string.text)
        if not _LIKE_MAC.fullmatch(mac):
            text = f"case “{mac[:40]}” is not a valid MAC address. It was not imported."
            self.remarks.append(Problem(string.line, text))
            return
        try:
            usual = normalise_mac(mac)
        except AddressError:
            usual = mac.lower()
        if usual in self.taken:
            text = f"{mac} is already the label of the case in line {self.taken[usual]}. PHP uses that one."
            self.remarks.append(Problem(string.line, text))
            return
        self.taken[usual] = string.line
        self.rows.append(Row(string.line, {"name": self._name(note, usual), "macs": mac, "notes": note}))

    def _note(self, last: Token) -> str:
        """Return the text of a comment after the label's last token, on the same line."""
        comment = self._notes.get(last.last_line)
        if not comment or comment.start < last.start:
            return ""
        return " ".join(comment.text.removesuffix("*/").lstrip("/#*").rstrip("*").split())

    def _name(self, note: str, mac: str) -> str:
        first = note.split(maxsplit=1)[0].rstrip(",:;") if note else ""
        if not _NAME.fullmatch(first) or first.lower() in self._names:
            first = f"mac-{re.sub('[^0-9a-f]', '', mac)}"
        self._names.add(first.lower())
        return first


def _label(code: list[Token], start: int) -> list[Token]:
    """Return the tokens after `case` up to and including its `:` or `;`."""
    label: list[Token] = []
    depth = 0
    for number in range(start, len(code)):
        token = code[number]
        if token.text.lower() == "case":
            # The earlier label has no end, so this is not valid PHP. Stop here, so that nothing is read twice.
            break
        label.append(token)
        depth += (token.text in {"(", "["}) - (token.text in {")", "]"})
        if (depth <= 0 and token.text in {":", ";"}) or token.text in {"{", "}"}:
            break
    return label


def _body(string: str) -> str:
    """Return the contents of a string or heredoc."""
    if string.startswith("<<<"):
        return string.partition("\n")[2].rpartition("\n")[0].strip()
    return string[1:].removesuffix(string[0]).strip()


def _not_imported(text: str, tokens: list[Token], taken: dict[str, int]) -> Iterator[Problem]:
    """Yield a remark for all other text that looks like a MAC address."""
    starts = [token.start for token in tokens]
    line, counted = 1, 0
    for start, mac in macs_in(text):
        line, counted = line + text.count("\n", counted, start), start
        try:
            usual = normalise_mac(mac)
        except AddressError:
            # Not the address of a network card, for example a broadcast address.
            continue
        if usual not in taken:
            where = _WHERE[tokens[bisect_right(starts, start) - 1].kind]
            yield Problem(line, f"{mac} was not imported: {where}.")
