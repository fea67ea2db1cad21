"""The text of the script that a ROM embeds, and what iPXE must be built with to run it. Pure: a spec in, text out.

Each way through the text leads to “local”, and each step on the way is bounded: a dead network or site costs a machine
no more than `worst_case` says.
"""

from __future__ import annotations

from typing import Final

from machines.boot.ipxe import LEAVE, MAGIC
from machines.boot.script import boot_url
from roms.toolchain.ipxe.script.spec import (
    DHCP,
    DHCP_WAIT,
    PLACEHOLDERS,
    PROTOCOL_OPTIONS,
    VARIABLES,
    ScriptSpec,
    is_address,
)

#: Seconds between two rounds of looking for a network, and between two questions.
NETWORK_PAUSE: Final = 5
SITE_PAUSE: Final = 3


def render(spec: ScriptSpec) -> str:
    """The text of the script.

    A step that may fail is written `A || goto where-else` or `A && goto there ||`: a failing command ends the script
    unless `||` follows it, and `A || B && C` runs C after A has succeeded. An answer of the site sets `rescuesite`;
    whatever exit status it ends with, the site has then spoken and is not asked again. With a file per machine it is
    the status that counts.
    """
    nic = "net${nic}" if spec.nic is None else f"net{spec.nic}"
    first = "net0" if spec.nic is None else nic
    lines = [
        MAGIC,
        "# rescuesite: asks at every power-on what to do, and boots the next device where there is no answer",
        "clear rescuesite ||",
        "clear site-tries ||",
        f"isset ${{{first}/mac}} || goto local",
        "set network-tries:int32 0",
        ":network",
        "inc network-tries",
        *(("set nic:int32 0", ":nic") if spec.nic is None else ()),
        f"iflinkwait --timeout {spec.link_wait * 1000} {nic} || goto next",
        *((f"sleep {spec.stp_wait}",) if spec.stp_wait else ()),
        *_address(spec, nic),
        "set site-tries:int32 0",
        ":ask",
        "inc site-tries",
        f"chain --autofree --timeout {spec.timeout * 1000} {_url(spec)} {'||' if spec.asks else '&& goto local ||'}",
        "isset ${rescuesite} && goto local ||",
        f"iseq ${{site-tries}} {spec.tries} && goto silent ||",
        "echo The rescue site does not answer, trying again",
        f"sleep {SITE_PAUSE}",
        "goto ask",
        ":silent",
        f"ifclose {nic} ||",
        ":next",
        *(("inc nic", "isset ${net${nic}/mac} && goto nic ||") if spec.nic is None else ()),
        # A site that did not answer on any card was asked often enough.
        "isset ${site-tries} && goto local ||",
        f"iseq ${{network-tries}} {spec.tries} && goto local ||",
        "echo No network yet, trying again",
        f"sleep {NETWORK_PAUSE}",
        "goto network",
        ":local",
        *LEAVE,
    ]
    return "\n".join(lines) + "\n"


def _address(spec: ScriptSpec, nic: str) -> list[str]:
    network = spec.network
    if isinstance(network, str):
        # Not plain `dhcp`: where iPXE has IPv6, that would be content with, and wait for, an IPv6 address.
        return [f"ifconf --configurator dhcp --timeout {spec.address_timeout * 1000} {nic} || goto next"]
    settings = {"ip": network.ip, "netmask": network.netmask, "gateway": network.gateway, "dns": network.dns}
    return [f"set {nic}/{name} {value}" for name, value in settings.items() if value]


def _url(spec: ScriptSpec) -> str:
    if not spec.asks:
        url = spec.site
        for placeholder, setting in PLACEHOLDERS.items():
            url = url.replace(placeholder, setting)
        return url
    return boot_url(spec.site, {name: VARIABLES[name] for name in spec.variables})


def required_options(spec: ScriptSpec) -> frozenset[str]:
    """The build options, by the names of iPXE's headers, without which the rendered script does not work."""
    needed = {"IMAGE_SCRIPT", "IMAGE_CMD", "NVO_CMD", "IFMGMT_CMD", "NET_PROTO_IPV4", PROTOCOL_OPTIONS[spec.scheme]}
    if not spec.asks:
        # The exported script of a machine in rescue sends it on to the site.
        needed.add(PROTOCOL_OPTIONS["http"])
    if spec.network == DHCP:
        # The command is not used, but it is what brings DHCP itself.
        needed.add("DHCP_CMD")
    if not is_address(spec.host):
        needed.add("DNS_RESOLVER")
    if spec.serial_console:
        needed.add("CONSOLE_SERIAL")
    return frozenset(needed)


def option_values(spec: ScriptSpec) -> dict[str, int]:
    """The build options, by the names of iPXE's headers, that the script needs other values of; see config/dhcp.h."""
    if spec.network != DHCP or spec.dhcp_wait <= DHCP_WAIT:
        return {}
    # The pauses are 1, 2, 4, … s, up to this one.
    longest = spec.dhcp_silence // 2
    return {"DHCP_DISC_END_TIMEOUT_SEC": longest, "DHCP_REQ_END_TIMEOUT_SEC": longest}
