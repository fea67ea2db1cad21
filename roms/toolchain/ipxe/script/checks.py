"""Checks scripts that somebody wrote: errors, and warnings for the author. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from roms.toolchain.ipxe import options as ipxe_options
from roms.toolchain.ipxe.option_headers import Value
from roms.toolchain.ipxe.script import flow as script_flow
from roms.toolchain.ipxe.script.parser import COMMANDS, Command, Line, parse, plain
from roms.toolchain.ipxe.script.spec import PROTOCOL_OPTIONS, ScriptError

MAX_TEXT: Final = 16 * 1024
PLATFORMS: Final = ("pcbios", "efi")
#: Warn about a longer single wait, and about longer waits in total, in seconds.
LONG_WAIT: Final = 300
LONG_WAY: Final = 2 * 3600
MOST_WARNINGS: Final = 40

_PROTOCOLS = {**PROTOCOL_OPTIONS, "nfs": "DOWNLOAD_PROTO_NFS"}
#: A label that is only the value of a variable.
_COMPUTED = re.compile(r"\$\{([^${}]+)\}")
_FETCHING = frozenset(
    {"imgfetch", "module", "initrd", "imgselect", "imgload", "kernel", "imgexec", "chain", "boot", "imgextract"}
)
#: Without a timeout these commands wait for a key or a link for ever.
_WAITING = frozenset({"choose", "prompt", "read", "iflinkwait", "sync"})
_FOR_A_PERSON = frozenset({"shell", "config", "login", "present"})


class Warned(NamedTuple):
    """A warning about one line."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.text}"


