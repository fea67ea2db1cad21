"""What a network card said when it asked: a boot request, parsed from bytes that nobody vouches for. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from machines.addresses import AddressError, IPAddress, normalise_mac, parse_ip

#: iPXE settings that the site understands besides `mac` and `ip`; https://ipxe.org/cfg
UNDERSTOOD = (
    *("uuid", "serial", "asset", "manufacturer", "product", "hostname", "netmask", "gateway", "dns"),
    *("platform", "buildarch", "version"),
)
#: How a card is told to send them, in the order of scripts that are in chips already. netX is the card that was opened
#: last: the one that asks. `:uristring` keeps a space or an `&` in what a vendor wrote from breaking the address.
#: Letters outside ASCII arrive mangled (%FFFFFFC3 for %C3), and iPXE expands a `${…}` within a value too: neither can
#: be helped here.
SETTINGS: Final[Mapping[str, str]] = {
    "uuid": "${uuid}",
    "serial": "${serial:uristring}",
    "asset": "${asset:uristring}",
    "manufacturer": "${manufacturer:uristring}",
    "product": "${product:uristring}",
    "hostname": "${hostname:uristring}",
    "dns": "${netX/dns}",
    "gateway": "${netX/gateway}",
    "netmask": "${netX/netmask}",
    "platform": "${platform}",
    "buildarch": "${buildarch}",
    "version": "${version:uristring}",
}
MAX_VALUE = 256
MAX_NAME = 32
MAX_EXTRA = 16
MAX_PAIRS = 128


@dataclass(frozen=True)
class BootRequest:
    """One question of a network card. Every text in it is bounded and holds no control character."""

    mac: str | None
    raw_mac: str
    ip: IPAddress | None
    source: IPAddress | None
    user_agent: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    #: The address of the site that was asked; empty where that is not known.
    site: str = ""

    @classmethod
    def parse(cls, query: str, *, source: IPAddress | None, user_agent: str = "", site: str = "") -> "BootRequest":
        """Read a raw query string. Never raises: what makes no sense is left out or cut short."""
        values = _pairs(query)
        raw_mac = values.pop("mac", "")
        claimed = values.pop("ip", "")
        params = {name: value for name in UNDERSTOOD if (value := values.pop(name, ""))}
        return cls(
            mac=_mac_or_none(raw_mac),
            raw_mac=raw_mac,
            ip=parse_ip(claimed),
            source=source,
            user_agent=clean(user_agent, MAX_VALUE),
            params=params,
            extra=dict(list(values.items())[:MAX_EXTRA]),
            site=site,
        )

    def value(self, name: str) -> str:
        """What the request says for an identity's `name`; empty where it says nothing."""
        if name == "user_agent":
            return self.user_agent
        return self.params.get(name, "")


def clean(text: str, limit: int) -> str:
    """Cut `text` to `limit` characters, with a replacement character for each that cannot be shown or stored."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit])


def _pairs(query: str) -> dict[str, str]:
    """Decode a query string; the last of several values counts, as in PHP.

    A literal `+` stays one: iPXE writes a space as %20 and, until mid-2026, did not escape the `+` of its own
    version number or of a serial.
    """
    values: dict[str, str] = {}
    for pair in query.split("&", MAX_PAIRS)[:MAX_PAIRS]:
        name, _, value = pair.partition("=")
        name = clean(unquote(name, errors="replace"), MAX_NAME)
        if name:
            values[name] = clean(unquote(value, errors="replace"), MAX_VALUE)
    return values


def _mac_or_none(text: str) -> str | None:
    try:
        return normalise_mac(text)
    except AddressError:
        return None
