"""Where a request really comes from. Pure."""

from collections.abc import Iterable

from machines.addresses import IPAddress, IPNetwork, parse_ip


def source_address(
    peer: str, forwarded_for: str, *, trusted: Iterable[IPNetwork] = (), trust_unix_peer: bool = False
) -> IPAddress | None:
    """Return the address that asked: the peer's, or what trusted proxies say of it.

    X-Forwarded-For is read from the right, as each proxy appends the address that it saw: the first that is not
    itself a trusted proxy is the source, and whatever stands to its left is hearsay. An entry that is no address
    ends the walk at the proxy that passed it on. `peer` is empty for a Unix socket.
    """
    trusted = tuple(trusted)
    source = parse_ip(peer)
    if not (trust_unix_peer if source is None else _is_in(source, trusted)):
        return source
    for hop in reversed(forwarded_for.split(",")):
        address = parse_ip(hop)
        if address is None:
            break
        source = address
        if not _is_in(address, trusted):
            break
    return source


def _is_in(address: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address in network for network in networks)
