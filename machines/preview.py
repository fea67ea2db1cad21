"""“What would this machine be told?”: the decision and the script for an imagined request."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote, urlencode

from machines.addresses import parse_ip
from machines.boot.handler import Answer, preview
from machines.boot.request import BootRequest
from machines.models import Machine


class ImaginedRequest(NamedTuple):
    """The values of an imagined boot request. `query` has further parameters, as in a URL."""

    mac: str
    source: str
    ip: str = ""
    query: str = ""
    user_agent: str = ""


def imagined(request: ImaginedRequest) -> Answer:
    """Return the answer of the site. This changes nothing, and the script contains no real token."""
    boot_request = BootRequest.parse(request.query, source=parse_ip(request.source), user_agent=request.user_agent)
    return preview(replace(boot_request, mac=request.mac, raw_mac=request.mac, ip=parse_ip(request.ip)))


def likely_request(machine: Machine) -> ImaginedRequest:
    """Return the initial values of the form: those of the last request, or values that match networks and identity."""
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
