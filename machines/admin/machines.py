"""Machines: the list, and the page of a machine with its preview and its timeline."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from machines.admin.auditing import AuditingModelAdmin
from machines.admin.import_export import MachineTables
from machines.admin.preview import PreviewForm
from machines.admin.rescue import MAX_DIGITS, RescueSwitch
from machines.boot.reasons import reason_text
from machines.machine_fields import ALWAYS_EDITABLE, NETWORK, NETWORK_FIELDS, TEXTS
from machines.models import AllowedNetwork, MACAddress, Machine, Sighting
from machines.models.machine import MachineLockedError
from machines.models.rescue_terms import MAX_TRIES
from machines.models.turns import in_turns
from machines.preview import likely_request
from machines.smbios import is_placeholder
from machines.timeline import machine_timeline
from machines.wording import SHORT_STATES, STATES
from rescuesite.actors import actor_of

_FIELDS = ("name", "image", "identity", *TEXTS)
#: The fields that a user without the permission to enable rescue cannot change during a rescue.
_LOCKED_FIELDS = tuple(name for name in (*_FIELDS, *NETWORK_FIELDS) if name not in ALWAYS_EDITABLE)
#: The inlines: the name in `Machine.revise`, the model of the rows, and its column.
_PARTS = (("macs", MACAddress, "address"), ("allowed_networks", AllowedNetwork, "network"))


def may_touch(request: HttpRequest, machine: Machine | None) -> bool:
    return machine is None or machine.may_be_changed_by(request.user)


class PartOfMachineInline(admin.TabularInline[Any, Machine]):
    """The permissions of a machine apply to its addresses too."""

    extra = 0

    def get_extra(self, request: HttpRequest, obj: Machine | None = None, **kwargs: Any) -> int:
        return 0 if obj else 1

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machines.view_machine") or request.user.has_perm("machines.change_machine")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        needed = "machines.add_machine" if obj is None else "machines.change_machine"
        return request.user.has_perm(needed) and may_touch(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machines.change_machine") and may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machines.change_machine") and may_touch(request, obj)


class MACAddressInline(PartOfMachineInline):
    model = MACAddress


class AllowedNetworkInline(PartOfMachineInline):
    model = AllowedNetwork


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, SHORT_STATES[state]) for state in ("local", "armed", "booting", "up")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Machine]) -> QuerySet[Machine]:
        state = self.value()
        return queryset.filter(pk__in=Machine.objects.with_status(state).values("pk")) if state else queryset


class VerifiedFilter(admin.SimpleListFilter):
    title = "verification"
    parameter_name = "verified"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "unverified"), ("yes", "verified")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Machine]) -> QuerySet[Machine]:
        unverified = Machine.objects.unverified().values("pk")
        if self.value() == "no":
            return queryset.filter(pk__in=unverified)
        if self.value() == "yes":
            return queryset.exclude(pk__in=unverified)
        return queryset


class LastSeenFilter(admin.SimpleListFilter):
    title = "last seen"
    parameter_name = "seen"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("day", "in the last day"),
            ("month", "in the last 30 days"),
            ("older", "longer ago"),
            ("never", "never"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Machine]) -> QuerySet[Machine]:
        now = timezone.now()
        conditions = {
            "day": Q(contact__at__gte=now - timedelta(days=1)),
            "month": Q(contact__at__gte=now - timedelta(days=30)),
            "older": Q(contact__at__lt=now - timedelta(days=30)),
            "never": Q(contact__isnull=True),
        }
        return queryset.filter(conditions.get(self.value() or "", Q()))


@admin.register(Machine)
class MachineAdmin(RescueSwitch, MachineTables, AuditingModelAdmin):
    list_display = ("name", "state", "ends", "boots", "last_seen", "mac_addresses", "address", "verified")
    list_filter = (StateFilter, LastSeenFilter, VerifiedFilter, "image")
    list_per_page = 50
    show_full_result_count = False
    #: This only enables the search. MachineQuerySet.named defines the fields.
    search_fields = ("name",)
    search_help_text = "Name, MAC address in any form, IP address, serial number or UUID."
    fieldsets = (
        (None, {"fields": _FIELDS}),
        ("Network of the rescue system without DHCP", {"fields": NETWORK_FIELDS, "classes": ("collapse",)}),
    )
    autocomplete_fields = ("image",)
    inlines: ClassVar[tuple[Any, ...]] = (MACAddressInline, AllowedNetworkInline)
    actions = ("enable_rescue", "disable_rescue")
    change_form_template = "machines/machine_change_form.html"
    change_list_template = "machines/machine_change_list.html"

    class Media:
        js = ("machines/live.js",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Machine]:
        return Machine.objects.for_lists()

    def searched(self, request: HttpRequest, queryset: QuerySet[Machine], text: str) -> tuple[QuerySet[Machine], bool]:
        return queryset.filter(pk__in=Machine.objects.named(text).values("pk")), False

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "identity":
            kwargs["widget"] = forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField machine-text"})
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    # The list

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"may_import": self.may_import(request), **(extra_context or {})})

    @admin.display(description="state")
    def state(self, machine: Machine) -> SafeString:
        rescue = machine.active_rescue()
        state = rescue.status_at().state if rescue else "local"
        return format_html(
            '<span class="state state-{}" title="{}">{}</span>', state, STATES[state], SHORT_STATES[state]
        )

    @admin.display(description="rescue ends")
    def ends(self, machine: Machine) -> str:
        rescue = machine.active_rescue()
        return rescue.ending() if rescue else ""

    @admin.display(description="image", ordering="image__name")
    def boots(self, machine: Machine) -> str:
        rescue = machine.active_rescue()
        return rescue.image_name if rescue else str(machine.image or "default")

    @admin.display(description="last seen", ordering="contact__at")
    def last_seen(self, machine: Machine) -> SafeString | str:
        contact = getattr(machine, "contact", None)
        if contact is None:
            return "never"
        when = f"{timezone.localtime(contact.at):%Y-%m-%d %H:%M:%S}"
        return format_html('<span title="{}">{} ago</span>', when, timesince(contact.at).split(",")[0])

    @admin.display(description="MAC")
    def mac_addresses(self, machine: Machine) -> SafeString:
        return format_html_join("", "<code>{}</code><br>", ((mac.address,) for mac in machine.macs.all()))

    @admin.display(description="address", ordering="contact__source")
    def address(self, machine: Machine) -> str:
        contact = getattr(machine, "contact", None)
        return (contact.source or "") if contact else ""

    @admin.display(description="verified", boolean=True)
    def verified(self, machine: Machine) -> bool:
        return not machine.is_unverified

    # The page of one machine

    def has_delete_permission(self, request: HttpRequest, obj: Machine | None = None) -> bool:
        # Deleting ends a rescue.
        return super().has_delete_permission(request, obj) and may_touch(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        # The permission to delete a machine includes its addresses and the records of its installed ROMs.
        shown, counts, _, protected = super().get_deleted_objects(objs, request)
        return shown, counts, set(), protected

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Machine]) -> None:
        machines, actor = list(queryset), actor_of(request)
        for machine in machines:
            machine.check_unlocked(actor)
        # One transaction for all of them would block boot answers.
        for machine in in_turns(machines):
            machine.delete_audited(actor)

    # Saving. The model makes all changes.

    def get_readonly_fields(self, request: HttpRequest, obj: Machine | None = None) -> Any:
        fixed = super().get_readonly_fields(request, obj)
        return fixed if may_touch(request, obj) else (*fixed, *_LOCKED_FIELDS)

    def changeform_view(self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        machine = self.get_object(request, object_id) if object_id and request.method == "POST" else None
        # The page was opened before the rescue was enabled. Changes to other fields than the notes must not be lost
        # without a message.
        if machine and not may_touch(request, machine) and "name" in request.POST:
            raise MachineLockedError(machine.name)
        try:
            return super().changeform_view(request, object_id, *args, **kwargs)
        except ValidationError as error:
            # Another user was faster, or two rows contain the same address.
            messages.error(request, f"Nothing was changed. {' '.join(error.messages)}")
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Machine, form: Any, change: bool) -> None:
        """Does nothing: `save_related` saves the machine together with its addresses."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        values, machine = _wanted(form.cleaned_data), form.instance
        if may_touch(request, machine if change else None):
            values |= {what: _listed(formsets, model, column) for what, model, column in _PARTS}
        if change:
            machine.revise(values, actor_of(request))
        else:
            added = Machine.objects.add(**values, actor=actor_of(request))
            machine.pk, machine._state.adding = added.pk, False

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        return super().construct_change_message(request, form, [], add)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        initial: dict[str, Any] = super().get_changeform_initial_data(request)
        if sighting := _sighting(request):
            said = {name: sighting.said[name] for name in ("uuid", "serial") if sighting.said.get(name)}
            initial["identity"] = {name: text for name, text in said.items() if not is_placeholder(name, text)}
            initial["name"] = sighting.said.get("hostname", "")
        return initial

    def get_formset_kwargs(self, request: HttpRequest, obj: Any, inline: Any, prefix: str) -> dict[str, Any]:
        kwargs = super().get_formset_kwargs(request, obj, inline, prefix)
        if obj.pk is None and request.method == "GET" and (sighting := _sighting(request)):
            if isinstance(inline, MACAddressInline):
                kwargs["initial"] = [{"address": sighting.mac}]
            elif sighting.source:
                kwargs["initial"] = [{"network": sighting.source}]
        return kwargs

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        machine = self.get_object(request, object_id)
        context = self._panel(request, machine) if machine else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **context})

    def _panel(self, request: HttpRequest, machine: Machine) -> dict[str, Any]:
        rescue = machine.active_rescue()
        state = rescue.status_at().state if rescue else "local"
        return {
            "machine": machine,
            "rescue": rescue,
            "state": state,
            "state_text": STATES[state],
            "warnings": rescue.warnings() if rescue and not rescue.up_at else [],
            "timeline": machine_timeline(machine),
            "may_switch": self.has_enable_rescue_permission(request),
            "locked": "" if may_touch(request, machine) else str(MachineLockedError(machine.name)),
            "unverified": machine.is_unverified,
            "identity_remarks": machine.identity_remarks(),
            "max_tries": MAX_TRIES,
        }

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            *self.switch_urls(),
            *self.table_urls(),
            path("<int:pk>/panel/", view(self.panel_view), name="machines_machine_panel"),
            path("<int:pk>/preview/", view(self.preview_view), name="machines_machine_preview"),
            *super().get_urls(),
        ]

    def panel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Return the panel with state, button and timeline. The page fetches it again and again."""
        machine = self._viewable(request, pk)
        return TemplateResponse(request, "machines/panel.html", self._panel(request, machine))

    def preview_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the decision, the reason and the script for an imagined request. This changes nothing."""
        machine = self._viewable(request, pk)
        asked = request.GET if "mac" in request.GET else None
        likely = likely_request(machine)._asdict()
        form = PreviewForm(machine, asked or (likely if likely["mac"] and likely["source"] else None), initial=likely)
        answer = form.answer() if form.is_valid() else None
        return self.page(
            request,
            "machines/preview.html",
            f"What would {machine.name} be told?",
            machine=machine,
            form=form,
            answer=answer,
            meaning=reason_text(answer.reason) if answer else "",
            asked=asked is not None,
        )

    def _viewable(self, request: HttpRequest, pk: int) -> Machine:
        machine = Machine.objects.for_lists().filter(pk=pk).first()
        if not self.has_view_or_change_permission(request, machine):
            raise PermissionDenied
        if machine is None:
            raise Http404("This machine does not exist.")
        return machine


def _wanted(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the form as `Machine.revise` needs them."""
    values = {name: given[name] for name in _FIELDS if name in given}
    if NETWORK_FIELDS[0] in given:
        values["rescue_network"] = {part: given[field].split() for part, field in NETWORK.items()}
    return values


def _listed(formsets: Any, model: Any, column: str) -> list[str]:
    """Return the values of an inline, without the rows to delete."""
    rows = [row for formset in formsets if formset.model is model for row in formset.cleaned_data]
    return [row[column] for row in rows if row.get(column) and not row.get("DELETE")]


def _sighting(request: HttpRequest) -> Sighting | None:
    pk = request.GET.get("sighting", "")
    if not admin.site._registry[Sighting].has_view_permission(request):
        return None
    return Sighting.objects.filter(pk=pk).first() if pk.isascii() and pk.isdigit() and len(pk) < MAX_DIGITS else None
