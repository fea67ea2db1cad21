"""The build options that a tree's headers define.

Conditions such as `#if defined ( PLATFORM_pcbios )` switch options on or off. This module therefore reads the headers
once per platform, as a preprocessor does. It needs no compiler.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Value = bool | int | str

#: The platforms, each with the macro of its processor.
PLATFORMS = {"pcbios": "__i386__", "efi": "__x86_64__"}

_COMMENTED = r"(?P<off>//)?\s*"
_DEFINE = re.compile(rf"\s*{_COMMENTED}#\s*define\s+(?P<name>[A-Za-z_]\w*)(?P<args>\()?(?P<body>.*)", re.DOTALL)
_UNDEF = re.compile(rf"\s*{_COMMENTED}#\s*undef\s+(?P<name>[A-Za-z_]\w*)")
_CONDITION = re.compile(r"\s*#\s*(?P<word>if|ifdef|ifndef|elif|else|endif)\b(?P<rest>.*)")
_BLOCK = re.compile(r"/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(r"\s*(defined|&&|\|\||[()!]|\w+)")


class Kind(enum.StrEnum):
    """The type of an option's value."""

    FLAG = "flag"
    INTEGER = "integer"
    STRING = "string"
    WORD = "word"


@dataclass(frozen=True)
class Option:
    """An option of a tree."""

    name: str
    header: str  # general.h
    kind: Kind
    description: str
    section: str
    #: The text of the macro per platform: "" for a flag that is on, None for an option that is off. A platform without
    #: the option is missing.
    defaults: Mapping[str, str | None]
    choices: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        return tuple(self.defaults)

    def default(self, platform: str) -> Value | None:
        """The default value; None if the platform does not have the option, or if the value is an expression."""
        if platform not in self.defaults:
            return None
        body = self.defaults[platform]
        if self.kind is Kind.FLAG:
            return body is not None
        if body is None:
            return None
        if self.kind is Kind.INTEGER:
            return int(body, 0) if re.fullmatch(r"0x[0-9a-fA-F]+|[1-9]\d*|0", body) else None
        return body[1:-1] if self.kind is Kind.STRING else body


def read_options(tree: Path) -> dict[str, Option]:
    """All options of the tree in this folder, for all platforms."""
    config = tree / "src" / "config"
    texts = {path.name: path.read_text(errors="replace") for path in sorted(config.glob("*.h"))}
    defaults = {}
    for platform, processor in PLATFORMS.items():
        path = config / "defaults" / f"{platform}.h"
        text = path.read_text(errors="replace") if path.exists() else ""
        known: dict[str, str | None] = {f"PLATFORM_{platform}": "", processor: ""}
        defaults[platform] = _Reading(text, known).macros
    options: dict[str, Option] = {}
    for header, text in texts.items():
        # Only headers that include their local header have options that can be changed.
        if f"config/local/{header}" in text:
            readings = {platform: _Reading(text, macros) for platform, macros in defaults.items()}
            options |= {option.name: option for option in _options(header, readings, config.parent)}
    return options


def _options(header: str, readings: Mapping[str, _Reading], src: Path) -> Iterator[Option]:
    for name in dict.fromkeys(name for reading in readings.values() for name in reading.seen):
        knowing = {platform: reading for platform, reading in readings.items() if name in reading.seen}
        mentions = [mention for reading in knowing.values() for mention in reading.seen[name]]
        bodies = [mention.body for mention in mentions]
        choices = tuple(sorted(path.stem.removeprefix("keymap_") for path in (src / "hci" / "keymap").glob("keymap_*")))
        yield Option(
            name=name,
            header=header,
            kind=_kind(bodies),
            description=next((mention.description for mention in mentions if mention.description), ""),
            section=next((mention.section for mention in mentions if mention.section), ""),
            defaults={platform: reading.macros.get(name) for platform, reading in knowing.items()},
            choices=choices if name == "KEYBOARD_MAP" else (),
        )


def _kind(bodies: Iterable[str]) -> Kind:
    body = next((body for body in bodies if body), "")
    if not body:
        return Kind.FLAG
    if body.startswith('"'):
        return Kind.STRING
    if re.fullmatch(r"[A-Za-z_]\w*", body):
        return Kind.WORD
    return Kind.INTEGER


@dataclass(frozen=True)
class _Mention:
    """A line that defines an option, also in a comment."""

    body: str
    description: str
    section: str


