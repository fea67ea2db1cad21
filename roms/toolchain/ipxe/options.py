"""The build options of a ROM: profiles, single options, and the local headers that set them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

from roms.toolchain.ipxe.option_headers import PLATFORMS, Kind, Option, Value

#: The largest integer of C on all processors of iPXE.
LARGEST = (1 << 31) - 1
LONGEST_TEXT = 200

_CONVERSION = re.compile(r"%[-+ #0-9.*hlzjt]*[A-Za-z%]?")
_PICKED = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:=(?P<value>.*))?", re.DOTALL)
_ON, _OFF = {"on", "yes", "true", "1"}, {"off", "no", "false", "0"}


class OptionError(ValueError):
    """The option or its value is not valid. The message says why, and what is valid."""


#: Options that nobody may switch off, and why: the embedded script and the site's answers need them.
REQUIRED = {
    "NVO_CMD": "every answer of the site starts with “set”",
    "IMAGE_CMD": "it has the commands chain, kernel, initrd, imgargs, imgfetch, imgfree and boot",
    "DHCP_CMD": "the embedded script uses DHCP",
    "IFMGMT_CMD": "a script without DHCP uses “ifopen”",
    "NET_PROTO_IPV4": "the ROM reaches the site over IPv4",
    "DOWNLOAD_PROTO_HTTP": "the ROM reaches the site over HTTP",
    "IMAGE_SCRIPT": "the answers of the site are scripts",
    "IMAGE_BZIMAGE": "a rescue boots a Linux kernel",
    "IMAGE_EFI": "a rescue boots a Linux kernel, which is an EFI program on UEFI",
}

#: The image formats in a ROM with the site's script: scripts, Linux kernels and EFI programs, which a rescue boots, and
#: formats that iPXE does not run (certificates, pictures) or only unpacks.
_HARMLESS_IMAGES = frozenset(
    {
        *("IMAGE_SCRIPT", "IMAGE_BZIMAGE", "IMAGE_EFI", "IMAGE_LKRN"),
        *("IMAGE_DER", "IMAGE_PEM", "IMAGE_EFISIG", "IMAGE_PNG", "IMAGE_PNM", "IMAGE_GZIP", "IMAGE_ZLIB"),
    }
)

_MINIMAL_OFF = (
    # Protocols. STP and LACP stay on: they are small, and iPXE needs them to wait for a slow switch port.
    *("NET_PROTO_EAPOL", "NET_PROTO_FCOE", "NET_PROTO_IPV6", "NET_PROTO_LLDP"),
    *("DOWNLOAD_PROTO_TFTP", "DOWNLOAD_PROTO_HTTPS", "DOWNLOAD_PROTO_FTP", "DOWNLOAD_PROTO_SLAM"),
    *("DOWNLOAD_PROTO_NFS", "DOWNLOAD_PROTO_DATA", "DOWNLOAD_PROTO_FILE"),
    *("HTTP_AUTH_BASIC", "HTTP_AUTH_DIGEST", "HTTP_AUTH_NTLM", "HTTP_ENC_PEERDIST", "EAP_METHOD_MD5"),
    *("SANBOOT_PROTO_AOE", "SANBOOT_PROTO_FCP", "SANBOOT_PROTO_HTTP", "SANBOOT_PROTO_IB_SRP", "SANBOOT_PROTO_ISCSI"),
    # Commands. Besides the required ones, shell, route, reboot and poweroff stay on, for people at the console.
    *("AUTOBOOT_CMD", "CERT_CMD", "CONFIG_CMD", "CONSOLE_CMD", "CPUID_CMD", "DIGEST_CMD", "FCMGMT_CMD", "FDT_CMD"),
    *("FORM_CMD", "IBMGMT_CMD", "IMAGE_ARCHIVE_CMD", "IMAGE_SET_CMD", "IWMGMT_CMD", "LOGIN_CMD", "MENU_CMD", "NTP_CMD"),
    *("PARAM_CMD", "PCI_CMD", "SANBOOT_CMD", "SHIM_CMD", "SYNC_CMD", "USB_CMD", "VLAN_CMD"),
    # Images
    *("IMAGE_DER", "IMAGE_PEM", "IMAGE_PNG", "IMAGE_ELF", "IMAGE_MULTIBOOT", "IMAGE_PXE", "IMAGE_EFISIG"),
    # PXE for other programs, Infiniband, wireless
    *("PXE_MENU", "PXE_STACK", "VNIC_IPOIB", "CRYPTO_80211_WEP", "CRYPTO_80211_WPA", "CRYPTO_80211_WPA2"),
    *("CONSOLE_FRAMEBUFFER", "CONSOLE_SYSLOG", "CONSOLE_SYSLOGS", "CONSOLE_DMESG"),
)
#: Options for debugging iPXE and obsolete formats stay off.
_EVERYTHING_ON = (
    *("NET_PROTO_IPV6", "NET_PROTO_LLDP", "DOWNLOAD_PROTO_HTTPS", "DOWNLOAD_PROTO_FTP", "DOWNLOAD_PROTO_NFS"),
    *("HTTP_AUTH_NTLM", "CERT_CMD", "CONSOLE_CMD", "DIGEST_CMD", "NTP_CMD", "PARAM_CMD", "PCI_CMD", "USB_CMD"),
    *("VLAN_CMD", "IMAGE_TRUST_CMD", "IPSTAT_CMD", "NEIGHBOUR_CMD", "NSLOOKUP_CMD", "PING_CMD", "TIME_CMD"),
    *("IMAGE_GZIP", "IMAGE_ZLIB"),
)

#: Changes to a tree's defaults. Options that a tree does not have are ignored: versions of iPXE differ.
PROFILES: dict[str, dict[str, Value]] = {
    # Almost only what the site's scripts use. Fits a chip of 64 KiB.
    "minimal": dict.fromkeys(_MINIMAL_OFF, False),
    # The tree's own defaults. Too large for 64 KiB.
    "standard": {},
    "everything": dict.fromkeys(_EVERYTHING_ON, True),
}
#: ROMs with this profile are safe with any script, and fit a chip of 64 KiB.
DEFAULT_PROFILE = "minimal"
#: The longest time that a ROM may show its prompt at power-on, in tenths of a second.
LONGEST_BANNER = 600
#: These options link iPXE's PXE interface, which includes the format of IMAGE_PXE, even if that option is off.
_PXE = frozenset({"PXE_STACK", "PXE_MENU", "PXE_CMD"})
_BANNERS = ("BANNER_TIMEOUT", "ROM_BANNER_TIMEOUT")


def takes_over(name: str) -> bool:
    """Whether with this option an answer that is not a script can keep a machine from booting its disk.

    PXE boot programs have no signature, so with IMAGE_PXE iPXE runs any file of an unknown format. In a test, the page
    of a captive portal froze the machine, or restarted it again and again. iPXE recognises ELF, Multiboot, COMBOOT, NBI
    and SDI files by a few bytes, runs them, and they may never return. Without these options iPXE reports “Exec format
    error”, and the script tries again. Unknown formats count as harmful.
    """
    is_image = name.startswith("IMAGE_") and not name.endswith("_CMD")
    return name in _PXE or (is_image and name not in _HARMLESS_IMAGES)


def picked(text: str) -> tuple[str, Value]:
    """Split an option such as `NAME`, `NAME=on`, `NAME=off`, `NAME=20` or `NAME=text`. Raises OptionError.

    check() converts the value to the type of the option.
    """
    found = _PICKED.fullmatch(text.strip())
    if not found:
        raise OptionError(f"“{_shown(text)}” is not a valid option. Write NAME, NAME=off or NAME=value.")
    return found["name"], True if found["value"] is None else found["value"].strip()


def is_off(value: Value) -> bool:
    """Whether the value switches a flag off."""
    return value is False or str(value).lower() in _OFF


def banner_changes(tenths: int) -> dict[str, Value]:
    """The options for the time at the prompt, in tenths of a second. 0: show the prompt, but do not wait.

    By default iPXE waits 4 s at every power-on, for each card.
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
    """The changes of a profile, of single options and of the banner, in this order. Raises OptionError.

    Without `foreign_images`, all options for which `takes_over` is true are off in any case.
    """
    if profile not in PROFILES:
        raise OptionError(f"There is no profile “{_shown(profile)}”. Choose one of {', '.join(PROFILES)}.")
    changes = {name: value for name, value in PROFILES[profile].items() if name in options}
    changes |= check(options, singles or {})
    changes |= check(options, banner_changes(banner)) if banner is not None else {}
    return changes if foreign_images else changes | {name: False for name in options if takes_over(name)}


