"""The settings of the script that a ROM embeds. Pure. `render` writes the script; see https://ipxe.org/scripting.

The script needs iPXE v2.0.0 (`iflinkwait`, `ifconf --timeout`). roms/embedded/boot.ipxe is an example for readers and
for an older iPXE, with less strict time limits.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from machines.boot.request import SETTINGS

DHCP: Final = "dhcp"
#: The values that the script can send besides `mac` and `ip`, with their iPXE settings.
VARIABLES: Final = SETTINGS
#: Placeholders in the path of a file per machine, with their replacements. `${mac}` alone is that of the first card.
PLACEHOLDERS: Final[Mapping[str, str]] = {
    "${mac:hexraw}": "${netX/mac:hexraw}",
    "${mac:hexhyp}": "${netX/mac:hexhyp}",
}
DEFAULT_PATH: Final = "/boot"
MAX_SITE: Final = 255

#: iPXE sends DHCP requests after 0, 1, 3 and 7 s, and gives up after 15 s (config/dhcp.h). A later answer is lost,
#: because the next try has another transaction ID.
DHCP_WAIT: Final = 15
#: iPXE waits longer if a switch reports that it does not forward yet (spanning tree), or if a server sends an offer
#: but no confirmation.
ADDRESS_TIMEOUT: Final = 60

#: The schemes of the site's address, each with its build option.
PROTOCOL_OPTIONS: Final[Mapping[str, str]] = {
    "http": "DOWNLOAD_PROTO_HTTP",
    "https": "DOWNLOAD_PROTO_HTTPS",
    "ftp": "DOWNLOAD_PROTO_FTP",
    "tftp": "DOWNLOAD_PROTO_TFTP",
}
#: These schemes have no query. Each machine needs its own file.
_PLAIN = {"ftp", "tftp"}
_SITE = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<host>[^/:?#@\[\]]*)(?::(?P<port>[0-9]*))?(?P<path>/.*)?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_PATH = re.compile(r"(?:[A-Za-z0-9._~/+,=:@-]|%[2-9A-Fa-f][0-9A-Fa-f])*", re.ASCII)


class ScriptError(ValueError):
    """A spec or a script is not valid. `errors` has one message per field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        self.errors = dict(errors)
        super().__init__(" ".join(f"{field}: {message}" for field, message in self.errors.items()))


@dataclass(frozen=True)
class StaticNetwork:
    """A static address in the ROM. `netmask` may be a prefix length. `gateway` and `dns` may be empty."""

    ip: str
    netmask: str
    gateway: str = ""
    dns: str = ""

    def __post_init__(self) -> None:
        """Check and normalise all addresses. Raises ScriptError."""
        errors: dict[str, str] = {}
        for name in ("ip", "gateway", "dns"):
            text = getattr(self, name)
            if text or name == "ip":
                _checked_address(self, name, text, errors)
        try:
            network = _network(self.netmask)
            object.__setattr__(self, "netmask", str(network.netmask))
        except ValueError:
            errors["netmask"] = "Write it like 255.255.255.0 or 24."
        if not errors:
            errors = self._unfit()
        if errors:
            raise ScriptError(errors)

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((self.ip, self.netmask), strict=False)

    def _unfit(self) -> dict[str, str]:
        errors = {}
        network, ip = self.network, ipaddress.IPv4Address(self.ip)
        if network.prefixlen < 31 and ip in {network.network_address, network.broadcast_address}:
            errors["ip"] = f"This is not a valid host address in the network {network}."
        if self.gateway:
            if ipaddress.IPv4Address(self.gateway) not in network:
                errors["gateway"] = f"The gateway is not in the machine's network {network}."
            elif self.gateway == self.ip:
                errors["gateway"] = "This is the machine's own address."
        return errors


