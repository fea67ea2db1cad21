"""The build options of a ROM: profiles, single options, and the local headers that set them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

from roms.toolchain.ipxe.option_headers import PLATFORMS, Kind, Option, Value

#: An integer of C, on every processor that iPXE runs on.
LARGEST = (1 << 31) - 1
LONGEST_TEXT = 200

_CONVERSION = re.compile(r"%[-+ #0-9.*hlzjt]*[A-Za-z%]?")
_PICKED = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:=(?P<value>.*))?", re.DOTALL)
_ON, _OFF = {"on", "yes", "true", "1"}, {"off", "no", "false", "0"}


class OptionError(ValueError):
    """An option cannot be set so; the message says why, and what is possible."""


# What the site needs, and profiles

#: Options that no choice may switch off, and why: without them neither the embedded script nor the site's answers run.
REQUIRED = {
    "NVO_CMD": "every answer of the site begins with “set”",
    "IMAGE_CMD": "chain, kernel, initrd, imgargs, imgfetch, imgfree and boot are among its commands",
    "DHCP_CMD": "“dhcp” is how the embedded script gets an address",
    "IFMGMT_CMD": "“ifopen” is how it gets one without DHCP",
    "NET_PROTO_IPV4": "the site is asked over IPv4",
    "DOWNLOAD_PROTO_HTTP": "the site is asked over HTTP",
    "IMAGE_SCRIPT": "its answers are scripts",
    "IMAGE_BZIMAGE": "a rescue boots a Linux kernel",
    "IMAGE_EFI": "a rescue boots a Linux kernel, which is an EFI program there",
}

#: The image formats that stay in a ROM with the site's script: scripts, Linux kernels and EFI programs, which a rescue
#: boots, and what iPXE does not run at all (certificates, pictures) or unpacks to one of these.
_HARMLESS_IMAGES = frozenset(
    {
        *("IMAGE_SCRIPT", "IMAGE_BZIMAGE", "IMAGE_EFI", "IMAGE_LKRN"),
        *("IMAGE_DER", "IMAGE_PEM", "IMAGE_EFISIG", "IMAGE_PNG", "IMAGE_PNM", "IMAGE_GZIP", "IMAGE_ZLIB"),
    }
)

_MINIMAL_OFF = (
    # Protocols. Kept: STP and LACP, both small, which let it wait for a switch port that does not forward yet.
    *("NET_PROTO_EAPOL", "NET_PROTO_FCOE", "NET_PROTO_IPV6", "NET_PROTO_LLDP"),
    *("DOWNLOAD_PROTO_TFTP", "DOWNLOAD_PROTO_HTTPS", "DOWNLOAD_PROTO_FTP", "DOWNLOAD_PROTO_SLAM"),
    *("DOWNLOAD_PROTO_NFS", "DOWNLOAD_PROTO_DATA", "DOWNLOAD_PROTO_FILE"),
    *("HTTP_AUTH_BASIC", "HTTP_AUTH_DIGEST", "HTTP_AUTH_NTLM", "HTTP_ENC_PEERDIST", "EAP_METHOD_MD5"),
    *("SANBOOT_PROTO_AOE", "SANBOOT_PROTO_FCP", "SANBOOT_PROTO_HTTP", "SANBOOT_PROTO_IB_SRP", "SANBOOT_PROTO_ISCSI"),
    # Commands. Kept besides the required ones: shell, route, reboot and poweroff, for whoever stands at the console.
    *("AUTOBOOT_CMD", "CERT_CMD", "CONFIG_CMD", "CONSOLE_CMD", "CPUID_CMD", "DIGEST_CMD", "FCMGMT_CMD", "FDT_CMD"),
    *("FORM_CMD", "IBMGMT_CMD", "IMAGE_ARCHIVE_CMD", "IMAGE_SET_CMD", "IWMGMT_CMD", "LOGIN_CMD", "MENU_CMD", "NTP_CMD"),
    *("PARAM_CMD", "PCI_CMD", "SANBOOT_CMD", "SHIM_CMD", "SYNC_CMD", "USB_CMD", "VLAN_CMD"),
    # Images
    *("IMAGE_DER", "IMAGE_PEM", "IMAGE_PNG", "IMAGE_ELF", "IMAGE_MULTIBOOT", "IMAGE_PXE", "IMAGE_EFISIG"),
    # PXE for other programs, Infiniband, wireless
    *("PXE_MENU", "PXE_STACK", "VNIC_IPOIB", "CRYPTO_80211_WEP", "CRYPTO_80211_WPA", "CRYPTO_80211_WPA2"),
    *("CONSOLE_FRAMEBUFFER", "CONSOLE_SYSLOG", "CONSOLE_SYSLOGS", "CONSOLE_DMESG"),
)
#: Left out: what is for debugging iPXE itself, and formats that nothing has used for long.
_EVERYTHING_ON = (
    *("NET_PROTO_IPV6", "NET_PROTO_LLDP", "DOWNLOAD_PROTO_HTTPS", "DOWNLOAD_PROTO_FTP", "DOWNLOAD_PROTO_NFS"),
    *("HTTP_AUTH_NTLM", "CERT_CMD", "CONSOLE_CMD", "DIGEST_CMD", "NTP_CMD", "PARAM_CMD", "PCI_CMD", "USB_CMD"),
    *("VLAN_CMD", "IMAGE_TRUST_CMD", "IPSTAT_CMD", "NEIGHBOUR_CMD", "NSLOOKUP_CMD", "PING_CMD", "TIME_CMD"),
    *("IMAGE_GZIP", "IMAGE_ZLIB"),
)

#: Changes to a tree's defaults. A name that a tree does not have is left out: trees differ by version.
PROFILES: dict[str, dict[str, Value]] = {
    # Everything that the site's scripts use, and little else: fits a chip of 64 KiB.
    "minimal": dict.fromkeys(_MINIMAL_OFF, False),
    # The tree's own defaults. Too large for 64 KiB.
    "standard": {},
    "everything": dict.fromkeys(_EVERYTHING_ON, True),
}
#: The one whose ROMs are safe with any script, and fit a chip of 64 KiB.
DEFAULT_PROFILE = "minimal"
#: The longest that a ROM waits while the machine starts, before any script, in tenths of a second.
LONGEST_BANNER = 600
#: They link iPXE's PXE interface, and that links the format of IMAGE_PXE, whether or not it is switched on.
_PXE = frozenset({"PXE_STACK", "PXE_MENU", "PXE_CMD"})
_BANNERS = ("BANNER_TIMEOUT", "ROM_BANNER_TIMEOUT")


def takes_over(name: str) -> bool:
    """Whether with this option an answer that is not a script can keep a machine from its disk.

    With IMAGE_PXE iPXE runs whatever it recognises as nothing else, as PXE boot programs have no signature: the page
    that a captive portal sends with status 200 froze the machine, or restarted it again and again. ELF, Multiboot,
    COMBOOT, NBI and SDI files are recognised by a few bytes, run, and need not come back. Without them the answer is
    “Exec format error”, and the next try. A format that is not known to be harmless counts as harmful.
    """
    is_image = name.startswith("IMAGE_") and not name.endswith("_CMD")
    return name in _PXE or (is_image and name not in _HARMLESS_IMAGES)


def picked(text: str) -> tuple[str, Value]:
    """One option as a person writes it: `NAME`, `NAME=on`, `NAME=off`, `NAME=20`, `NAME=text`. Raises OptionError.

    What it means depends on the option; check() makes a number or a switch of it.
    """
    found = _PICKED.fullmatch(text.strip())
    if not found:
        raise OptionError(f"“{_shown(text)}” is not a valid option: write NAME, NAME=off or NAME=value.")
    return found["name"], True if found["value"] is None else found["value"].strip()


def is_off(value: Value) -> bool:
    """Whether a value that was picked switches a flag off."""
    return value is False or str(value).lower() in _OFF


def banner_changes(tenths: int) -> dict[str, Value]:
    """How long the ROM waits at its prompt while the machine starts, in tenths of a second; 0: not at all.

    It shows the prompt in any case: 4 s is what iPXE waits otherwise, at every power-on and for each such card.
    """
    return {"BANNER_TIMEOUT": (tenths + 1) // 2, "ROM_BANNER_TIMEOUT": tenths}


def chosen(
    options: Mapping[str, Option],
    profile: str = DEFAULT_PROFILE,
    singles: Mapping[str, Value] | None = None,
    banner: int | None = None,
    *,
    foreign_images: bool = False,
) -> dict[str, Value]:
    """All changes of a profile, then single options, then the banner. Raises OptionError.

    Unless `foreign_images` are wanted, what `takes_over` is off in the end, whatever profile and options say.
    """
    if profile not in PROFILES:
        raise OptionError(f"There is no profile “{_shown(profile)}”; there are {', '.join(PROFILES)}.")
    changes = {name: value for name, value in PROFILES[profile].items() if name in options}
    changes |= check(options, singles or {})
    changes |= check(options, banner_changes(banner)) if banner is not None else {}
    return changes if foreign_images else changes | {name: False for name in options if takes_over(name)}


def check(options: Mapping[str, Option], changes: Mapping[str, Value]) -> dict[str, Value]:
    """The changes with each value as its option's type. Raises OptionError for the first that cannot be."""
    return {name: _checked(options, name, value) for name, value in changes.items()}


