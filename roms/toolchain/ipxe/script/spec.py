"""What the script that a ROM embeds asks, how and how often. Pure; `render` makes the text, https://ipxe.org/scripting.

It needs iPXE v2.0.0 (`iflinkwait`, `ifconf --timeout`). roms/embedded/boot.ipxe does the same in a text for readers and
for an older iPXE, with looser bounds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from machines.boot.request import SETTINGS

DHCP: Final = "dhcp"
#: What can be sent besides `mac` and `ip`, which are always sent, and the iPXE setting that knows it.
VARIABLES: Final = SETTINGS
#: What the path of a file per machine may hold, and what becomes of it: the plain setting is the first card's.
PLACEHOLDERS: Final[Mapping[str, str]] = {
    "${mac:hexraw}": "${netX/mac:hexraw}",
    "${mac:hexhyp}": "${netX/mac:hexhyp}",
}
DEFAULT_PATH: Final = "/boot"
MAX_SITE: Final = 255

#: iPXE asks for an address after 0, 1, 3 and 7 s, and gives up after 15 s (config/dhcp.h). What comes later answers a
#: question that is no longer asked, as the next round has another number.
DHCP_WAIT: Final = 15
#: It may wait longer where a switch says that it does not forward yet (spanning tree), or a server offers and never
#: confirms.
ADDRESS_TIMEOUT: Final = 60

#: The schemes of the site's address, and the build option that brings each.
PROTOCOL_OPTIONS: Final[Mapping[str, str]] = {
    "http": "DOWNLOAD_PROTO_HTTP",
    "https": "DOWNLOAD_PROTO_HTTPS",
    "ftp": "DOWNLOAD_PROTO_FTP",
    "tftp": "DOWNLOAD_PROTO_TFTP",
}
#: They fetch files, and have no query: each machine has a file of its own there.
_PLAIN = {"ftp", "tftp"}
_SITE = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<host>[^/:?#@\[\]]*)(?::(?P<port>[0-9]*))?(?P<path>/.*)?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_PATH = re.compile(r"(?:[A-Za-z0-9._~/+,=:@-]|%[2-9A-Fa-f][0-9A-Fa-f])*", re.ASCII)


class ScriptError(ValueError):
    """A spec or a text cannot be used; `errors` has one sentence for each field that is wrong."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        self.errors = dict(errors)
        super().__init__(" ".join(f"{field}: {message}" for field, message in self.errors.items()))


@dataclass(frozen=True)
class StaticNetwork:
    """An address that is written into the ROM. `netmask` may be a prefix length; `gateway` and `dns` may be empty."""

    ip: str
    netmask: str
    gateway: str = ""
    dns: str = ""

    def __post_init__(self) -> None:
        """Bring all addresses into their usual form. Raises ScriptError."""
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
            errors["ip"] = f"This is not a machine's address in the network {network}."
        if self.gateway:
            if ipaddress.IPv4Address(self.gateway) not in network:
                errors["gateway"] = f"It is not in the machine's network {network}."
            elif self.gateway == self.ip:
                errors["gateway"] = "It is the machine's own address."
        return errors