@dataclass
class _Reading:
    """A header, read for one platform."""

    text: str
    initial: Mapping[str, str | None]
    macros: dict[str, str | None] = field(init=False)
    #: The options in the parts for this platform, on or off.
    seen: dict[str, list[_Mention]] = field(init=False, default_factory=dict)
    _active: list[bool] = field(init=False, default_factory=list)
    _taken: list[bool] = field(init=False, default_factory=list)
    _comment: str = field(init=False, default="")
    _section: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.macros = dict(self.initial)
        for line in _logical_lines(self.text):
            if condition := _CONDITION.match(line):
                self._condition(condition["word"], _without_comments(condition["rest"]))
            elif line.lstrip().startswith("/*"):
                self._remember(line)
            elif all(self._active):
                self._line(line)

    def _remember(self, comment: str) -> None:
        if comment.lstrip().startswith("/*****"):
            self._section = self._comment = _prose(comment)
        else:
            self._comment = "" if "@file" in comment else _prose(comment)

    def _condition(self, word: str, rest: str) -> None:
        if word in {"if", "ifdef", "ifndef"}:
            holds = self._holds(rest) if word == "if" else ((rest.strip() in self._defined()) == (word == "ifdef"))
            self._active.append(holds)
            self._taken.append(holds)
        elif not self._active:
            return
        elif word == "endif":
            self._active.pop()
            self._taken.pop()
        else:
            holds = not self._taken[-1] and (word == "else" or self._holds(rest))
            self._active[-1] = holds
            self._taken[-1] = self._taken[-1] or holds

    def _holds(self, expression: str) -> bool:
        return _Expression(_TOKEN.findall(expression), self._defined()).value()

    def _defined(self) -> set[str]:
        return {name for name, body in self.macros.items() if body is not None}

    def _line(self, line: str) -> None:
        if found := _DEFINE.match(line):
            name = found["name"]
            if found["args"] or re.fullmatch(r"CONFIG_\w+_H", name):
                return
            self._mention(name, _without_comments(found["body"]).strip(), found["body"])
            if not found["off"]:
                self.macros[name] = _without_comments(found["body"]).strip()
        elif found := _UNDEF.match(line):
            self._mention(found["name"], "", line)
            if not found["off"]:
                self.macros[found["name"]] = None

    def _mention(self, name: str, body: str, rest: str) -> None:
        own = _BLOCK.search(rest)
        description = _prose(own[0]) if own else self._comment
        self.seen.setdefault(name, []).append(_Mention(body, description, self._section))


@dataclass
class _Expression:
    """The condition of an #if, with the syntax that these headers use: defined, !, &&, || and brackets."""

    tokens: list[str]
    defined: set[str]
    _at: int = 0

    def value(self) -> bool:
        return self._either()

    def _either(self) -> bool:
        holds = self._both()
        while self._take("||"):
            holds = self._both() or holds
        return holds

    def _both(self) -> bool:
        holds = self._single()
        while self._take("&&"):
            holds = self._single() and holds
        return holds

    def _single(self) -> bool:
        if self._take("!"):
            return not self._single()
        if self._take("("):
            holds = self._either()
            self._take(")")
            return holds
        if self._take("defined"):
            bracket = self._take("(")
            name = self._next()
            if bracket:
                self._take(")")
            return name in self.defined
        return self._next().isdigit() and self.tokens[self._at - 1] != "0"

    def _next(self) -> str:
        self._at += 1
        return self.tokens[self._at - 1] if self._at <= len(self.tokens) else "0"

    def _take(self, token: str) -> bool:
        if self._at < len(self.tokens) and self.tokens[self._at] == token:
            self._at += 1
            return True
        return False


def _logical_lines(text: str) -> Iterator[str]:
    """The lines of a header, with continuation lines and comments of several lines joined."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        whole = line
        while _opens_comment(whole):
            following = next(lines, None)
            if following is None:
                return
            whole += "\n" + following
        yield whole


def _opens_comment(line: str) -> bool:
    return "/*" in _BLOCK.sub("", line)


def _without_comments(text: str) -> str:
    text = _BLOCK.sub(" ", text)
    # Keep the “//” of a URL in a string.
    return re.sub(r'^((?:[^"/]|"[^"]*"|/(?!/))*)//.*', r"\1", text)


def _prose(comment: str) -> str:
    """The first paragraph of a comment, as one line."""
    lines = [re.sub(r"^\s*(/\*+|\*/|\*)|\**/\s*$", "", line).strip(" *\t") for line in comment.splitlines()]
    text = "\n".join(lines).strip().split("\n\n")[0]
    return " ".join(text.split())[:300]