@dataclass(frozen=True)
class ScriptSpec:
    """The settings of a script. Raises ScriptError if they are not valid. All times are in seconds.

    `nic` is the number of the card in iPXE; None tries each card in turn. iPXE counts only cards that the ROM's driver
    supports, in the order of the bus: a machine with one such card has only net0.
    `tries`: how often the script tries the network and the site. `timeout`: how long a request may receive no data.
    `link_wait`: how long each card waits for a link. `stp_wait`: an extra wait at every power-on, for a switch port
    that forwards late and does not report it (without “portfast”). `dhcp_wait`: how late a DHCP server or relay may
    answer. iPXE doubles its pauses, so it waits 15, 31 or 63 s.
    """

    site: str
    network: StaticNetwork | str = DHCP
    variables: tuple[str, ...] = tuple(VARIABLES)
    tries: int = 3
    timeout: int = 8
    link_wait: int = 15
    stp_wait: int = 0
    dhcp_wait: int = DHCP_WAIT
    nic: int | None = None
    serial_console: bool = False

    def __post_init__(self) -> None:
        """Check all values, and normalise the site and the order of the variables."""
        errors: dict[str, str] = {}
        try:
            object.__setattr__(self, "site", _normal_site(self.site))
        except ValueError as error:
            errors["site"] = str(error)
        if isinstance(self.network, str) and self.network != DHCP:
            errors["network"] = f"Must be “{DHCP}” or a static address."
        if unknown := sorted(set(self.variables) - set(VARIABLES)):
            errors["variables"] = f"Unknown: {', '.join(map(repr, unknown))}. Choose from {', '.join(VARIABLES)}."
        object.__setattr__(self, "variables", tuple(name for name in VARIABLES if name in self.variables))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                errors[name] = f"Must be between {low} and {high}."
        if self.nic is not None and not 0 <= self.nic <= 31:
            errors["nic"] = "Must be between 0 and 31, or empty."
        if not errors and isinstance(self.network, StaticNetwork):
            errors = _unreachable(self.host, self.network)
        if errors:
            raise ScriptError(errors)

    @property
    def host(self) -> str:
        return _parts(self.site)["host"]

    @property
    def scheme(self) -> str:
        return _parts(self.site)["scheme"]

    @property
    def dhcp_silence(self) -> int:
        """DHCP gives up just before this many seconds without an answer: 16, 32 or 64."""
        return 1 << self.dhcp_wait.bit_length()

    @property
    def address_timeout(self) -> int:
        """The time limit for DHCP in seconds: the offer and the confirmation may both be late."""
        return max(ADDRESS_TIMEOUT, 2 * self.dhcp_silence)

    @property
    def asks(self) -> bool:
        """Whether the script asks the site. Otherwise each machine fetches its own file."""
        return "${" not in self.site


_RANGES = (("tries", 1, 10), ("timeout", 1, 60), ("link_wait", 1, 60), ("stp_wait", 0, 60), ("dhcp_wait", 15, 60))


def from_json(data: object) -> ScriptSpec:
    """The spec from the API's JSON. Raises ScriptError. Fields of the network are named `network.ip` and so on."""
    if not isinstance(data, dict):
        raise ScriptError({"script": "Must be an object."})
    known = {field.name for field in fields(ScriptSpec)}
    errors = {str(name): "There is no such field." for name in data if name not in known}
    for name, value in data.items():
        if name in known and (wrong := _wrong_type(name, value)):
            errors[name] = wrong
    if "site" not in data:
        errors["site"] = "This field is required."
    values = {name: value for name, value in data.items() if name in known and name not in errors}
    if isinstance(network := values.get("network"), dict):
        try:
            values["network"] = _network_from_json(network)
        except ScriptError as error:
            errors |= error.errors
            del values["network"]
    values["variables"] = tuple(values.get("variables", VARIABLES))
    try:
        # Check the other fields even if the site is missing: a form shows all errors at once.
        spec = ScriptSpec(**{"site": "http://192.0.2.1", **values})
    except ScriptError as error:
        # If the site is missing, ignore errors of the network that depend on the placeholder.
        found = {name: text for name, text in error.errors.items() if "site" not in errors or "." not in name}
        raise ScriptError(found | errors) from None
    if errors:
        raise ScriptError(errors)
    return spec


def to_json(spec: ScriptSpec) -> dict[str, Any]:
    """The spec as JSON for `from_json`."""
    data: dict[str, Any] = {field.name: getattr(spec, field.name) for field in fields(spec)}
    data["variables"] = list(spec.variables)
    if isinstance(network := spec.network, StaticNetwork):
        data["network"] = {field.name: getattr(network, field.name) for field in fields(network)}
    return data


# Parsing