def check(options: Mapping[str, Option], changes: Mapping[str, Value]) -> dict[str, Value]:
    """The changes with values of the right types. Raises OptionError for the first invalid one."""
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
        raise OptionError(f"{option.name} must be on or off, not “{_shown(text)}”.")
    return text in _ON


def _integer(option: Option, value: Value) -> int:
    text = "" if isinstance(value, bool) else str(value)
    if not re.fullmatch(r"\d{1,10}|0x[0-9a-fA-F]{1,8}", text):
        raise OptionError(f"{option.name} needs a number, for example {option.name}=20.")
    number = int(text, 16 if text.startswith("0x") else 10)
    largest = LONGEST_BANNER if option.name in _BANNERS else LARGEST
    if number > largest:
        raise OptionError(f"{option.name} must be at most {largest}.")
    return number


def _string(option: Option, value: Value) -> str:
    name = option.name
    if not isinstance(value, str):
        raise OptionError(f"{name} needs a text, for example {name}=text.")
    text = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if not (text.isascii() and text.isprintable()) or set(text) & set('"\\') or "??" in text:
        raise OptionError(f"{name} may have only printable ASCII characters, without quotes, backslashes and “??”.")
    if len(text) > LONGEST_TEXT:
        raise OptionError(f"{name} may have at most {LONGEST_TEXT} characters.")
    # iPXE uses some of these texts as a format for printf.
    expected = _CONVERSION.findall(next((body for body in option.defaults.values() if body), ""))
    if _CONVERSION.findall(text) != expected:
        need = f"must have {' '.join(expected)} and no other “%”" if expected else "must not have “%”"
        raise OptionError(f"{name} {need}.")
    return text


