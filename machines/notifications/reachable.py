"""The addresses that webhooks may use: public addresses of other hosts. Without Django.

Python's lists of special networks are as old as its release. This module adds later entries of IANA's registries.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from machines.addresses import IPAddress, IPNetwork

#: Special networks that Python 3.11 regards as global.
#: https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry
_SPECIAL = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")))
#: The only part of IPv6 with public addresses of hosts.
#: https://www.iana.org/assignments/ipv6-address-space
_UNICAST = ip_network("2000::/3")
#: The metadata services of clouds that are not link-local: Azure, Alibaba, Oracle, AWS, Google.
_CLOUDS = frozenset(
    map(ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
#: NAT64 (RFC 6052). The last 32 bits are an IPv4 address.
_NAT64 = ip_network("64:ff9b::/96")
#: The last 32 bits may be an IPv4 address: local NAT64 (RFC 8215), and IPv4-compatible addresses (RFC 4291, withdrawn).
_MAY_EMBED = (ip_network("64:ff9b:1::/48"), ip_network("::/96"))


def objection(address: IPAddress, allowed: Sequence[IPNetwork]) -> str:
    """Return why webhooks may not use `address`; empty if they may.

    `allowed` are the networks in RESCUESITE_WEBHOOK_NETWORKS. They cannot allow link-local addresses and metadata
    services of clouds. They allow an address of this host only as a loopback network or as a single address.
    """
    return next(filter(None, (_objection(target, allowed) for target in _targets(address))), "")


def _objection(address: IPAddress, allowed: Sequence[IPNetwork]) -> str:
    named = [network for network in allowed if address in network]
    if address.is_link_local or address in _CLOUDS:
        kind = "belongs to a metadata service of a cloud" if address in _CLOUDS else "is a link-local address"
        return f"{address} {kind}"
    if address.is_loopback or address.is_unspecified:
        return "" if any(network.is_loopback for network in named) else f"{address} is this host itself"
    if address.is_multicast:
        return f"{address} is a multicast address"
    if is_own(address):
        return "" if any(network.num_addresses == 1 for network in named) else f"{address} is this host itself"
    if not _is_public(address) and not named:
        return f"{address} is not a public address, and RESCUESITE_WEBHOOK_NETWORKS does not allow it"
    return ""


def _is_public(address: IPAddress) -> bool:
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and (address.version == 4 or address in _UNICAST)


def _targets(address: IPAddress) -> Iterator[IPAddress]:
    """Yield the addresses that packets to `address` may reach: itself, or IPv4 addresses embedded in it."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        yield address
        return
    inner = address.ipv4_mapped or address.sixtofour or (_last_bits(address) if address in _NAT64 else None)
    yield inner or address
    if any(address in network for network in _MAY_EMBED):
        yield _last_bits(address)
    yield from address.teredo or ()


def _last_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)


def is_own(address: IPAddress) -> bool:
    """Whether `address` belongs to this host, on any interface.

    This asks the kernel's routing table (rtnetlink(7), RTM_GETROUTE). A list of the interfaces would miss local routes,
    and bind() may accept any address, depending on a sysctl. Raises OSError if the kernel does not answer.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    destination = struct.pack("=HH", 4 + len(address.packed), _RTA_DST) + address.packed
    route = struct.pack("=8BI", family, address.max_prefixlen, *bytes(6), 0)
    length = _HEADER.size + len(route) + len(destination)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(5)
        kernel.sendto(_HEADER.pack(length, _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + route + destination, (0, 0))
        answer = kernel.recv(65536)
    # The answer is an error if there is no route.
    return _HEADER.unpack_from(answer)[1] == _RTM_NEWROUTE and answer[_HEADER.size + 7] == _RTN_LOCAL


_HEADER = struct.Struct("=IHHII")
_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST, _RTA_DST, _RTN_LOCAL = 24, 26, 1, 1, 2
