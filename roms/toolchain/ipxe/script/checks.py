"""Scripts that somebody wrote: whether iPXE runs them, and what their writer should know first. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from roms.toolchain.ipxe import options as ipxe_options
from roms.toolchain.ipxe.option_headers import Value
from roms.toolchain.ipxe.script import flow as script_flow
from roms.toolchain.ipxe.script.parser import COMMANDS, Command, Line, parse
from roms.toolchain.ipxe.script.spec import PROTOCOL_OPTIONS, ScriptError

MAX_TEXT: Final = 16 * 1024
PLATFORMS: Final = ("pcbios", "efi")
#: Seconds: one wait that is longer than this, and all waits of one way together, are worth a word.
LONG_WAIT: Final = 300
LONG_WAY: Final = 2 * 3600
MOST_WARNINGS: Final = 40

_PROTOCOLS = {**PROTOCOL_OPTIONS, "nfs": "DOWNLOAD_PROTO_NFS"}
#: A label that is a variable's value, and nothing else.
_COMPUTED = re.compile(r"\$\{([^${}]+)\}")
_FETCHING = frozenset(
    {"imgfetch", "module", "initrd", "imgselect", "imgload", "kernel", "imgexec", "chain", "boot", "imgextract"}
)
#: What waits until a key is pressed, or a link is there, unless it has a time-out.
_PATIENT = frozenset({"choose", "prompt", "read", "iflinkwait", "sync"})
_FOR_A_PERSON = frozenset({"shell", "config", "login", "present"})


class Warned(NamedTuple):
    """A warning, and the line that it is about."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.text}"


