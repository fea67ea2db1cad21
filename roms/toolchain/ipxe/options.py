"""Build options of iPXE, by the names that a tree's own headers define; profiles; the local headers that set them.

The headers say for each platform what is on (`#if defined ( PLATFORM_pcbios )` switches much off again), so they are
read as a preprocessor reads them, once per platform. No compiler is needed for that.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Value = bool | int | str

#: Platform and, as there is one of each that we build for, the macro of its processor.
PLATFORMS = {"pcbios": "__i386__", "efi": "__x86_64__"}
#: An integer of C, on every processor that iPXE runs on.
LARGEST = (1 << 31) - 1
LONGEST_TEXT = 200

_COMMENTED = r"(?P<off>//)?\s*"
_DEFINE = re.compile(rf"\s*{_COMMENTED}#\s*define\s+(?P<name>[A-Za-z_]\w*)(?P<args>\()?(?P<body>.*)", re.DOTALL)
_UNDEF = re.compile(rf"\s*{_COMMENTED}#\s*undef\s+(?P<name>[A-Za-z_]\w*)")
_CONDITION = re.compile(r"\s*#\s*(?P<word>if|ifdef|ifndef|elif|else|endif)\b(?P<rest>.*)")
_BLOCK = re.compile(r"/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(r"\s*(defined|&&|\|\||[()!]|\w+)")
_CONVERSION = re.compile(r"%[-+ #0-9.*hlzjt]*[A-Za-z%]?")
_PICKED = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:=(?P<value>.*))?", re.DOTALL)
_ON, _OFF = {"on", "yes", "true", "1"}, {"off", "no", "false", "0"}


class Kind(enum.StrEnum):
    """What a macro holds."""

    FLAG = "flag"
    INTEGER = "integer"
    STRING = "string"
    WORD = "word"


class OptionError(ValueError):
    """An option cannot be set so; the message says why, and what is possible."""

    def __init__(self, message: str, name: str = "", near: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.near = tuple(near)


@dataclass(frozen=True)
class Option:
    """One option of a tree."""

    name: str
    header: str  # general.h
    kind: Kind
    description: str
    section: str
    #: Platform -> what stands behind the name there; "" for a flag that is on, None where it is off.
    #: A platform that is not in it does not know the option.
    defaults: Mapping[str, str | None]
    choices: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        return tuple(self.defaults)

    def default(self, platform: str) -> Value | None:
        """The default as a value; None where the platform does not know the option, or it is an expression."""
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


# Reading a tree


def read_options(tree: Path) -> dict[str, Option]:
    """All options of the tree whose top folder is `tree`, for the platforms that we build for, in their order."""
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
        # What does not read its local header cannot be changed there.
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
    """One line that defines an option, or would if it were not a comment."""

    body: str
    description: str
    section: str


@dataclass
class _Reading:
    """One header as one platform's preprocessor sees it."""

    text: str
    initial: Mapping[str, str | None]
    macros: dict[str, str | None] = field(init=False)
    #: What it mentions in the parts that are for this platform, switched on or not.
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
    """The condition of an #if, as far as these headers use it: defined, !, &&, || and brackets."""

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
    """Lines, those joined that a backslash or an open comment joins."""
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
    # Not the “//” of a URL in a string.
    return re.sub(r'^((?:[^"/]|"[^"]*"|/(?!/))*)//.*', r"\1", text)


def _prose(comment: str) -> str:
    """The first paragraph of a comment, as one line."""
    lines = [re.sub(r"^\s*(/\*+|\*/|\*)|\**/\s*$", "", line).strip(" *\t") for line in comment.splitlines()]
    text = "\n".join(lines).strip().split("\n\n")[0]
    return " ".join(text.split())[:300]


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
        raise OptionError(f"There is no profile “{_shown(profile)}”; there are {', '.join(PROFILES)}.", profile)
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
        raise OptionError(f"This iPXE has no option “{_shown(name)}”.{hint}", name, near)
    typed = _CHECKS[option.kind](option, value)
    if typed is False and name in REQUIRED:
        raise OptionError(f"{name} cannot be switched off: {REQUIRED[name]}.", name)
    return typed


def _flag(option: Option, value: Value) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in _ON | _OFF:
        raise OptionError(f"{option.name} is a switch: on or off, not “{_shown(text)}”.", option.name)
    return text in _ON


def _integer(option: Option, value: Value) -> int:
    text = "" if isinstance(value, bool) else str(value)
    if not re.fullmatch(r"\d{1,10}|0x[0-9a-fA-F]{1,8}", text):
        raise OptionError(f"{option.name} needs a number, as in {option.name}=20.", option.name)
    number = int(text, 16 if text.startswith("0x") else 10)
    largest = LONGEST_BANNER if option.name in _BANNERS else LARGEST
    if number > largest:
        raise OptionError(f"{option.name} is at most {largest}.", option.name)
    return number


def _string(option: Option, value: Value) -> str:
    name = option.name
    if not isinstance(value, str):
        raise OptionError(f"{name} needs a text, as in {name}=text.", name)
    text = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if not (text.isascii() and text.isprintable()) or set(text) & set('"\\') or "??" in text:
        raise OptionError(f"{name} may hold printable ASCII, without quotes, backslashes and “??”.", name)
    if len(text) > LONGEST_TEXT:
        raise OptionError(f"{name} may have {LONGEST_TEXT} characters.", name)
    # iPXE hands some of these to its printf as the format.
    expected = _CONVERSION.findall(next((body for body in option.defaults.values() if body), ""))
    if _CONVERSION.findall(text) != expected:
        need = f"must hold {' '.join(expected)} and no other “%”" if expected else "may hold no “%”"
        raise OptionError(f"{name} {need}.", name)
    return text


def _word(option: Option, value: Value) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w{0,63}", value, re.ASCII):
        raise OptionError(f"{option.name} needs a word such as {_example(option)}.", option.name)
    if option.choices and value not in option.choices:
        raise OptionError(f"{option.name} is one of {', '.join(option.choices)}.", option.name)
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


def switched_on(options: Mapping[str, Option], changes: Mapping[str, Value], platform: str) -> frozenset[str]:
    """The flags that are on in a build for one platform: what its scripts can rely on."""
    return frozenset(
        name
        for name, option in options.items()
        if platform in option.platforms and changes.get(name, option.default(platform)) is True
    )


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
