"""Parse MAC and IP addresses into the form in which the site stores and compares them. Pure, without Django."""

import ipaddress
import re
from collections.abc import Iterator

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The forms in which network cards, systems and switches write a MAC address, in lower case.
_MAC = r"""(?:
    [0-9a-f]{12}                                  # 0002b39d948c, iPXE's ${mac:hexraw}
    | [0-9a-f]{1,2}(?::[0-9a-f]{1,2}){5}          # 00:02:b3:9d:94:8c; 0:2:b3:9d:94:8c, as BSD prints it
    | [0-9a-f]{2}(?:(?P<pair>[-.])[0-9a-f]{2})(?:(?P=pair)[0-9a-f]{2}){4}  # 00-02-b3-9d-94-8c, ${mac:hexhyp}
    | [0-9a-f]{4}(?P<four>[-.:])[0-9a-f]{4}(?P=four)[0-9a-f]{4}  # 0002.b39d.948c, Cisco; 0002-b39d-948c, Huawei
    | [0-9a-f]{6}[-:][0-9a-f]{6}                  # 0002b3-9d948c, ProCurve
)"""
_MAC_FORM = re.compile(_MAC, re.VERBOSE | re.ASCII)
_HEX = "[0-9A-Fa-f]"
#: The same forms inside a text, but not inside a checksum, an IPv6 address or a longer hardware address.
_MAC_IN_TEXT = re.compile(
    rf"""(?<![0-9A-Za-z])(?<!\W{_HEX}[:.])(?<!\W{_HEX}{{2}}[:.])(?<!\W{_HEX}{{3}}[:.])(?<!\W{_HEX}{{4}}[:.])
        {_MAC} (?![0-9A-Za-z])(?![:-]{_HEX}{{1,4}}(?![0-9A-Za-z]))""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)


class AddressError(ValueError):
    """The text is not a valid address. The message explains the problem to people."""


def normalise_mac(text: str) -> str:
    """Return `text` as a MAC address in lower case with colons.

    Raises AddressError if it has a wrong form, or is the zero address or a multicast address (the lowest bit of the
    first octet, IEEE 802).
    """
    lowered = text.strip().lower()
    if not _MAC_FORM.fullmatch(lowered):
        raise AddressError(f"“{text[:40]}” is not a valid MAC address. Enter it like 00:02:b3:9d:94:8c.")
    parts = lowered.split(":")
    digits = "".join(part.zfill(2) for part in parts) if len(parts) == 6 else re.sub(r"[^0-9a-f]", "", lowered)
    if digits == "0" * 12 or int(digits[:2], 16) & 1:
        raise AddressError(f"“{text[:40]}” is not the address of a single network card.")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def macs_in(text: str) -> Iterator[tuple[int, str]]:
    """Yield the position and text of everything in `text` that looks like a MAC address, in linear time."""
    return ((found.start(), found.group()) for found in _MAC_IN_TEXT.finditer(text))


def with_usual_macs(text: str) -> str:
    """Return the words of a search, with MAC addresses in their stored form."""
    return " ".join(_usual_mac(word) for word in text.split())


def _usual_mac(word: str) -> str:
    try:
        return normalise_mac(word)
    except AddressError:
        return word


def hyphenated(mac: str) -> str:
    """Return a normalised MAC address with hyphens, as PXELINUX writes it in BOOTIF=01-<mac>."""
    return mac.replace(":", "-")


def parse_ip(text: str) -> IPAddress | None:
    """Return the address, or None if `text` is not an IP address.

    An IPv4-mapped IPv6 address (from a socket bound to [::]) becomes the IPv4 address. A zone index is dropped,
    because it has a meaning only on the host that wrote it.
    """
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def parse_network(text: str) -> IPNetwork:
    """Return the network of a host address or CIDR block. Raises AddressError.

    A block with host bits is an error, and the message suggests the network. Accepting it would widen an access rule
    without notice.
    """
    stripped = text.strip()
    try:
        network = ipaddress.ip_network(stripped)
    except ValueError:
        network = None
    if isinstance(network, ipaddress.IPv6Network) and (network.network_address.ipv4_mapped or "%" in stripped):
        raise AddressError(f"“{text[:60]}” would never match. Write IPv4 addresses without “::ffff:”. Leave out zones.")
    if network is not None:
        return network
    try:
        meant = ipaddress.ip_interface(stripped).network
    except ValueError:
        raise AddressError(
            f"“{text[:60]}” is not a valid address or network. Examples: 192.0.2.7, 192.0.2.0/24, 2001:db8::/64."
        ) from None
    raise AddressError(f"“{text[:60]}” is an address inside a network. Did you mean {meant}?")


def normalise_network(text: str) -> str:
    """Return `text` in the stored form of networks. A single host has no prefix length."""
    network = parse_network(text)
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return str(network)


def normalise_interfaces(text: str) -> str:
    """Return the addresses in `text` with their prefix lengths (192.0.2.7/24), separated by single spaces.

    Raises AddressError for what an interface cannot have, such as no prefix length or the address of the network.
    """
    return " ".join(str(_interface(word)) for word in _words(text))


def normalise_hosts(text: str) -> str:
    """Return the addresses of hosts in `text`, separated by single spaces. Raises AddressError."""
    return " ".join(str(_host(word)) for word in _words(text))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(text.replace(",", " ").split()))


def _interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    host, slash, _ = text.partition("/")
    if not slash:
        raise AddressError(f"“{text[:60]}” has no prefix length. Enter it like 192.0.2.7/24.")
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise AddressError(
            f"“{text[:60]}” is not a valid address with a prefix length. Enter it like 192.0.2.7/24."
        ) from None
    _host(host)
    network = interface.network
    if network.num_addresses > 2 and interface.ip == network.network_address:
        raise AddressError(f"“{text[:60]}” is the address of a network. Enter the address of the machine.")
    if interface.version == 4 and network.num_addresses > 2 and interface.ip == network.broadcast_address:
        raise AddressError(f"“{text[:60]}” is the broadcast address of its network.")
    return interface


def _host(text: str) -> IPAddress:
    address = None if "%" in text else parse_ip(text)
    if address is None:
        raise AddressError(f"“{text[:60]}” is not an IP address.")
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise AddressError(f"“{text[:60]}” is not the address of a host on a network.")
    return address
