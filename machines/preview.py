"""“What would this machine be told?”: the decision and the script for a request that somebody imagines."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote, urlencode

from machines.addresses import parse_ip
from machines.boot.handler import Answer, preview
from machines.boot.request import BootRequest
from machines.models import Machine


class ImaginedRequest(NamedTuple):
    """A boot request: whence it comes, the address that it claims, and what else it says, as in a URL."""

    mac: str
    source: str
    ip: str = ""
    query: str = ""
    user_agent: str = ""


def imagined(request: ImaginedRequest) -> Answer:
    """What the site would answer; changes nothing, and shows no token."""
    boot_request = BootRequest.parse(request.query, source=parse_ip(request.source), user_agent=request.user_agent)
    return preview(replace(boot_request, mac=request.mac, raw_mac=request.mac, ip=parse_ip(request.ip)))


def likely_request(machine: Machine) -> ImaginedRequest:
    """What the machine said last, or what its networks and identity let expect; initial values for the form."""
    mac = machine.macs.first()
    contact = getattr(machine, "contact", None)
    if contact and machine.macs.filter(address=contact.mac).exists():
        said = urlencode(contact.said, quote_via=quote)
        return ImaginedRequest(contact.mac, contact.source or "", contact.ip or "", said, contact.user_agent)
    networks = machine.parsed_networks
    source = str(networks[0].network_address) if networks else ""
    expected = {name: value for name, value in machine.identity.items() if name != "user_agent"}
    own = mac.address if mac else ""
    return ImaginedRequest(
        own, source, source, urlencode(expected, quote_via=quote), machine.identity.get("user_agent", "")
    )
