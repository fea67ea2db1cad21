"""The iPXE scripts that the site answers with. Pure: facts in, text out; https://ipxe.org/scripting.

Each script first sets the iPXE variable `rescuesite`, so that an embedded script can tell an answer from a failure
(iPXE hands a chained script's exit status to its caller, whatever the reason), and each ends so that the firmware
goes on to the next boot device: UEFI does so only after a non-zero status, BIOS ignores it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from machines.addresses import hyphenated
from machines.boot.ipxe import LEAVE, MAGIC, SEPARATORS
from machines.boot.reasons import Outcome, Reason
from machines.boot.request import SETTINGS

#: Below the boot address: what DHCP names to any iPXE.
DHCP_SCRIPT = "dhcp.ipxe"
SHOWN_TOKEN = "<token>"  # noqa: S105 - what stands for a token wherever people read a script

#: Served names that the site gives itself; an image's further files cannot have them.
KERNEL, READY, UP, ARCHIVE, CHAIN = "kernel", "ready", "up", "rescue.cpio", "script.ipxe"
KEYS = "authorized_keys"

#: In a command line: the address below which the rescue's files lie, for what the booted system fetches itself.
URL = "{url}"

#: Seconds that one question to the site may bring nothing new.
ASK_TIMEOUT = 8
#: … and one try of a file. Every iPXE since 2014 knows --timeout with all that fetches; it counts silence only, so a
#: slow line is not hurt. Three tries with their pauses outlast the 30 s for which a switch may forward nothing
#: (spanning tree).
FILE_TIMEOUT = 10
#: Seconds between the first try and the second, and between that and the last.
_PAUSES = (1, 3)
#: Seconds after which a kernel that has panicked reboots, unless the image's command line says otherwise.
PANIC = 60
#: What a rescue mostly fetches: kernel, one initrd, its archive, `ready`.
USUAL_FILES = 4


class UnsafeLineError(ValueError):
    """A line would not mean to iPXE what it says; the message tells the person who wrote its text."""


@dataclass(frozen=True)
class BootPlan:
    """What one rescue boots: the served names of its files, in the order in which they are fetched."""

    machine: str
    mac: str
    token: str
    initrds: Sequence[str] = ()
    command_line: str = ""
    chained: bool = False
    #: The site's address as the machine reaches it.
    site: str = ""
    #: Where the files lie, by served name, if the site does not send them; then it is not told that all have arrived.
    file_urls: Mapping[str, str] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """Where a file is fetched, relative to the script's own address."""
        return self.file_urls[name] if self.file_urls else f"/boot/{self.token}/{name}"

    @property
    def archives(self) -> list[str]:
        """What the kernel unpacks."""
        return [*self.initrds, ARCHIVE]

    @property
    def fetched(self) -> list[str]:
        """What the script itself fetches, in order."""
        if self.chained:
            return [CHAIN]
        return [KERNEL, *self.archives, *([] if self.file_urls else [READY])]

    @property
    def longest_silence(self) -> int:
        """`longest_silence` of this script; what a chained one fetches by itself is not in it."""
        return longest_silence(len(self.fetched))


def longest_silence(files: int) -> int:
    """Seconds that a site which falls silent, however often, can keep a machine whose script fetches so many files."""
    return files * _three_tries(FILE_TIMEOUT)


def longest_question() -> int:
    """Seconds that a silent site can keep a machine which the script of `chain_to_site` sends there."""
    return _three_tries(ASK_TIMEOUT)


def _three_tries(timeout: int) -> int:
    return (len(_PAUSES) + 1) * timeout + sum(_PAUSES)


def ensure_safe(line: str) -> str:
    """Return `line`, one iPXE command with data in it, if it can do nothing but what it says.

    Raises UnsafeLineError for control characters (a newline starts another command), `${` (expanded by iPXE, again and
    again), a command separator, a trailing backslash (joins the next line) and a word that starts a comment.
    """
    if not line.isprintable():
        raise UnsafeLineError("holds a line break or another control character")
    if "${" in line:
        raise UnsafeLineError("holds “${”, which iPXE would replace by one of its settings")
    if line.endswith("\\"):
        raise UnsafeLineError("ends with a backslash, which would join it to the next line")
    words = line.split()
    if separators := SEPARATORS.intersection(words):
        separator = min(separators)
        raise UnsafeLineError(f"holds the command separator “{separator}”; write it without a space on either side")
    if any(word.startswith("#") for word in words):
        raise UnsafeLineError("holds a word that begins with “#”, where iPXE starts a comment")
    return line


