"""Scripts that somebody wrote: whether iPXE runs them, and what their writer should know first. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from roms.toolchain import ipxe_options
from roms.toolchain.embedded import PROTOCOL_OPTIONS, ScriptError

MAX_TEXT: Final = 16 * 1024

#: The build options that bring each command of iPXE, any of them; none where it is always there.
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
_PROTOCOLS = {**PROTOCOL_OPTIONS, "nfs": "DOWNLOAD_PROTO_NFS"}
_SEPARATORS = {"||", "&&", ";"}
#: iPXE splits at ASCII white space only.
_WORD = re.compile(r"[^ \t\n\v\f\r]+")
_WAITING = ("shell", "config", "login", "read")


def check_text(text: str | bytes, options: Collection[str] | None = None) -> list[str]:
    """What whoever wrote a script should know before it is built into a ROM; nothing where it looks fine.

    `options` are the build options that are on. Raises ScriptError for what iPXE would not run at all.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if error := _unusable(text):
        raise ScriptError({"text": error})
    script = text.decode()
    commands = commands_used(script)
    warnings = []
    if "exit" not in commands:
        warnings.append("It never says “exit”: on UEFI a machine goes on to its disk only after a non-zero status.")
    for command, brought_by in (commands | _protocols_used(script)).items():
        if command in _WAITING:
            warnings.append(f"“{command}” waits for a person at the machine, and there is none.")
        if brought_by is None:
            warnings.append(f"iPXE knows no command “{command}”.")
        elif brought_by and options is not None and not set(brought_by).intersection(options):
            warnings.append(f"“{command}” needs {' or '.join(brought_by)}, which this build leaves out.")
    if harmful := sorted(filter(ipxe_options.takes_over, options or ())):
        warnings.append(
            f"This build has {', '.join(harmful)}: an answer that is no script, say the page of a captive portal, can "
            "keep the machine from its disk. Switch it off, or take the profile “minimal”."
        )
    return warnings


def likely_options(profile: str, singles: Iterable[str]) -> set[str]:
    """The options that are on, as far as the profile says: a tree's own defaults are not known here."""
    brought_by = {option for options in COMMANDS.values() for option in options}
    everywhere = brought_by.union(ipxe_options.REQUIRED, *ipxe_options.PROFILES.values())
    changes: dict[str, ipxe_options.Value] = dict(ipxe_options.PROFILES.get(profile, {}))
    for single in singles:
        try:
            name, value = ipxe_options.picked(single)
        except ipxe_options.OptionError:
            continue
        changes[name] = not ipxe_options.is_off(value)
    return {name for name in everywhere.union(changes) if changes.get(name, True)}


def takeover_options(profile: str, singles: Iterable[str]) -> list[str]:
    """Those of the likely options with which an answer that is no script can keep a machine from its disk."""
    return sorted(filter(ipxe_options.takes_over, likely_options(profile, singles)))


def commands_used(text: str) -> dict[str, tuple[str, ...] | None]:
    """The commands in a script, each with the build options of which one brings it; None for one that iPXE lacks."""
    used: dict[str, tuple[str, ...] | None] = {}
    for words in _lines(text):
        for before, word in zip(["||", *words], words, strict=False):
            # What a setting expands to cannot be known here.
            if before in _SEPARATORS and word not in _SEPARATORS and "${" not in word:
                used[word] = COMMANDS.get(word)
    return used


def _protocols_used(text: str) -> dict[str, tuple[str, ...]]:
    found = (scheme for words in _lines(text) for scheme in re.findall(r"\b([a-z]+)://", " ".join(words)))
    return {f"{scheme}://": (_PROTOCOLS[scheme],) for scheme in found if scheme in _PROTOCOLS}


def _lines(text: str) -> Iterator[list[str]]:
    """The words of each line, without labels and comments."""
    for line in re.sub(r"\\\r?\n", "", text).split("\n"):
        words = _WORD.findall(line)
        if words and words[0].startswith(":"):
            del words[0]
        yield list(itertools.takewhile(lambda word: not word.startswith("#"), words))


def _unusable(text: bytes) -> str:
    """Why iPXE would not run this; empty where it would."""
    if not re.match(rb"#!ipxe\r?\n", text):
        return "Its first line must be “#!ipxe” and nothing else, with nothing before it."
    if len(text) > MAX_TEXT:
        return f"It has {len(text):,} bytes; there is room for {MAX_TEXT:,}."
    if b"\0" in text:
        return "It holds a zero byte."
    try:
        text.decode()
    except UnicodeDecodeError:
        return "It is not UTF-8."
    return ""