def check_text(
    text: str | bytes, options: Collection[str] | None = None, platforms: Collection[str] = PLATFORMS
) -> list[str]:
    """Warnings for the author of a script. Raises ScriptError if iPXE cannot run the script.

    `options` are the build options that are on; `platforms` are the platforms of the build.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if error := _unusable(text):
        raise ScriptError({"text": error})
    script = text.decode()
    warnings = [*_script_warnings(script, frozenset(platforms)), *_option_warnings(parse(script), options)]
    said = [str(warning) for warning in sorted(set(warnings))]
    if len(said) > MOST_WARNINGS:
        said[MOST_WARNINGS:] = [f"… and {len(said) - MOST_WARNINGS} more."]
    if harmful := sorted(filter(ipxe_options.takes_over, options or ())):
        said.append(
            f"This build has {', '.join(harmful)}: an answer that is not a script, such as the page of a captive "
            "portal, can keep the machine from booting its disk. Switch it off, or use the profile “minimal”."
        )
    return said


@functools.lru_cache(maxsize=128)
def _script_warnings(script: str, platforms: frozenset[str]) -> tuple[Warned, ...]:
    """Warnings about commands that can keep a machine from booting its disk, or that do something unexpected."""
    lines = parse(script)
    commands = [command for line in lines for command in line.commands]
    images = _images(commands)
    found = [Warned(command.line, text) for command in commands for text in _command_warnings(command, images)]
    found += _jump_warnings(lines)
    for platform in sorted(platforms):
        found += _flow_warnings(script_flow.explore(lines, platform), platform)
    return tuple(dict.fromkeys(found))


# Single commands


def _command_warnings(command: Command, images: Collection[str]) -> Iterator[str]:
    name, options = command.name, command.options
    timeout = options.get("timeout")
    if name in _WAITING and timeout in {None, "0"}:
        yield f"“{name}” has no --timeout, so it can wait for ever."
    elif name == "ping" and options.get("count", "0") == "0":
        yield "“ping” has no --count, so it never ends."
    elif name in _FETCHING and timeout in {None, "0"} and command.arguments and command.arguments[0] not in images:
        yield (
            f"“{name}” has no --timeout: a server that stops answering blocks the machine for minutes, or for ever "
            f"with an iPXE before v2.0.0. Write “{name} --timeout 8000 …” (milliseconds)."
        )
    if name in _FETCHING | _WAITING and any(word.startswith("--timeout") for word in command.arguments):
        yield "“--timeout” must come before the first argument. After it, it has no effect."
    if name == "autoboot":
        yield "“autoboot” loads the file that DHCP names, without a timeout."
    if (seconds := script_flow.seconds_of(command)) > LONG_WAIT:
        yield f"“{name}” waits up to {seconds:,.0f} seconds."


def _images(commands: list[Command]) -> set[str]:
    """The names of the images that the script fetches. A command with such a name fetches nothing."""
    fetching = [command for command in commands if command.name in _FETCHING]
    named = {command.options.get("name", "") for command in fetching}
    files = {command.arguments[0] for command in fetching if command.arguments and "/" in command.arguments[0]}
    return named | {file.rpartition("/")[2] for file in files}


# The control flow


def _jump_warnings(lines: list[Line]) -> Iterator[Warned]:
    labels, values = script_flow.labels_of(lines).keys(), script_flow.values_of(lines)
    for command in (command for line in lines for command in line.commands if command.name == "goto"):
        label = command.arguments[0] if command.arguments else ""
        if "${" not in label:
            if label not in labels:
                yield Warned(command.line, f"“goto {label}” fails: there is no label “:{label}”.")
            continue
        known = _COMPUTED.fullmatch(label)
        targets = values.get(plain(known[1]), set()) if known else set()
        if not targets or any("${" in target for target in targets):
            yield Warned(command.line, f"The site cannot check “goto {label}”. Make sure that each label exists.")
        for missing in sorted(target for target in targets - labels if "${" not in target):
            yield Warned(command.line, f"“goto {label}” can fail: there is no label “:{missing}”.")


def _flow_warnings(flow: script_flow.Flow, platform: str) -> Iterator[Warned]:
    """Warnings about the ways through the script, if nobody is at the machine."""
    for command in flow.endless:
        yield Warned(
            command.line,
            f"“{command}” can loop for ever: if the network or the site is down, the machine never boots its disk. "
            "Count the tries with “inc”, and leave the loop with “iseq”.",
        )
    for command in flow.reached:
        if command.name in _FOR_A_PERSON:
            yield Warned(command.line, f"“{command.name}” waits for a person at the machine, but nobody is there.")
        elif command.name == "reboot":
            yield Warned(command.line, "“reboot” restarts the machine. While the fault lasts, it never boots its disk.")
        elif command.name == "poweroff":
            yield Warned(command.line, "“poweroff” switches the machine off. Somebody must go there to switch it on.")
    for ending in flow.endings:
        if platform == "efi" and ending.status == 0:
            yield Warned(
                ending.command.line,
                "The script can end here with status 0. UEFI treats this as success, and may not try the disk. End the "
                "script with “exit 1”.",
            )
    if flow.is_cut:
        yield Warned(1, "The script has too many paths. The site cannot check whether all of them end.")
    elif flow.seconds > LONG_WAY and not flow.endless:
        yield Warned(1, f"All waits of the script together can take {flow.seconds / 3600:.0f} hours.")


# Build options


def _option_warnings(lines: list[Line], options: Collection[str] | None) -> Iterator[Warned]:
    """Warnings about commands and protocols that iPXE or this build does not have."""
    for command in (command for line in lines for command in line.commands):
        if (brought_by := _options_of(command.name)) is None:
            yield Warned(command.line, f"iPXE has no command “{command.name}”.")
        needed = {command.name: brought_by or (), **_protocols(command)}
        for word, any_of in needed.items():
            if any_of and options is not None and not set(any_of).intersection(options):
                yield Warned(command.line, f"“{word}” needs {' or '.join(any_of)}, which is off in this build.")


def _options_of(name: str) -> tuple[str, ...] | None:
    """The build options for a command, of which one is enough; None if iPXE has no such command."""
    # The value of a setting is unknown here.
    return COMMANDS.get(name) if name and "${" not in name else ()


def _protocols(command: Command) -> dict[str, tuple[str, ...]]:
    found = re.findall(r"\b([a-z]+)://", str(command))
    return {f"{scheme}://": (_PROTOCOLS[scheme],) for scheme in found if scheme in _PROTOCOLS}


def likely_options(profile: str, singles: Iterable[str]) -> set[str]:
    """The options that are probably on with this profile. The defaults of the tree are unknown here."""
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
    """The likely options for which `takes_over` is true."""
    return sorted(filter(ipxe_options.takes_over, likely_options(profile, singles)))


def _unusable(text: bytes) -> str:
    """Why iPXE cannot run this script; empty if it can."""
    if not re.match(rb"#!(?:ipxe|gpxe)\s", text):
        return "The first line must be “#!ipxe”, with nothing before it."
    if len(text) > MAX_TEXT:
        return f"The script has {len(text):,} bytes. At most {MAX_TEXT:,} are allowed."
    if b"\0" in text:
        return "The script has a zero byte."
    try:
        text.decode()
    except UnicodeDecodeError:
        return "The script is not valid UTF-8."
    return ""
