"""Sightings: unknown MAC addresses. Staff make a machine of them, attach them to a machine, or ignore them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from machines.admin.auditing import AuditedAdmin
from machines.admin.search import MACSearch
from machines.models import AuditEntry, MACAddress, Machine, Sighting
from rescuesite.actors import actor_of


class AttachForm(forms.Form):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["machine"] = forms.ModelChoiceField(
            Machine.objects.all(),
            widget=AutocompleteSelect(MACAddress._meta.get_field("machine"), admin.site),
            help_text="The MAC address is added to this machine.",
        )


@admin.register(Sighting)
class SightingAdmin(MACSearch, AuditedAdmin):
    list_display = ("mac", "what_to_do", "last_seen_at", "count", "source", "summary", "ignored")
    list_filter = ("ignored", "last_seen_at")
    search_fields = ("mac", "source", "ip", "said")
    actions = ("ignore", "notice")
    fields = ("mac", "first_seen_at", "last_seen_at", "count", "source", "ip", "all_said", "ignored", "what_to_do")
    readonly_fields = (
        "mac", "first_seen_at", "last_seen_at", "count", "source", "ip", "all_said", "what_to_do",
    )  # fmt: skip

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def snapshot(self, obj: Sighting) -> dict[str, Any]:
        return {"mac": obj.mac, "ignored": obj.ignored}

    @admin.display(description="sent values")
    def summary(self, sighting: Sighting) -> str:
        shown = (sighting.said.get(name) for name in ("manufacturer", "product", "serial", "hostname"))
        return " ".join(value[:40] for value in shown if value)

    @admin.display(description="sent values")
    def all_said(self, sighting: Sighting) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(sighting.said, indent=2, ensure_ascii=False))

    @admin.display(description="")
    def what_to_do(self, sighting: Sighting) -> SafeString:
        return format_html(
            '<a class="button nowrap" href="{}">Make a machine</a> <a class="button nowrap" href="{}">Attach…</a>',
            f"{reverse('admin:machines_machine_add')}?{urlencode({'sighting': sighting.pk})}",
            reverse("admin:machines_sighting_attach", args=[sighting.pk]),
        )

    @admin.action(description="Ignore selected sightings", permissions=["change"])
    def ignore(self, request: HttpRequest, queryset: models.QuerySet[Sighting]) -> None:
        self._set_ignored(request, queryset, ignored=True)

    @admin.action(description="Stop ignoring selected sightings", permissions=["change"])
    def notice(self, request: HttpRequest, queryset: models.QuerySet[Sighting]) -> None:
        self._set_ignored(request, queryset, ignored=False)

    def _set_ignored(self, request: HttpRequest, queryset: models.QuerySet[Sighting], *, ignored: bool) -> None:
        with transaction.atomic():
            macs = list(queryset.exclude(ignored=ignored).values_list("mac", flat=True))
            Sighting.objects.filter(mac__in=macs).update(ignored=ignored)
            for mac in macs:
                AuditEntry.objects.record(
                    "sighting_ignored" if ignored else "sighting_noticed", actor=actor_of(request), mac=mac
                )
        messages.success(request, f"{len(macs)} sighting{'s' if len(macs) != 1 else ''} changed.")

    def get_urls(self) -> list[URLPattern]:
        attach = path("<int:pk>/attach/", self.admin_site.admin_view(self.attach), name="machines_sighting_attach")
        return [attach, *super().get_urls()]

    def attach(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask which machine the MAC address belongs to, and add it."""
        if not request.user.has_perm("machines.change_machine") or not self.has_view_permission(request):
            raise PermissionDenied
        sighting = Sighting.objects.filter(pk=pk).first()
        if sighting is None:
            raise Http404("This sighting does not exist any more. Its MAC address may belong to a machine now.")
        form = AttachForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            machine: Machine = form.cleaned_data["machine"]
            try:
                machine.attach_mac(sighting.mac, actor_of(request))
            except ValidationError as error:
                form.add_error(None, ValidationError(error.messages))
            else:
                messages.success(request, f"The MAC address {sighting.mac} now belongs to {machine.name}.")
                return HttpResponseRedirect(reverse("admin:machines_machine_change", args=[machine.pk]))
        title, media = f"Attach {sighting.mac} to a machine", self.media + form.media
        return self.page(request, "machines/attach.html", title, sighting=sighting, form=form, media=media)