def pass_through(reason: Reason) -> str:
    """The script for every outcome but rescue: say why, as far as a stranger may know, and boot the disk."""
    return _finished([MAGIC, f"set rescuesite {reason.outcome}", *(f"echo {line}" for line in reason.console), *LEAVE])


def rescue(plan: BootPlan) -> str:
    """The script that boots a rescue. Raises UnsafeLineError where the plan holds text that no script may hold."""
    return _finished(
        [
            MAGIC,
            f"set rescuesite {Outcome.RESCUE}",
            ensure_safe(f"echo Rescue mode for {plan.machine}"),
            # Whatever image is still registered would be handed to the kernel as one more initrd.
            "imgfree",
            *(_chain(plan) if plan.chained else _kernel(plan)),
            ":failed",
            "echo Rescue could not be booted, going on to the local disk",
            *LEAVE,
        ]
    )


def chain_to_site(address: str, mac: str) -> str:
    """The script of a machine whose scripts lie on another server: ask the site at `address`, three times at most.

    It ends with `rescuesite` set, whatever the site said: whoever chained it need not try again.
    """
    ask = [
        f"chain --autofree --timeout {ASK_TIMEOUT * 1000} {boot_url(address, mac=mac)} ||",
        "isset ${rescuesite} && goto local ||",
    ]
    return _finished(
        [
            MAGIC,
            "clear rescuesite ||",
            *(line for pause in _PAUSES for line in (*ask, f"sleep {pause}")),
            *ask,
            f"set rescuesite {Outcome.LOCAL}",
            "echo The rescue site does not answer, going on to the local disk",
            ":local",
            *LEAVE,
        ]
    )


def for_dhcp(address: str = "/boot") -> str:
    """What DHCP names as boot file to an iPXE of any age, whose own download of a boot file has no bound.

    It asks as `chain_to_site` does, for the card that got the address; without a site's name in `address`, where this
    script came from. iPXE of 2019 lacks `iflinkwait` and `ifconf --timeout`, so neither is used. It takes what stands
    before any colon for a protocol, also in a relative address, so the MAC address is sent with hyphens.
    """
    return chain_to_site(address, "${netX/mac:hexhyp}")


def boot_url(address: str, settings: Mapping[str, str] = SETTINGS, *, mac: str = "${netX/mac}") -> str:
    """The address at which a card asks, in iPXE's words: it fills in what stands in `${…}`."""
    values = {"mac": mac, "ip": "${netX/ip}", **settings}
    return f"{address}?{'&'.join(f'{name}={setting}' for name, setting in values.items())}"


def _kernel(plan: BootPlan) -> list[str]:
    own_panic = any(word.startswith("panic=") for word in plan.command_line.split())
    arguments = [
        plan.command_line.replace(URL, f"{plan.site}/boot/{plan.token}"),
        "" if own_panic else f"panic={PANIC}",
        f"BOOTIF=01-{hyphenated(plan.mac)}",
        *(f"initrd={name}" for name in plan.archives),
    ]
    return [
        *_fetch("kernel", KERNEL, plan),
        *(line for name in plan.archives for line in _fetch("initrd", name, plan)),
        ensure_safe(" ".join(["imgargs kernel", *filter(None, arguments)])),
        *((*_fetch("imgfetch", READY, plan), "imgfree ready") if not plan.file_urls else ()),
        "boot kernel || goto failed",
    ]


def _chain(plan: BootPlan) -> list[str]:
    return [
        *_fetch("imgfetch", CHAIN, plan),
        f"imgexec {CHAIN} || goto failed",
        "echo The chained script has ended",
        *LEAVE,
    ]


def _fetch(command: str, name: str, plan: BootPlan) -> list[str]:
    """Three tries, with a growing pause between them: a link that just came up loses packets.

    iPXE chains `||` and `&&` from the left, as sh does, so a pause between two tries needs a jump past the rest.
    """
    fetch = ensure_safe(f"{command} --name {name} --timeout {FILE_TIMEOUT * 1000} {plan.address(name)}")
    got = f"got-{name}"
    return [
        *(line for pause in _PAUSES for line in (f"{fetch} && goto {got} ||", f"sleep {pause}")),
        f"{fetch} || goto failed",
        f":{got}",
    ]


def _finished(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
