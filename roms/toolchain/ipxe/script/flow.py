"""Finds all paths through a script, if nobody is at the machine and the network may fail.

A step is a line together with the values of the variables that the script sets and tests. A loop that counts its tries
therefore ends. A path that reaches the same step twice is an endless loop. An unknown condition goes both ways.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from roms.toolchain.ipxe.script.parser import Command, Line, plain

#: The largest number of steps, and of commands in them. Larger scripts are not analysed completely.
LIMIT: Final = 4_000
_MOST_COMMANDS: Final = 25_000
#: The largest number of variables, in alphabetical order. The values of others count as unknown.
_MOST_VARIABLES: Final = 32
#: The assumed number of cards: a loop over `net0`, `net1`, … ends there.
_CARDS: Final = 2
#: The longest time for `dhcp` without an answer, in seconds.
_DHCP: Final = 16
_SETTING = re.compile(r"\$\{([^${}]*)\}")
_CARD = re.compile(r"net(\d+)/\w+")
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|\d+)", re.IGNORECASE)
#: These commands always succeed.
_SUCCEEDING: Final = frozenset(
    {
        *("", "echo", "set", "inc", "item", "menu", "form", "params", "param", "sleep", "imgfree", "imgstat", "ifstat"),
        *("route", "console", "colour", "cpair", "show"),
    }
)
#: After these commands the script ends, unless they fail.
_LEAVING: Final = frozenset({"reboot", "poweroff", "sanboot", "shell", "config", "login", "present"})
#: These commands run another image, which decides the exit status.
_RUNNING: Final = frozenset({"chain", "boot", "imgexec", "autoboot", "startpxe"})
_OK, _FAILED = True, False

Values = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _To:
    """An outcome of a command besides success and failure: a jump to this line."""

    index: int


Outcomes = list[tuple["bool | _To", Values]]


@dataclass(frozen=True)
class Ending:
    """An end of the script, with its last command and the exit status; None if the status is unknown."""

    command: Command
    status: int | None


@dataclass(frozen=True)
class Jump:
    """A transition to a line, with the values there. `command` is the `goto` if the jump goes back."""

    to: int
    values: Values
    seconds: float
    command: Command | None = None


@dataclass
class Flow:
    """The results for all paths through a script."""

    endings: set[Ending] = field(default_factory=set)
    #: The `goto` of each endless loop.
    endless: set[Command] = field(default_factory=set)
    #: All commands that can run.
    reached: set[Command] = field(default_factory=set)
    #: The longest total wait on one path, as far as the waits have limits.
    seconds: float = 0
    #: Whether the script has too many steps for a complete analysis.
    is_cut: bool = False


def explore(lines: list[Line], platform: str) -> Flow:
    """Find all paths through the script on a platform: efi or pcbios."""
    walk = _Walk(lines, {"platform": platform})
    walk.run()
    return walk.flow


def seconds_of(command: Command) -> float:
    """The longest wait of a command in seconds, if it has a limit; 0 otherwise."""
    if command.name == "sleep":
        number = _number(command.arguments[0]) if command.arguments else None
        return float(number or 0)
    if (timeout := _number(command.options.get("timeout", ""))) is not None:
        return timeout / 1000
    return _DHCP if command.name in {"dhcp", "ifconf"} else 0


def labels_of(lines: list[Line]) -> dict[str, int]:
    """The index of the first line with each label."""
    found: dict[str, int] = {}
    for index, line in enumerate(lines):
        if line.label is not None:
            found.setdefault(line.label, index)
    return found


def choices_of(lines: list[Line]) -> list[str]:
    """The names of all menu items."""
    items = (command for line in lines for command in line.commands if command.name == "item")
    return [item.arguments[0] for item in items if item.arguments and not {"gap", "g"} & item.options.keys()]


def values_of(lines: list[Line]) -> dict[str, set[str]]:
    """The possible values of each variable: those that the script sets, and menu items."""
    found: dict[str, set[str]] = {}
    choices = choices_of(lines)
    for command in (command for line in lines for command in line.commands if command.arguments):
        values = found.setdefault(plain(command.arguments[0]), set())
        if command.name == "choose":
            values.update(choices, filter(None, [command.options.get("default", "")]))
        elif command.name == "set":
            values.add(" ".join(command.arguments[1:]))
    return found


class _Walk:
    def __init__(self, lines: list[Line], given: Mapping[str, str]) -> None:
        self.lines = lines
        self.flow = Flow()
        self._labels = labels_of(lines)
        self._choices = choices_of(lines)
        self._looked_at = _looked_at(lines)
        self._budget = _MOST_COMMANDS
        self._start: Values = tuple(sorted((name, value) for name, value in given.items()))

    def run(self) -> None:
        """Search depth first, without recursion. A step that is already on the current path closes a loop."""
        longest: dict[tuple[int, Values], float] = {}
        stack = [_Step(Jump(0, self._start, 0), self._ways(0, self._start))]
        on_path = {(0, self._start): 0}
        while stack:
            step = stack[-1]
            way = next(step.ways, None)
            if way is None:
                stack.pop()
                del on_path[step.key]
                longest[step.key] = step.seconds
                if stack:
                    stack[-1].add(step.jump, step.seconds)
                continue
            key = (way.to, way.values)
            if key in on_path:
                self._loop([*(each.jump for each in stack[on_path[key] + 1 :]), way])
            elif key in longest:
                step.add(way, longest[key])
            elif len(longest) + len(stack) >= LIMIT or self._budget < 0:
                self.flow.is_cut = True
                return
            else:
                on_path[key] = len(stack)
                stack.append(_Step(way, self._ways(*key)))
        self.flow.seconds = longest[(0, self._start)]
        self.flow.is_cut = self._budget < 0

    def _loop(self, jumps: list[Jump]) -> None:
        """Store the last `goto` of the loop that jumps back."""
        self.flow.endless.add([jump.command for jump in jumps if jump.command][-1])

    def _ways(self, index: int, values: Values) -> Iterator[Jump]:
        """All transitions from a line, each with its wait."""
        if index >= len(self.lines):
            return
        # Open states of this line: the index of the next command, the status before it, the values, the seconds.
        todo: list[tuple[int, bool, Values, float]] = [(0, _OK, values, 0)]
        seen = set()
        while todo and self._budget >= 0:
            at, status, now, waited = state = todo.pop()
            if state in seen:
                continue
            seen.add(state)
            if at == len(self.lines[index].commands):
                yield from self._after(index, status, now, waited)
            else:
                command = self.lines[index].commands[at]
                self._budget -= 1
                if not _is_run(command, status):
                    todo.append((at + 1, status, now, waited))
                    continue
                self.flow.reached.add(command)
                waited += seconds_of(command)
                for outcome, then in self._outcomes(command, now):
                    if isinstance(outcome, _To):
                        yield Jump(outcome.index, then, waited, command if outcome.index <= index else None)
                    else:
                        todo.append((at + 1, outcome, then, waited))

    def _after(self, index: int, status: bool, values: Values, waited: float) -> Iterator[Jump]:
        """The transition after the last command of a line: to the next line if it succeeded."""
        commands = self.lines[index].commands
        if not status:
            self.flow.endings.add(Ending(commands[-1], None))
        elif index + 1 < len(self.lines):
            yield Jump(index + 1, values, waited)
        elif commands:
            runs = any(command.name in _RUNNING for command in commands)
            self.flow.endings.add(Ending(commands[-1], None if runs else 0))

    def _outcomes(self, command: Command, values: Values) -> Outcomes:
        """The possible outcomes of a command, each with the values after it."""
        if command.name in _SPECIAL:
            special: Callable[[Command, Values], Outcomes] = getattr(self, f"_{command.name}")
            return special(command, values)
        if command.name in _LEAVING:
            return [(_FAILED, values)]
        return [(_OK, values)] if command.name in _SUCCEEDING else [(_OK, values), (_FAILED, values)]

    def _exit(self, command: Command, values: Values) -> Outcomes:
        said = self._known(command.arguments[0], values) if command.arguments else "0"
        self.flow.endings.add(Ending(command, None if said is None else _number(said)))
        return []

    def _goto(self, command: Command, values: Values) -> Outcomes:
        label = self._known(command.arguments[0], values) if command.arguments else ""
        if label is None:
            # The label is unknown: usually a person chooses it in a menu.
            return [(_FAILED, values)]
        return [(_To(self._labels[label]), values)] if label in self._labels else [(_FAILED, values)]

    def _choose(self, command: Command, values: Values) -> Outcomes:
        """With a timeout, the default or the first item is chosen."""
        name = command.variable
        default = command.options.get("default", "")
        chosen = [default] if default and "${" not in default else self._choices[:1] if not default else self._choices
        if "timeout" not in command.options:
            chosen = self._choices
        return [(_OK, self._with(values, name, choice)) for choice in chosen] or [(_FAILED, values)]

    def _prompt(self, command: Command, values: Values) -> Outcomes:
        """With a timeout, nobody presses the key."""
        return [(_FAILED, values)] if "timeout" in command.options else [(_OK, values), (_FAILED, values)]

    def _set(self, command: Command, values: Values) -> Outcomes:
        return [(_OK, self._with(values, command.variable, self._known(" ".join(command.arguments[1:]), values)))]

    def _clear(self, command: Command, values: Values) -> Outcomes:
        cleared = self._with(values, command.variable, None)
        return [(_OK, cleared), (_FAILED, cleared)]

    def _inc(self, command: Command, values: Values) -> Outcomes:
        name = command.variable
        before = _number(dict(values).get(name, "0"))
        step = _number(command.arguments[1]) if len(command.arguments) > 1 else 1
        after = None if before is None or step is None else str(before + step)
        return [(_OK, self._with(values, name, after))]

    def _isset(self, command: Command, values: Values) -> Outcomes:
        value = self._known(command.arguments[0], values) if command.arguments else ""
        return [(_OK, values), (_FAILED, values)] if value is None else [(bool(value), values)]

    def _iseq(self, command: Command, values: Values) -> Outcomes:
        known = [self._known(word, values) for word in command.arguments[:2]]
        if len(known) < 2 or None in known:
            return [(_OK, values), (_FAILED, values)]
        return [(known[0] == known[1], values)]

    def _with(self, values: Values, name: str, value: str | None) -> Values:
        """The values after a change. Only variables that matter are stored."""
        if name not in self._looked_at:
            return values
        changed = {**dict(values), name: value}
        return tuple(sorted((name, value) for name, value in changed.items() if value is not None))

    def _known(self, text: str, values: Values) -> str | None:
        """The text with the values of its settings; None if one is unknown."""
        known = dict(values)
        for _ in range(8):
            if not (found := _SETTING.search(text)):
                return text
            name = plain(found[1])
            card = _CARD.fullmatch(name)
            value = known.get(name, "" if card and int(card[1]) >= _CARDS else None)
            if value is None:
                return None
            text = text[: found.start()] + value + text[found.end() :]
        return None


#: The commands with their own methods.
_SPECIAL: Final = frozenset({"exit", "goto", "choose", "prompt", "set", "clear", "inc", "isset", "iseq"})


class _Step:
    """A step on the current path, and the longest wait after it so far."""

    def __init__(self, jump: Jump, ways: Iterator[Jump]) -> None:
        self.jump, self.ways = jump, ways
        self.key = (jump.to, jump.values)
        self.seconds = 0.0

    def add(self, way: Jump, seconds: float) -> None:
        self.seconds = max(self.seconds, way.seconds + seconds)


def _is_run(command: Command, status: bool) -> bool:
    return {"": True, ";": True, "&&": status, "||": not status}[command.after]


def _looked_at(lines: list[Line]) -> set[str]:
    """The variables that matter: those in conditions, and those that such variables depend on."""
    deciding: set[str] = set()
    sources: dict[str, set[str]] = {}
    for command in (command for line in lines for command in line.commands if command.arguments):
        if command.name in {"iseq", "isset", "goto", "exit"}:
            deciding |= settings_in(str(command))
        elif command.name in {"set", "inc"}:
            sources.setdefault(plain(command.arguments[0]), set()).update(settings_in(str(command)))
    found, todo = {"platform"}, sorted(deciding)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += sources.get(name, ())
    changed = {"platform", *sources, *values_of(lines)}
    return set(sorted(found & changed)[:_MOST_VARIABLES])


def settings_in(text: str) -> set[str]:
    """The names of the settings in a text, without their types."""
    return {plain(name) for name in re.findall(r"\$\{([^${}:]+)", text)}


def _number(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 16 if "x" in text.lower() else 10)
