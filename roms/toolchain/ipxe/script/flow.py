"""Where a script can lead: every way through it is walked, with nobody at the machine and a network that may fail.

A step is a line together with the values of those variables that the script itself sets and looks at, so what counts
its tries ends, and what comes to the same step again goes round for ever. What nobody can know goes both ways.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from roms.toolchain.ipxe.script.parser import Command, Line

#: So many steps are walked, and commands looked at on the way; a script that has more counts to thousands.
LIMIT: Final = 4_000
_MOST_COMMANDS: Final = 25_000
#: So many variables are followed, in the order of the alphabet; what others hold counts as not known.
_MOST_VARIABLES: Final = 32
#: More cards are not expected in a machine: a loop over `net0`, `net1`, … ends there.
_CARDS: Final = 2
#: What `dhcp` takes at most where nobody answers, in seconds.
_DHCP: Final = 16
_SETTING = re.compile(r"\$\{([^${}]*)\}")
_CARD = re.compile(r"net(\d+)/\w+")
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|\d+)", re.IGNORECASE)
#: They do what they say, and come back with success.
_SURE: Final = frozenset(
    {
        *("", "echo", "set", "inc", "item", "menu", "form", "params", "param", "sleep", "imgfree", "imgstat", "ifstat"),
        *("route", "console", "colour", "cpair", "show"),
    }
)
#: After them nothing of the script runs, unless they fail.
_LEAVING: Final = frozenset({"reboot", "poweroff", "sanboot", "shell", "config", "login", "present"})
#: What they have run decides how the script ends.
_RUNNING: Final = frozenset({"chain", "boot", "imgexec", "autoboot", "startpxe"})
_OK, _FAILED = True, False

Values = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _To:
    """A command's outcome besides success and failure: the script goes on at the line of this index."""

    index: int


Outcomes = list[tuple["bool | _To", Values]]


@dataclass(frozen=True)
class Ending:
    """The script is over: after `command`, with this exit status, None where that cannot be known."""

    command: Command
    status: int | None


@dataclass(frozen=True)
class Jump:
    """A way on: to a line by its index, with the values there. `command` is the `goto` that leads back, if one does."""

    to: int
    values: Values
    seconds: float
    command: Command | None = None


@dataclass
class Flow:
    """What was found on the ways through a script."""

    endings: set[Ending] = field(default_factory=set)
    #: The `goto` of each loop that nothing ends.
    endless: set[Command] = field(default_factory=set)
    #: All commands that are reached with nobody at the machine.
    reached: set[Command] = field(default_factory=set)
    #: The longest that the waits of one way come to, as far as they are bounded.
    seconds: float = 0
    #: Whether there were too many steps to walk them all.
    is_cut: bool = False


def explore(lines: list[Line], platform: str) -> Flow:
    """Walk all ways through the script on `platform`, iPXE's word for it: efi or pcbios."""
    walk = _Walk(lines, {"platform": platform})
    walk.run()
    return walk.flow


def seconds_of(command: Command) -> float:
    """How long a command may wait, as far as it says so."""
    if command.name == "sleep":
        number = _number(command.arguments[0]) if command.arguments else None
        return float(number or 0)
    if (timeout := _number(command.options.get("timeout", ""))) is not None:
        return timeout / 1000
    return _DHCP if command.name in {"dhcp", "ifconf"} else 0


