"""“What would this machine be told?”: the form for an imagined request."""

from __future__ import annotations

from typing import Any

from django import forms

from machines.boot.handler import Answer
from machines.models import Machine
from machines.preview import ImaginedRequest, imagined


class PreviewForm(forms.Form):
    """An imagined request of one of the machine's network cards."""

    mac = forms.ChoiceField(label="MAC address")
    source = forms.GenericIPAddressField(label="Request comes from")
    ip = forms.GenericIPAddressField(label="IP address that the card sends", required=False)
    query = forms.CharField(
        label="Other parameters",
        required=False,
        max_length=2000,
        help_text="As in the URL: uuid=…&serial=…&buildarch=x86_64",
        widget=forms.TextInput(attrs={"class": "vLargeTextField"}),
    )
    user_agent = forms.CharField(label="User-Agent", required=False, max_length=256)

    def __init__(self, machine: Machine, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["mac"].choices = [(mac.address, mac.address) for mac in machine.macs.all()]  # type: ignore[attr-defined]

    def answer(self) -> Answer:
        values = self.cleaned_data
        return imagined(ImaginedRequest(**{name: values[name] or "" for name in ImaginedRequest._fields}))