@dataclass(frozen=True)
class ScriptSpec:
    """What a rendered script asks, how and how often. Raises ScriptError where it cannot be made so.

    `nic` is the card by iPXE's number; None tries each in turn. There is only what the ROM's driver finds, in the order
    of the bus: a machine with one such card has net0 alone.
    `timeout` is how long one question may bring nothing new, `tries` how often the network is looked for and the site
    asked. `link_wait` is how long each card may take to find a cable; `stp_wait` is spent after that at every power-on,
    for a switch that forwards nothing at first and does not say so (ports without “portfast”). `dhcp_wait` is how late
    a DHCP server or relay may answer, rounded up to 15, 31 or 63 s, as iPXE doubles its pauses: spent where nobody
    answers.
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
        """Bring the site and the order of the variables into their usual form."""
        errors: dict[str, str] = {}
        try:
            object.__setattr__(self, "site", _normal_site(self.site))
        except ValueError as error:
            errors["site"] = str(error)
        if isinstance(self.network, str) and self.network != DHCP:
            errors["network"] = f"It is “{DHCP}”, or an address of its own."
        if unknown := sorted(set(self.variables) - set(VARIABLES)):
            errors["variables"] = f"Not known: {', '.join(map(repr, unknown))}. There are: {', '.join(VARIABLES)}."
        object.__setattr__(self, "variables", tuple(name for name in VARIABLES if name in self.variables))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                errors[name] = f"It is between {low} and {high}."
        if self.nic is not None and not 0 <= self.nic <= 31:
            errors["nic"] = "It is between 0 and 31, or left out."
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
        """After so many seconds without an answer DHCP gives up, or a little earlier: 16, 32 or 64."""
        return 1 << self.dhcp_wait.bit_length()

    @property
    def address_timeout(self) -> int:
        """How long getting an address may take in all, in seconds: an offer and its confirmation may both be late."""
        return max(ADDRESS_TIMEOUT, 2 * self.dhcp_silence)

    @property
    def asks(self) -> bool:
        """Whether the site is asked; else each machine fetches a file of its own."""
        return "${" not in self.site


_RANGES = (("tries", 1, 10), ("timeout", 1, 60), ("link_wait", 1, 60), ("stp_wait", 0, 60), ("dhcp_wait", 15, 60))


def from_json(data: object) -> ScriptSpec:
    """The spec that the API's JSON stands for. Raises ScriptError, with dots in the names of a network's fields."""
    if not isinstance(data, dict):
        raise ScriptError({"script": "It is an object."})
    known = {field.name for field in fields(ScriptSpec)}
    errors = {str(name): "There is no such field." for name in data if name not in known}
    for name, value in data.items():
        if name in known and (wrong := _wrong_type(name, value)):
            errors[name] = wrong
    if "site" not in data:
        errors["site"] = "It is required."
    values = {name: value for name, value in data.items() if name in known and name not in errors}
    if isinstance(network := values.get("network"), dict):
        try:
            values["network"] = _network_from_json(network)
        except ScriptError as error:
            errors |= error.errors
            del values["network"]
    values["variables"] = tuple(values.get("variables", VARIABLES))
    try:
        # The rest of the fields is looked at in any case: a form shows all that is wrong at once.
        spec = ScriptSpec(**{"site": "http://192.0.2.1", **values})
    except ScriptError as error:
        # What it says of a network concerns the site that stands in for the missing one.
        found = {name: text for name, text in error.errors.items() if "site" not in errors or "." not in name}
        raise ScriptError(found | errors) from None
    if errors:
        raise ScriptError(errors)
    return spec


def to_json(spec: ScriptSpec) -> dict[str, Any]:
    """The JSON that `from_json` makes the same spec of."""
    data: dict[str, Any] = {field.name: getattr(spec, field.name) for field in fields(spec)}
    data["variables"] = list(spec.variables)
    if isinstance(network := spec.network, StaticNetwork):
        data["network"] = {field.name: getattr(network, field.name) for field in fields(network)}
    return data


# Parsing


def _normal_site(site: str) -> str:
    """The address in its usual form, with a path. Raises ValueError with a sentence for a person."""
    if not isinstance(site, str) or not site.isascii() or not site.isprintable() or " " in site:
        raise ValueError("It may hold only printable ASCII characters, and no spaces.")
    if len(site) > MAX_SITE:
        raise ValueError(f"It is longer than {MAX_SITE} characters.")
    if not (match := _SITE.fullmatch(site)):
        raise ValueError(
            "Write it like http://192.0.2.10 or http://rescue.example.net:8000/boot, without user or query."
        )
    scheme, host = match["scheme"].lower(), match["host"].lower()
    if scheme not in PROTOCOL_OPTIONS:
        raise ValueError(f"It begins with {', '.join(f'{known}://' for known in PROTOCOL_OPTIONS)}.")
    _check_host(host)
    if match["port"] is not None and not 1 <= int(match["port"] or 0) <= 65535:
        raise ValueError("A port is between 1 and 65535.")
    path = match["path"] or "/"
    rest = path
    for placeholder in PLACEHOLDERS:
        rest = rest.replace(placeholder, "x")
    if not _PATH.fullmatch(rest):
        raise ValueError("Its path may hold letters, digits, -._~/+,=:@ and %41, and ${mac:hexraw}; there is no query.")
    if scheme in _PLAIN and rest == path:
        example = f"{scheme}://192.0.2.10/MAC-${{mac:hexraw}}.ipxe"
        raise ValueError(f"{scheme.upper()} cannot ask. Name a file per machine, like {example}.")
    port = f":{int(match['port'])}" if match["port"] else ""
    return f"{scheme}://{host}{port}{DEFAULT_PATH if path == '/' else path}"


def _check_host(host: str) -> None:
    if re.fullmatch(r"[0-9.]+", host):
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"“{host}” is not a valid IPv4 address.") from None
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            raise ValueError(f"A network card cannot reach {host}; name the address that it has for other machines.")
    elif len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError(f"“{host}” is not a valid host name or IPv4 address.")
    elif host == "localhost":
        raise ValueError("A network card's “localhost” is not the site's.")


def _parts(site: str) -> dict[str, str]:
    match = _SITE.fullmatch(site)
    assert match, "normal_site lets no other pass"
    return match.groupdict()


def is_address(host: str) -> bool:
    return re.fullmatch(r"[0-9.]+", host) is not None


def _unreachable(host: str, network: StaticNetwork) -> dict[str, str]:
    if not is_address(host):
        return {} if network.dns else {"network.dns": f"It is needed, as the site is given by its name {host}."}
    if host == network.ip:
        return {"network.ip": "It is the site's address."}
    if not network.gateway and ipaddress.IPv4Address(host) not in network.network:
        return {"network.gateway": f"It is needed, as the site is outside the machine's network {network.network}."}
    return {}


def _network(netmask: str) -> ipaddress.IPv4Network:
    """A network with that mask. Raises ValueError; ipaddress alone would take 0.0.0.255 for a mask too."""
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
        errors[name] = "This is not a machine's address."
    object.__setattr__(network, name, str(address))


def _network_from_json(data: Mapping[str, object]) -> StaticNetwork:
    names = [field.name for field in fields(StaticNetwork)]
    errors = {f"network.{name}": "There is no such field." for name in data if name not in names}
    errors |= {f"network.{name}": "It is a text." for name in names if not isinstance(data.get(name, ""), str)}
    errors |= {f"network.{name}": "It is required." for name in ("ip", "netmask") if name not in data}
    if errors:
        raise ScriptError(errors)
    try:
        return StaticNetwork(**{name: str(data.get(name, "")) for name in names})
    except ScriptError as error:
        raise ScriptError({f"network.{name}": message for name, message in error.errors.items()}) from None


def _wrong_type(name: str, value: object) -> str:
    """What is wrong with the type of a JSON value; the values themselves are looked at by the spec."""
    if name == "serial_console":
        return "" if isinstance(value, bool) else "It is true or false."
    if name == "variables":
        texts = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        return "" if texts else "It is a list of texts."
    if name == "network":
        return "" if isinstance(value, str | dict) else f"It is “{DHCP}” or an object."
    if name == "site":
        return "" if isinstance(value, str) else "It is a text."
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "" if whole or (name == "nic" and value is None) else "It is a whole number."
