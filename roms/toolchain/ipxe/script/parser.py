"""Parses a script as iPXE does: lines, labels, commands, options; see image/script.c, core/exec.c, core/getopt.c.

iPXE first splits a line into words at white space. `||`, `&&` and `;` are words. A word that starts with `#` starts a
comment. The options of a command end at the first word that is not an option.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from machines.boot.ipxe import SEPARATORS

#: The build options for each command, of which one is enough. Commands without options always exist.
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    command: tuple(filter(None, options.split("|")))
    for options, commands in {
        "": "echo exit isset iseq sleep",
        "AUTOBOOT_CMD": "autoboot",
        "CERT_CMD": "certstat certstore certfree",
        "CONFIG_CMD": "config",
        "CONSOLE_CMD": "console colour cpair",
        "CPUID_CMD": "cpuid",
        "DHCP_CMD": "dhcp pxebs",
        "DIGEST_CMD": "md5sum sha1sum md4sum sha224sum sha256sum sha384sum sha512sum",
        "FCMGMT_CMD": "fcstat fcels",
        "FDT_CMD": "fdt",
        "GDBSERIAL|GDBUDP": "gdbstub",
        "IBMGMT_CMD": "ibstat",
        "IFMGMT_CMD": "ifopen ifclose ifstat ifconf iflinkwait",
        "IMAGE_ARCHIVE_CMD": "imgextract",
        "IMAGE_CMD": "imgfetch module initrd imgselect imgload kernel imgexec chain boot imgargs imgstat imgfree",
        "IMAGE_CRYPT_CMD": "imgdecrypt",
        "IMAGE_MEM_CMD": "imgmem",
        "IMAGE_SCRIPT": "goto prompt",
        "IMAGE_SET_CMD": "imgset",
        "IMAGE_TRUST_CMD": "imgtrust imgverify",
        "IPSTAT_CMD": "ipstat",
        "IWMGMT_CMD": "iwstat iwlist",
        "LOGIN_CMD": "login",
        "LOTEST_CMD": "lotest",
        "MENU_CMD|FORM_CMD": "menu form item choose present",
        "NEIGHBOUR_CMD": "nstat",
        "NSLOOKUP_CMD": "nslookup",
        "NTP_CMD": "ntp",
        "NVO_CMD": "show set clear read inc",
        "PARAM_CMD": "params param",
        "PCI_CMD": "pciscan",
        "PING_CMD": "ping",
        "POWEROFF_CMD": "poweroff",
        "PROFSTAT_CMD": "profstat",
        "PXE_CMD": "startpxe stoppxe",
        "REBOOT_CMD": "reboot",
        "ROUTE_CMD": "route",
        "SANBOOT_CMD": "sanhook sanboot sanunhook",
        "SHELL_CMD": "shell help",
        "SHIM_CMD": "shim",
        "SYNC_CMD": "sync",
        "TIME_CMD": "time",
        "USB_CMD": "usbscan",
        "VLAN_CMD": "vcreate vdestroy",
    }.items()
    for command in commands.split()
}
#: iPXE splits only at ASCII white space.
_WORD = re.compile(r"[^ \t\n\v\f\r]+")
#: The options with a value for each command, by their letters; see OPTION_DESC in iPXE's hci/commands.
_VALUED: Final[Mapping[str, Mapping[str, str]]] = {
    command: {option[0]: option for option in options.split()}
    for commands, options in {
        "imgfetch module initrd imgselect imgload kernel imgexec chain boot imgextract": "name timeout",
        "choose": "menu default timeout retimeout",
        "prompt": "key timeout",
        "item": "menu form key",
        "dhcp ifconf": "configurator timeout",
        "imgverify": "signer timeout",
        "ping": "size timeout count",
        "iflinkwait sync read set clear": "timeout",
    }.items()
    for command in commands.split()
}


def plain(setting: str) -> str:
    """The name of a setting without its type."""
    return setting.partition(":")[0]


@dataclass(frozen=True)
class Command:
    """A command, with the separator before it (`after`). A command without words does nothing and succeeds."""

    line: int
    after: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def variable(self) -> str:
        """The first argument as the name of a setting, without its type."""
        return plain(self.arguments[0]) if self.arguments else ""

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def options(self) -> dict[str, str]:
        """The options by their long names. Options without a value have an empty one."""
        return self._parts[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        return self._parts[1]

    @functools.cached_property
    def _parts(self) -> tuple[dict[str, str], tuple[str, ...]]:
        valued, found, at = _VALUED.get(self.name, {}), {}, 1
        while at < len(self.words) and self.words[at].startswith("-") and self.words[at] != "-":
            word = self.words[at]
            at += 1
            if word == "--":
                break
            if word.startswith("--"):
                name, has_value, value = word[2:].partition("=")
            else:
                name, value = valued.get(word[1], word[1]), word[2:]
                has_value = value
            if name in valued.values() and not has_value and at < len(self.words):
                value = self.words[at]
                at += 1
            found[name] = value
        return found, self.words[at:]


@dataclass(frozen=True)
class Line:
    """A line, joined with its continuation lines. `number` is that of the first one, from 1."""

    number: int
    label: str | None
    commands: tuple[Command, ...]


def parse(text: str) -> list[Line]:
    """All lines with a label or a command."""
    return [line for line in _lines(text) if line.commands or line.label is not None]


def _lines(text: str) -> Iterator[Line]:
    number, first, pending = 0, 1, ""
    for number, raw in enumerate(text.split("\n"), 1):
        whole = pending + raw.removesuffix("\r")
        if whole.endswith("\\"):
            pending = whole[:-1]
            continue
        yield _line(first, whole)
        first, pending = number + 1, ""
    if pending:
        yield _line(first, pending)


def _line(number: int, text: str) -> Line:
    words = _WORD.findall(text)
    label = words.pop(0)[1:] if words and words[0].startswith(":") else None
    commands: list[Command] = []
    after = ""
    current: list[str] = []
    for word in itertools.takewhile(lambda word: not word.startswith("#"), words):
        if word in SEPARATORS:
            commands.append(Command(number, after, tuple(current)))
            after, current = word, []
        else:
            current.append(word)
    if current or after:
        commands.append(Command(number, after, tuple(current)))
    return Line(number, label, tuple(commands))
