"""Where a request really comes from: the peer, or what trusted proxies say of it.

What NICs ask, log-in, API and admin all read it here. An address that cannot be read is unknown, and never the proxy's
own: whoever may ask from there would be anybody.
"""

import re
from collections.abc import Iterable

from django.conf import settings
from django.http import HttpRequest

from machines.addresses import IPAddress, IPNetwork, parse_ip

_PORT = r"(?::[0-9]{1,5})?"
#: An address as proxies write it: `192.0.2.7`, with a port (Azure's gateway, IIS); IPv6 plain, or in brackets with or
#: without a port. RFC 7239 quotes the latter, and so do some that write X-Forwarded-For.
_HOP = re.compile(rf"(?P<v4>[0-9.]+){_PORT}|\[(?P<bracketed>[^\]]*:[^\]]*)\]{_PORT}|(?P<v6>[^\[\]]*:[^\[\]]*)")


def source_of(request: HttpRequest) -> IPAddress | None:
    """The address that a request comes from, behind the proxies that the site trusts; None where it is unknown."""
    return source_address(
        request.META.get("REMOTE_ADDR", ""),
        # Of several such headers the server makes one list, in their order.
        request.META.get("HTTP_X_FORWARDED_FOR"),
        trusted=settings.RESCUESITE_TRUSTED_PROXIES,
        trust_unix_peer=settings.RESCUESITE_TRUST_UNIX_PEER,
    )


def source_address(
    peer: str, forwarded_for: str | None, *, trusted: Iterable[IPNetwork] = (), trust_unix_peer: bool = False
) -> IPAddress | None:
    """Return the address that asked; None where it is unknown. Pure. `peer` is empty for a Unix socket.

    Without the header (None), a trusted proxy asks for itself.

    X-Forwarded-For is read from the right, as each proxy appends the address that it saw: the first that is not
    itself a trusted proxy is the source, and whatever stands to its left is hearsay. Empty entries are skipped (RFC
    9110, 5.6.1). An entry on the way that is no address makes the source unknown, and so does a list without entries.
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
    """The address in an entry of X-Forwarded-For; None where it is none, such as `unknown`."""
    if len(hop) > 1 and hop[0] == hop[-1] == '"':
        hop = hop[1:-1]
    match = _HOP.fullmatch(hop)
    return parse_ip(match["v4"] or match["bracketed"] or match["v6"]) if match else None


def _is_in(address: IPAddress | None, networks: tuple[IPNetwork, ...]) -> bool:
    return address is not None and any(address in network for network in networks)
