"""Writes the script that a ROM embeds, and finds the build options for it. Pure.

Every path through the script ends at “local”, and every step has a time limit. `worst_case` computes the longest delay
if the network or the site is down.
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

#: Seconds between two tries to reach the network, and between two requests to the site.
NETWORK_PAUSE: Final = 5
SITE_PAUSE: Final = 3


def render(spec: ScriptSpec) -> str:
    """The text of the script.

    A command that fails ends the script unless `||` follows it, and `A || B && C` runs C if A succeeds. A step that may
    fail is therefore `A || goto X` or `A && goto X ||`. Every answer of the site sets `rescuesite`. The script then
    does not ask again, whatever the exit status is. With a file per machine, the exit status counts.
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
        # The site did not answer on any card: stop.
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
        # `dhcp` alone would also wait for, and accept, an IPv6 address if iPXE has IPv6.
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
    """The build options that the script needs, by their names in iPXE's headers."""
    needed = {"IMAGE_SCRIPT", "IMAGE_CMD", "NVO_CMD", "IFMGMT_CMD", "NET_PROTO_IPV4", PROTOCOL_OPTIONS[spec.scheme]}
    if not spec.asks:
        # The exported script of a machine in rescue refers to the site.
        needed.add(PROTOCOL_OPTIONS["http"])
    if spec.network == DHCP:
        # The script does not use the command, but this option adds DHCP.
        needed.add("DHCP_CMD")
    if not is_address(spec.host):
        needed.add("DNS_RESOLVER")
    if spec.serial_console:
        needed.add("CONSOLE_SERIAL")
    return frozenset(needed)


def option_values(spec: ScriptSpec) -> dict[str, int]:
    """The values of build options that the script needs, by their names in iPXE's headers; see config/dhcp.h."""
    if spec.network != DHCP or spec.dhcp_wait <= DHCP_WAIT:
        return {}
    # iPXE waits 1, 2, 4, … s between its requests, up to this value.
    longest = spec.dhcp_silence // 2
    return {"DHCP_DISC_END_TIMEOUT_SEC": longest, "DHCP_REQ_END_TIMEOUT_SEC": longest}
