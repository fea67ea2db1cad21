"""“What would this machine be told?”: the decision and the script for a request that somebody imagines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from django import forms

from machines.addresses import parse_ip
from machines.boot.answering import Answer, preview
from machines.boot.request import BootRequest
from machines.models import Machine


class PreviewForm(forms.Form):
    """An imagined request of one of the machine's cards."""

    mac = forms.ChoiceField(label="MAC address")
    source = forms.GenericIPAddressField(label="Request comes from")
    ip = forms.GenericIPAddressField(label="Address that the card claims", required=False)
    query = forms.CharField(
        label="What else it says",
        required=False,
        max_length=2000,
        help_text="As in the address: uuid=…&serial=…&buildarch=x86_64",
        widget=forms.TextInput(attrs={"class": "vLargeTextField"}),
    )
    user_agent = forms.CharField(label="User-Agent", required=False, max_length=256)

    def __init__(self, machine: Machine, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["mac"].choices = [(mac.address, mac.address) for mac in machine.macs.all()]  # type: ignore[attr-defined]

    def answer(self) -> Answer:
        values = self.cleaned_data
        asked = BootRequest.parse(values["query"], source=parse_ip(values["source"]), user_agent=values["user_agent"])
        return preview(replace(asked, mac=values["mac"], raw_mac=values["mac"], ip=parse_ip(values["ip"] or "")))


def likely_request(machine: Machine) -> dict[str, str]:
    """What the machine said last, or what its networks and identity let expect; initial values for the form."""
    mac = machine.macs.first()
    contact = getattr(machine, "contact", None)
    if contact and machine.macs.filter(address=contact.mac).exists():
        said = urlencode(contact.said, quote_via=quote)
        return {
            "mac": contact.mac,
            "source": contact.source or "",
            "ip": contact.ip or "",
            "query": said,
            "user_agent": contact.user_agent,
        }
    networks = machine.network_rule
    source = str(networks[0].network_address) if networks else ""
    expected = {name: value for name, value in machine.identity.items() if name != "user_agent"}
    return {
        "mac": mac.address if mac else "",
        "source": source,
        "ip": source,
        "query": urlencode(expected, quote_via=quote),
        "user_agent": machine.identity.get("user_agent", ""),
    }