def _normal_site(site: str) -> str:
    """The normalised address, with a path. Raises ValueError with a message for people."""
    if not isinstance(site, str) or not site.isascii() or not site.isprintable() or " " in site:
        raise ValueError("Use only printable ASCII characters without spaces.")
    if len(site) > MAX_SITE:
        raise ValueError(f"The address is longer than {MAX_SITE} characters.")
    if not (match := _SITE.fullmatch(site)):
        raise ValueError(
            "Write it like http://192.0.2.10 or http://rescue.example.net:8000/boot, without a user or query."
        )
    scheme, host = match["scheme"].lower(), match["host"].lower()
    if scheme not in PROTOCOL_OPTIONS:
        raise ValueError(f"The address must start with {', '.join(f'{known}://' for known in PROTOCOL_OPTIONS)}.")
    _check_host(host)
    if match["port"] is not None and not 1 <= int(match["port"] or 0) <= 65535:
        raise ValueError("The port must be between 1 and 65535.")
    path = match["path"] or "/"
    rest = path
    for placeholder in PLACEHOLDERS:
        rest = rest.replace(placeholder, "x")
    if not _PATH.fullmatch(rest):
        raise ValueError("The path may have letters, digits, -._~/+,=:@, %41 and ${mac:hexraw}, but no query.")
    if scheme in _PLAIN and rest == path:
        example = f"{scheme}://192.0.2.10/MAC-${{mac:hexraw}}.ipxe"
        raise ValueError(f"{scheme.upper()} has no query. Use one file per machine, for example {example}.")
    port = f":{int(match['port'])}" if match["port"] else ""
    return f"{scheme}://{host}{port}{DEFAULT_PATH if path == '/' else path}"


def _check_host(host: str) -> None:
    if re.fullmatch(r"[0-9.]+", host):
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"“{host}” is not a valid IPv4 address.") from None
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            raise ValueError(f"A network card cannot reach {host}. Write the site's address in the network.")
    elif len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError(f"“{host}” is not a valid host name or IPv4 address.")
    elif host == "localhost":
        raise ValueError("A network card cannot reach “localhost”. Write the site's address in the network.")


def _parts(site: str) -> dict[str, str]:
    match = _SITE.fullmatch(site)
    assert match, "_normal_site has checked it"
    return match.groupdict()


def is_address(host: str) -> bool:
    return re.fullmatch(r"[0-9.]+", host) is not None


def _unreachable(host: str, network: StaticNetwork) -> dict[str, str]:
    if not is_address(host):
        return {} if network.dns else {"network.dns": f"A DNS server is required to find the site {host}."}
    if host == network.ip:
        return {"network.ip": "This is the address of the site."}
    if not network.gateway and ipaddress.IPv4Address(host) not in network.network:
        return {"network.gateway": f"A gateway is required: the site is outside the network {network.network}."}
    return {}


def _network(netmask: str) -> ipaddress.IPv4Network:
    """A network with this netmask. Raises ValueError, also for 0.0.0.255, which ipaddress accepts."""
    text = netmask.removeprefix("/")
    network = ipaddress.IPv4Network(f"0.0.0.0/{text}")
    if not 1 <= network.prefixlen <= 31 or text not in {str(network.netmask), str(network.prefixlen)}:
        raise ValueError(netmask)
    return network


def _checked_address(network: StaticNetwork, name: str, text: str, errors: dict[str, str]) -> None:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        errors[name] = "Write it like 192.0.2.7."
        return
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved:
        errors[name] = "This is not a valid host address."
    object.__setattr__(network, name, str(address))


def _network_from_json(data: Mapping[str, object]) -> StaticNetwork:
    names = [field.name for field in fields(StaticNetwork)]
    errors = {f"network.{name}": "There is no such field." for name in data if name not in names}
    errors |= {f"network.{name}": "Must be a string." for name in names if not isinstance(data.get(name, ""), str)}
    errors |= {f"network.{name}": "This field is required." for name in ("ip", "netmask") if name not in data}
    if errors:
        raise ScriptError(errors)
    try:
        return StaticNetwork(**{name: str(data.get(name, "")) for name in names})
    except ScriptError as error:
        raise ScriptError({f"network.{name}": message for name, message in error.errors.items()}) from None


def _wrong_type(name: str, value: object) -> str:
    """The error if a JSON value has the wrong type. ScriptSpec checks the values."""
    if name == "serial_console":
        return "" if isinstance(value, bool) else "Must be true or false."
    if name == "variables":
        texts = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        return "" if texts else "Must be a list of strings."
    if name == "network":
        return "" if isinstance(value, str | dict) else f"Must be “{DHCP}” or an object."
    if name == "site":
        return "" if isinstance(value, str) else "Must be a string."
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "" if whole or (name == "nic" and value is None) else "Must be an integer."
