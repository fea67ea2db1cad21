"""The form in which staff order a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.safestring import mark_safe

from machines.boot.http import base_url
from machines.models import Actor
from roms.admin.jobs import OrderForm
from roms.models import TARGETS, Build, Card, Profile
from roms.toolchain.ipxe.build import Target
from roms.toolchain.ipxe.script.spec import DHCP, VARIABLES, ScriptError, ScriptSpec, StaticNetwork, from_json

_DEFAULTS = ScriptSpec("http://192.0.2.1")
_ADDRESSES = ("ip", "netmask", "gateway", "dns")
_NUMBERS = ("tries", "timeout", "link_wait", "stp_wait", "dhcp_wait", "nic")


class BuildForm(OrderForm):
    """The choices for a ROM. The model and the script spec validate them; this form shows each error at its field."""

    fieldsets = (
        ("The ROM", {"fields": ("card", "target", "profile", "options", "banner")}),
        (
            "The script in it",
            {
                "fields": (
                    "source",
                    "site",
                    "network",
                    ("ip", "netmask"),
                    ("gateway", "dns"),
                    "variables",
                    ("tries", "timeout"),
                    ("link_wait", "stp_wait", "dhcp_wait"),
                    "nic",
                    "serial_console",
                    "text",
                )
            },
        ),
    )

    FROM_FORM, BY_HAND = "form", "hand"
    STATIC = "static"

    target = forms.ChoiceField(choices=TARGETS, initial=Target.ROM, label="What to make")
    profile = forms.ChoiceField(choices=Profile, initial=Profile.MINIMAL, label="Features")
    options = forms.CharField(
        required=False,
        label="Single options",
        help_text="Names from iPXE's config headers, one per line: NAME, NAME=off or NAME=20.",
        widget=forms.Textarea(attrs={"rows": 2, "cols": 40, "class": "machine-text", "spellcheck": "false"}),
    )
    banner = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=600,
        label="Banner timeout",
        help_text="How long the ROM shows its prompt at power-on, in tenths of a second. Empty: iPXE's default.",
    )
    source = forms.ChoiceField(
        choices=[(FROM_FORM, "made from this form"), (BY_HAND, "written by hand")],
        initial=FROM_FORM,
        label="The script is",
        widget=forms.RadioSelect,
    )
    site = forms.CharField(
        required=False,
        label="Address of the site",
        help_text=mark_safe(
            "The address at which network cards reach this site, such as http://192.0.2.10:8000 or https://… "
            "Or one file per machine from another server; <code>manage.py export_boot</code> writes these files: "
            '<button type="button" class="take" data-file="ftp">FTP</button> '
            '<button type="button" class="take" data-file="tftp">TFTP</button> '
            '<button type="button" class="take" data-file="http">HTTP</button>'
        ),
        widget=forms.TextInput(attrs={"class": "machine-text", "size": 44, "spellcheck": "false"}),
    )
    network = forms.ChoiceField(
        choices=[(DHCP, "DHCP"), (STATIC, "static: this ROM is for one machine only")],
        initial=DHCP,
        label="Network settings",
        widget=forms.RadioSelect,
    )
    ip = forms.CharField(required=False, label="Address", max_length=40)
    netmask = forms.CharField(required=False, label="Netmask", max_length=40)
    gateway = forms.CharField(required=False, label="Gateway", max_length=40)
    dns = forms.CharField(required=False, label="DNS server", max_length=40)
    variables = forms.MultipleChoiceField(
        choices=[(name, name) for name in VARIABLES],
        initial=list(VARIABLES),
        required=False,
        label="Values to send",
        help_text="The ROM always sends mac and ip as well.",
        widget=forms.CheckboxSelectMultiple,
    )
    tries = forms.IntegerField(required=False, initial=_DEFAULTS.tries, label="Tries")
    timeout = forms.IntegerField(required=False, initial=_DEFAULTS.timeout, label="Timeout per try (s)")
    link_wait = forms.IntegerField(required=False, initial=_DEFAULTS.link_wait, label="Wait for a link (s)")
    stp_wait = forms.IntegerField(
        required=False,
        initial=_DEFAULTS.stp_wait,
        label="Slow spanning tree (s)",
        help_text="An extra wait at every power-on, for a switch port that forwards late and does not report it.",
    )
    dhcp_wait = forms.IntegerField(
        required=False,
        initial=_DEFAULTS.dhcp_wait,
        label="Wait for DHCP (s)",
        help_text="For a late DHCP server or relay: up to 15, 31 or 63 s. If none answers, the ROM waits this long.",
    )
    nic = forms.IntegerField(
        required=False,
        label="Only card number",
        help_text="iPXE counts the cards that the ROM drives, from 0. Empty: the ROM tries each card in turn.",
    )
    serial_console = forms.BooleanField(required=False, label="Serial console: show the output on COM1 too")
    text = forms.CharField(
        required=False,
        strip=False,
        label="Script",
        help_text="Starts with #!ipxe. The site cannot tell how long such a script delays the boot from disk.",
        widget=forms.Textarea(
            attrs={"rows": 16, "cols": 80, "class": "vLargeTextField machine-text", "spellcheck": "false"}
        ),
    )

    field_order = ("card", "target", "profile")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["card"] = forms.ModelChoiceField(
            Card.objects.all(),
            required=False,
            widget=AutocompleteSelect(Build._meta.get_field("card"), admin.site),
            help_text="Type a part of the name or the PCI ID.",
        )
        self.order_fields(self.field_order)
        for name in ("banner", *_NUMBERS):
            self.fields[name].widget.attrs["class"] = "rom-number"
        for name in _ADDRESSES:
            self.fields[name].widget.attrs |= {"class": "machine-text", "size": 16}

    def clean(self) -> dict[str, Any]:
        """Make and check the build; an error in one field does not hide the errors in others."""
        values = super().clean() or {}
        script = values.get("text", "") if self.is_by_hand else self._spec(values)
        given = {name: values[name] for name in ("card", "target", "profile", "banner") if name in values}
        self.order = Build.of(script or "", **given, options=self.single_options())
        try:
            self.order.full_clean(exclude=set(self.errors))
        except ValidationError as error:
            self.add_model_errors(error)
        return values

    @property
    def is_by_hand(self) -> bool:
        return self.cleaned_data.get("source") == self.BY_HAND

    def _spec(self, values: Mapping[str, Any]) -> ScriptSpec | None:
        try:
            return from_json(self._spec_json(values))
        except ScriptError as error:
            for name, message in error.errors.items():
                self.add_error(name.removeprefix("network."), message)
            return None

    def _spec_json(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The spec as JSON. An invalid number is left out: it has an error of its own."""
        data: dict[str, Any] = {
            "site": values.get("site", ""),
            "network": DHCP,
            "variables": values.get("variables", []),
            "serial_console": values.get("serial_console", False),
        }
        if values.get("network") == self.STATIC:
            data["network"] = {name: values.get(name, "") for name in _ADDRESSES}
        numbers = {name: values.get(name) for name in _NUMBERS}
        return data | {name: value for name, value in numbers.items() if value is not None}

    def single_options(self) -> list[str]:
        return [line.strip() for line in self.cleaned_data.get("options", "").splitlines() if line.strip()]

    def submit(self, actor: Actor) -> Build:
        return self.order.submit(actor)

    def add_model_errors(self, error: ValidationError) -> None:
        """Show the errors of the model at fields that have no error yet."""
        errors = {name: texts for name, texts in error.message_dict.items() if name not in self.errors}
        script = errors.pop("script", [])
        # The fields of the spec show its errors already.
        if script and self.is_by_hand:
            errors["text"] = script
        super().add_model_errors(ValidationError(errors))

    @classmethod
    def default(cls, request: HttpRequest) -> dict[str, Any]:
        return {"site": base_url(request)}

    @classmethod
    def order_of(cls, build: Build) -> dict[str, Any]:
        """The form's values for a build like this one."""
        values: dict[str, Any] = {name: getattr(build, name) for name in ("card", "target", "profile", "banner")}
        values |= {"options": "\n".join(build.options), "text": build.script}
        if (spec := build.spec) is None:
            return values | {"source": cls.BY_HAND}
        values |= {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "network"}
        if isinstance(spec.network, StaticNetwork):
            return values | {"network": cls.STATIC} | {name: getattr(spec.network, name) for name in _ADDRESSES}
        return values