def check_text(
    text: str | bytes, options: Collection[str] | None = None, platforms: Collection[str] = PLATFORMS
) -> list[str]:
    """What whoever wrote a script should know before it is built into a ROM; nothing where it looks fine.

    `options` are the build options that are on; `platforms` what it is built for. Raises ScriptError for what iPXE
    would not run at all.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if error := _unusable(text):
        raise ScriptError({"text": error})
    script = text.decode()
    warnings = [*holding(script, frozenset(platforms)), *_unknown(parse(script), options)]
    said = [str(warning) for warning in sorted(set(warnings))]
    if len(said) > MOST_WARNINGS:
        said[MOST_WARNINGS:] = [f"… and {len(said) - MOST_WARNINGS} more."]
    if harmful := sorted(filter(ipxe_options.takes_over, options or ())):
        said.append(
            f"This build has {', '.join(harmful)}: an answer that is not a script, such as the page of a captive "
            "portal, can keep the machine from its disk. Switch it off, or take the profile “minimal”."
        )
    return said


@functools.lru_cache(maxsize=128)
def holding(script: str, platforms: frozenset[str]) -> tuple[Warned, ...]:
    """What in a script can keep a machine from its disk, or does not do what it looks like."""
    lines = parse(script)
    commands = [command for line in lines for command in line.commands]
    images = _images(commands)
    found = [Warned(command.line, text) for command in commands for text in _of_command(command, images)]
    found += _bad_jumps(lines)
    for platform in sorted(platforms):
        found += _on_the_way(script_flow.explore(lines, platform), platform)
    return tuple(dict.fromkeys(found))


# What a command says of itself


def _of_command(command: Command, images: Collection[str]) -> Iterator[str]:
    name, options = command.name, command.options
    timeout = options.get("timeout")
    if name in _PATIENT and timeout in {None, "0"}:
        yield f"“{name}” has no --timeout, and waits for ever."
    elif name == "ping" and options.get("count", "0") == "0":
        yield "“ping” has no --count, and goes on for ever."
    elif name in _FETCHING and timeout in {None, "0"} and command.arguments and command.arguments[0] not in images:
        yield (
            f"“{name}” has no --timeout: a server that falls silent holds the machine for minutes, with an iPXE older "
            f"than v2.0.0 for ever. Write “{name} --timeout 8000 …”, in milliseconds."
        )
    if name in _FETCHING | _PATIENT and any(word.startswith("--timeout") for word in command.arguments):
        yield "“--timeout” counts only before the first word that is not an option. Behind that word it is a parameter."
    if name == "autoboot":
        yield "“autoboot” loads what DHCP names, without a time-out."
    if (seconds := script_flow.seconds_of(command)) > LONG_WAIT:
        yield f"“{name}” waits up to {seconds:,.0f} seconds."


def _images(commands: list[Command]) -> set[str]:
    """The names under which what was fetched is known afterwards: a command that names one fetches nothing."""
    fetching = [command for command in commands if command.name in _FETCHING]
    named = {command.options.get("name", "") for command in fetching}
    files = {command.arguments[0] for command in fetching if command.arguments and "/" in command.arguments[0]}
    return named | {file.rpartition("/")[2] for file in files}


# Where it leads


def _bad_jumps(lines: list[Line]) -> Iterator[Warned]:
    labels, values = script_flow.labels_of(lines).keys(), script_flow.values_of(lines)
    for command in (command for line in lines for command in line.commands if command.name == "goto"):
        label = command.arguments[0] if command.arguments else ""
        if "${" not in label:
            if label not in labels:
                yield Warned(command.line, f"“goto {label}” leads nowhere: there is no label “:{label}”.")
            continue
        known = _COMPUTED.fullmatch(label)
        leads = values.get(script_flow.plain(known[1]), set()) if known else set()
        if not leads or any("${" in lead for lead in leads):
            yield Warned(command.line, f"Where “goto {label}” leads cannot be checked: see that each label is there.")
        for missing in sorted(lead for lead in leads - labels if "${" not in lead):
            yield Warned(command.line, f"“goto {label}” can lead nowhere: there is no label “:{missing}”.")


def _on_the_way(flow: script_flow.Flow, platform: str) -> Iterator[Warned]:
    """What a walk through the script came to, with nobody at the machine."""
    for command in flow.endless:
        yield Warned(
            command.line,
            f"“{command}” can go round for ever: a dead network or site then keeps the machine from its disk. Count "
            "the tries with “inc”, and leave with “iseq”.",
        )
    for command in flow.reached:
        if command.name in _FOR_A_PERSON:
            yield Warned(command.line, f"“{command.name}” waits for a person at the machine, and there is none.")
        elif command.name == "reboot":
            yield Warned(command.line, "“reboot” starts the machine anew, and never its disk while the fault lasts.")
        elif command.name == "poweroff":
            yield Warned(command.line, "“poweroff” leaves the machine off: somebody must go there.")
    for ending in flow.endings:
        if platform == "efi" and ending.status == 0:
            yield Warned(
                ending.command.line,
                "The script can end here with status 0, which UEFI takes for success: it need not go on to the disk. "
                "End it with “exit 1”.",
            )
    if flow.is_cut:
        yield Warned(1, "It has too many ways to tell whether all of them come to an end.")
    elif flow.seconds > LONG_WAY and not flow.endless:
        yield Warned(1, f"All its waits together can take {flow.seconds / 3600:.0f} hours.")


# What this build runs


def _unknown(lines: list[Line], options: Collection[str] | None) -> Iterator[Warned]:
    """Commands and protocols that iPXE lacks, or this build of it."""
    for command in (command for line in lines for command in line.commands):
        if (brought_by := _brought_by(command.name)) is None:
            yield Warned(command.line, f"iPXE knows no command “{command.name}”.")
        needed = {command.name: brought_by or (), **_protocols(command)}
        for word, any_of in needed.items():
            if any_of and options is not None and not set(any_of).intersection(options):
                yield Warned(command.line, f"“{word}” needs {' or '.join(any_of)}, which this build leaves out.")


def _brought_by(name: str) -> tuple[str, ...] | None:
    """The build options of which one brings a command; None for one that iPXE lacks."""
    # What a setting expands to cannot be known here.
    return COMMANDS.get(name) if name and "${" not in name else ()


def _protocols(command: Command) -> dict[str, tuple[str, ...]]:
    found = re.findall(r"\b([a-z]+)://", str(command))
    return {f"{scheme}://": (_PROTOCOLS[scheme],) for scheme in found if scheme in _PROTOCOLS}


def likely_options(profile: str, singles: Iterable[str]) -> set[str]:
    """The options that are on, as far as the profile says: a tree's own defaults are not known here."""
    brought_by = {option for options in COMMANDS.values() for option in options}
    everywhere = brought_by.union(ipxe_options.REQUIRED, *ipxe_options.PROFILES.values())
    changes: dict[str, Value] = {"PXE_CMD": False, **ipxe_options.PROFILES.get(profile, {})}
    for single in singles:
        try:
            name, value = ipxe_options.picked(single)
        except ipxe_options.OptionError:
            continue
        changes[name] = not ipxe_options.is_off(value)
    return {name for name in everywhere.union(changes) if changes.get(name, True)}


def takeover_options(profile: str, singles: Iterable[str]) -> list[str]:
    """Those of the likely options with which an answer that is not a script can keep a machine from its disk."""
    return sorted(filter(ipxe_options.takes_over, likely_options(profile, singles)))


def _unusable(text: bytes) -> str:
    """Why iPXE would not run this; empty where it would."""
    if not re.match(rb"#!(?:ipxe|gpxe)\s", text):
        return "It must begin with “#!ipxe” and a line's end, with nothing before it."
    if len(text) > MAX_TEXT:
        return f"It has {len(text):,} bytes; there is room for {MAX_TEXT:,}."
    if b"\0" in text:
        return "It holds a zero byte."
    try:
        text.decode()
    except UnicodeDecodeError:
        return "It is not UTF-8."
    return ""