def _checked(options: Mapping[str, Option], name: str, value: Value) -> Value:
    option = options.get(name)
    if option is None:
        near = difflib.get_close_matches(name.upper(), options, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise OptionError(f"This iPXE has no option “{_shown(name)}”.{hint}")
    typed = _CHECKS[option.kind](option, value)
    if typed is False and name in REQUIRED:
        raise OptionError(f"{name} cannot be switched off: {REQUIRED[name]}.")
    return typed


def _flag(option: Option, value: Value) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in _ON | _OFF:
        raise OptionError(f"{option.name} is a switch: on or off, not “{_shown(text)}”.")
    return text in _ON


def _integer(option: Option, value: Value) -> int:
    text = "" if isinstance(value, bool) else str(value)
    if not re.fullmatch(r"\d{1,10}|0x[0-9a-fA-F]{1,8}", text):
        raise OptionError(f"{option.name} needs a number, as in {option.name}=20.")
    number = int(text, 16 if text.startswith("0x") else 10)
    largest = LONGEST_BANNER if option.name in _BANNERS else LARGEST
    if number > largest:
        raise OptionError(f"{option.name} is at most {largest}.")
    return number


def _string(option: Option, value: Value) -> str:
    name = option.name
    if not isinstance(value, str):
        raise OptionError(f"{name} needs a text, as in {name}=text.")
    text = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if not (text.isascii() and text.isprintable()) or set(text) & set('"\\') or "??" in text:
        raise OptionError(f"{name} may hold printable ASCII, without quotes, backslashes and “??”.")
    if len(text) > LONGEST_TEXT:
        raise OptionError(f"{name} may have {LONGEST_TEXT} characters.")
    # iPXE hands some of these to its printf as the format.
    expected = _CONVERSION.findall(next((body for body in option.defaults.values() if body), ""))
    if _CONVERSION.findall(text) != expected:
        need = f"must hold {' '.join(expected)} and no other “%”" if expected else "may hold no “%”"
        raise OptionError(f"{name} {need}.")
    return text


def _word(option: Option, value: Value) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w{0,63}", value, re.ASCII):
        raise OptionError(f"{option.name} needs a word such as {_example(option)}.")
    if option.choices and value not in option.choices:
        raise OptionError(f"{option.name} is one of {', '.join(option.choices)}.")
    return value


def _example(option: Option) -> str:
    return next((body for body in option.defaults.values() if body), "its default")


_CHECKS: Mapping[Kind, Callable[[Option, Value], Value]] = {
    Kind.FLAG: _flag,
    Kind.INTEGER: _integer,
    Kind.STRING: _string,
    Kind.WORD: _word,
}


def _shown(text: str) -> str:
    """What a person wrote, as far as it can be repeated to them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:60])


# Headers


def effective(options: Mapping[str, Option], changes: Mapping[str, Value]) -> dict[str, Value]:
    """The changes that change something on some platform, sorted: what one feature set differs from another by."""
    return {
        name: value
        for name, value in sorted(changes.items())
        if any(options[name].default(platform) != value for platform in options[name].platforms)
    }


def config_headers(options: Mapping[str, Option], changes: Mapping[str, Value]) -> dict[str, str]:
    """File name below config/local -> its text, for the headers in which something changes."""
    lines: dict[str, list[str]] = {}
    for name, value in effective(options, changes).items():
        option = options[name]
        lines.setdefault(option.header, []).extend(_guarded(option, _directives(option, value)))
    return {header: "".join(f"{line}\n" for line in text) for header, text in sorted(lines.items())}


def _directives(option: Option, value: Value) -> list[str]:
    """#undef first: with a value, a second #define would be an error."""
    lines = [f"#undef {option.name}"]
    if option.kind is Kind.FLAG:
        return [*lines, f"#define {option.name}"] if value else lines
    return [
        *lines,
        f'#define {option.name} "{value}"' if option.kind is Kind.STRING else f"#define {option.name} {value}",
    ]


def _guarded(option: Option, lines: list[str]) -> list[str]:
    """What one platform does not know must not be defined there: its objects do not exist."""
    if set(option.platforms) == set(PLATFORMS):
        return lines
    condition = " || ".join(f"defined ( PLATFORM_{platform} )" for platform in option.platforms)
    return [f"#if {condition}", *lines, "#endif"]
