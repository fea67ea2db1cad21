"""Find the source address of a request: the peer, or the address that trusted proxies report.

Boot requests, logins, the API and the admin all use it. An address that cannot be parsed is unknown. It must never
become the proxy's address: then every client could use the rights of that address.
"""

import re
from collections.abc import Iterable

from django.conf import settings
from django.http import HttpRequest

from machines.addresses import IPAddress, IPNetwork, parse_ip

_PORT = r"(?::[0-9]{1,5})?"
#: An address as proxies write it: IPv4 with or without a port (Azure's gateway, IIS), IPv6 plain, or IPv6 in brackets
#: with or without a port. RFC 7239 quotes the last form. Some proxies quote it in X-Forwarded-For too.
_HOP = re.compile(rf"(?P<v4>[0-9.]+){_PORT}|\[(?P<bracketed>[^\]]*:[^\]]*)\]{_PORT}|(?P<v6>[^\[\]]*:[^\[\]]*)")


def source_of(request: HttpRequest) -> IPAddress | None:
    """Return the source address of a request, behind trusted proxies; None if it is unknown."""
    return source_address(
        request.META.get("REMOTE_ADDR", ""),
        # The server joins several such headers in their order.
        request.META.get("HTTP_X_FORWARDED_FOR"),
        trusted=settings.RESCUESITE_TRUSTED_PROXIES,
        trust_unix_peer=settings.RESCUESITE_TRUST_UNIX_PEER,
    )


def source_address(
    peer: str, forwarded_for: str | None, *, trusted: Iterable[IPNetwork] = (), trust_unix_peer: bool = False
) -> IPAddress | None:
    """Return the source address; None if it is unknown. Pure. `peer` is empty for a Unix socket.

    Without the header (None), the source is the peer, even if it is a trusted proxy.

    X-Forwarded-For is read from the right, because each proxy appends the address of its client. The first address that
    is not a trusted proxy is the source. Entries to its left are not trusted. Empty entries are skipped (RFC 9110,
    5.6.1). If an entry on the way is not an address, or there are no entries, the source is unknown.
    """
    trusted = tuple(trusted)
    source = parse_ip(peer)
    if forwarded_for is None or not (_is_in(source, trusted) or (trust_unix_peer and not peer)):
        return source
    source = None
    for hop in filter(None, map(str.strip, reversed(forwarded_for.split(",")))):
        source = _address(hop)
        if not _is_in(source, trusted):
            break
    return source


def _address(hop: str) -> IPAddress | None:
    """Return the address in an entry of X-Forwarded-For; None if there is no address, as in `unknown`."""
    if len(hop) > 1 and hop[0] == hop[-1] == '"':
        hop = hop[1:-1]
    match = _HOP.fullmatch(hop)
    return parse_ip(match["v4"] or match["bracketed"] or match["v6"]) if match else None


def _is_in(address: IPAddress | None, networks: tuple[IPNetwork, ...]) -> bool:
    return address is not None and any(address in network for network in networks)