def _word(option: Option, value: Value) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w{0,63}", value, re.ASCII):
        raise OptionError(f"{option.name} needs a word, for example {_example(option)}.")
    if option.choices and value not in option.choices:
        raise OptionError(f"{option.name} must be one of {', '.join(option.choices)}.")
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
    """A short, printable form of the text for error messages."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:60])


# Headers


def effective(options: Mapping[str, Option], changes: Mapping[str, Value]) -> dict[str, Value]:
    """The changes that differ from the default on some platform, sorted by name."""
    return {
        name: value
        for name, value in sorted(changes.items())
        if any(options[name].default(platform) != value for platform in options[name].platforms)
    }


def config_headers(options: Mapping[str, Option], changes: Mapping[str, Value]) -> dict[str, str]:
    """The text of each changed header below config/local, by file name."""
    lines: dict[str, list[str]] = {}
    for name, value in effective(options, changes).items():
        option = options[name]
        lines.setdefault(option.header, []).extend(_guarded(option, _directives(option, value)))
    return {header: "".join(f"{line}\n" for line in text) for header, text in sorted(lines.items())}


def _directives(option: Option, value: Value) -> list[str]:
    """The lines for one option. #undef comes first: a second #define is an error."""
    lines = [f"#undef {option.name}"]
    if option.kind is Kind.FLAG:
        return [*lines, f"#define {option.name}"] if value else lines
    return [
        *lines,
        f'#define {option.name} "{value}"' if option.kind is Kind.STRING else f"#define {option.name} {value}",
    ]


def _guarded(option: Option, lines: list[str]) -> list[str]:
    """The lines, only for the platforms that have this option: on others its objects do not exist."""
    if set(option.platforms) == set(PLATFORMS):
        return lines
    condition = " || ".join(f"defined ( PLATFORM_{platform} )" for platform in option.platforms)
    return [f"#if {condition}", *lines, "#endif"]