def labels_of(lines: list[Line]) -> dict[str, int]:
    """Each label, and the index of the first line that has it."""
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
    """What a script puts into each variable: what it sets, and the menu items from which somebody chooses."""
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
        """Depth first, without recursion. A step that is met again on the way to itself closes a loop."""
        longest: dict[tuple[int, Values], float] = {}
        stack = [_Step(Jump(0, self._start, 0), self._ways(0, self._start))]
        on_the_way = {(0, self._start): 0}
        while stack:
            step = stack[-1]
            way = next(step.ways, None)
            if way is None:
                stack.pop()
                del on_the_way[step.key]
                longest[step.key] = step.seconds
                if stack:
                    stack[-1].add(step.jump, step.seconds)
                continue
            key = (way.to, way.values)
            if key in on_the_way:
                self._loop([*(each.jump for each in stack[on_the_way[key] + 1 :]), way])
            elif key in longest:
                step.add(way, longest[key])
            elif len(longest) + len(stack) >= LIMIT or self._budget < 0:
                self.flow.is_cut = True
                return
            else:
                on_the_way[key] = len(stack)
                stack.append(_Step(way, self._ways(*key)))
        self.flow.seconds = longest[(0, self._start)]
        self.flow.is_cut = self._budget < 0

    def _loop(self, jumps: list[Jump]) -> None:
        """Name the `goto` that leads back last."""
        self.flow.endless.add([jump.command for jump in jumps if jump.command][-1])

    def _ways(self, index: int, values: Values) -> Iterator[Jump]:
        """All ways on from a line, each with what it waits."""
        if index >= len(self.lines):
            return
        # What was not walked of this line: the number of its next command, the status before, the values, the seconds.
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
        """What comes behind a line: the next one, if all went well."""
        commands = self.lines[index].commands
        if not status:
            self.flow.endings.add(Ending(commands[-1], None))
        elif index + 1 < len(self.lines):
            yield Jump(index + 1, values, waited)
        elif commands:
            runs = any(command.name in _RUNNING for command in commands)
            self.flow.endings.add(Ending(commands[-1], None if runs else 0))

    def _outcomes(self, command: Command, values: Values) -> Outcomes:
        """What a command may come to, and the values then."""
        if command.name in _SPECIAL:
            special: Callable[[Command, Values], Outcomes] = getattr(self, f"_{command.name}")
            return special(command, values)
        if command.name in _LEAVING:
            return [(_FAILED, values)]
        return [(_OK, values)] if command.name in _SURE else [(_OK, values), (_FAILED, values)]

    def _exit(self, command: Command, values: Values) -> Outcomes:
        said = self._known(command.arguments[0], values) if command.arguments else "0"
        self.flow.endings.add(Ending(command, None if said is None else _number(said)))
        return []

    def _goto(self, command: Command, values: Values) -> Outcomes:
        label = self._known(command.arguments[0], values) if command.arguments else ""
        if label is None:
            # It may be any label, or none; who writes so has had somebody choose.
            return [(_FAILED, values)]
        return [(_To(self._labels[label]), values)] if label in self._labels else [(_FAILED, values)]

    def _choose(self, command: Command, values: Values) -> Outcomes:
        """With a time-out, and nobody there, the default is chosen, or the first item."""
        name = plain(command.arguments[0]) if command.arguments else ""
        default = command.options.get("default", "")
        chosen = [default] if default and "${" not in default else self._choices[:1] if not default else self._choices
        if "timeout" not in command.options:
            chosen = self._choices
        return [(_OK, self._with(values, name, choice)) for choice in chosen] or [(_FAILED, values)]

    def _prompt(self, command: Command, values: Values) -> Outcomes:
        """With a time-out, and nobody there, no key is pressed."""
        return [(_FAILED, values)] if "timeout" in command.options else [(_OK, values), (_FAILED, values)]

    def _set(self, command: Command, values: Values) -> Outcomes:
        arguments = command.arguments
        name, value = (plain(arguments[0]), " ".join(arguments[1:])) if arguments else ("", "")
        return [(_OK, self._with(values, name, self._known(value, values)))]

    def _clear(self, command: Command, values: Values) -> Outcomes:
        cleared = self._with(values, plain(command.arguments[0]) if command.arguments else "", None)
        return [(_OK, cleared), (_FAILED, cleared)]

    def _inc(self, command: Command, values: Values) -> Outcomes:
        name = plain(command.arguments[0]) if command.arguments else ""
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
        """The values with another one; only what the script looks at is kept."""
        if name not in self._looked_at:
            return values
        changed = {**dict(values), name: value}
        return tuple(sorted((name, value) for name, value in changed.items() if value is not None))

    def _known(self, text: str, values: Values) -> str | None:
        """A text with its settings filled in; None where one is not known."""
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


#: The commands that have a method of their own.
_SPECIAL: Final = frozenset({"exit", "goto", "choose", "prompt", "set", "clear", "inc", "isset", "iseq"})


class _Step:
    """A step on the way that is being walked, and the longest wait from it on, as far as it is known."""

    def __init__(self, jump: Jump, ways: Iterator[Jump]) -> None:
        self.jump, self.ways = jump, ways
        self.key = (jump.to, jump.values)
        self.seconds = 0.0

    def add(self, way: Jump, seconds: float) -> None:
        self.seconds = max(self.seconds, way.seconds + seconds)


def _is_run(command: Command, status: bool) -> bool:
    return {"": True, ";": True, "&&": status, "||": not status}[command.after]


def _looked_at(lines: list[Line]) -> set[str]:
    """The variables whose values decide something, or go into one that does."""
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


def plain(setting: str) -> str:
    """A setting's name without its type."""
    return setting.partition(":")[0]


def _number(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 16 if "x" in text.lower() else 10)
