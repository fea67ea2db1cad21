"""The switch: the pages on which rescue is enabled and disabled, for one machine or many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from machines.admin.auditing import actor_of
from machines.models import Machine, Rescue, RescueImage, SSHKey
from machines.models.rescue import NoActiveRescueError, RescueError, RescueOrder

PERMISSION = "machines.enable_rescue"
#: More machines than this are not switched at once: nobody reads such a list.
MAX_AT_ONCE = 500


class EnableForm(forms.Form):
    """What staff choose; the fields of a RescueOrder."""

    image = forms.ModelChoiceField(RescueImage.objects.all(), required=False)
    lifetime = forms.ChoiceField(
        choices=Rescue.Lifetime.choices,
        initial=Rescue.Lifetime.ONE_BOOT,
        widget=forms.RadioSelect,
        help_text="One boot: once the rescue system has been up, the next power-on boots the disk again.",
    )
    expires_at = forms.SplitDateTimeField(
        required=False,
        label="Until",
        widget=AdminSplitDateTime,
        help_text="Needed for “until a time”; for one boot, the time after which it is no longer waited for.",
    )
    reason = forms.CharField(
        max_length=500, help_text="Kept in the audit log and shown to whoever logs in to the rescue system."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        default = RescueImage.objects.default()
        self.fields["image"].empty_label = f"The machine's own, or the default ({default or 'none yet'})"  # type: ignore[attr-defined]
        self.fields["reason"].widget.attrs |= {"class": "vTextField", "autofocus": True}

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if not self.errors:
            self.order().check(timezone.now())
        return values

    def order(self) -> RescueOrder:
        return RescueOrder(**{name: self.cleaned_data[name] for name in ("image", "lifetime", "expires_at", "reason")})


class DisableForm(forms.Form):
    reason = forms.CharField(
        max_length=500,
        required=False,
        help_text="Kept in the audit log.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )


@dataclass(frozen=True)
class Prospect:
    """What switching would do to one machine."""

    machine: Machine
    rescue: Rescue | None
    image: RescueImage | None = None

    @property
    def state(self) -> str:
        return self.rescue.standing().state if self.rescue else "local"


class RescueSwitch:
    """For MachineAdmin: the actions in the list, and the pages behind them and behind the machine's button."""

    admin_site: admin.AdminSite
    media: forms.Media

    def has_enable_rescue_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(PERMISSION)

    def switch_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("rescue/enable/", view(self.enable_view), name="machines_machine_enable"),
            path("rescue/disable/", view(self.disable_view), name="machines_machine_disable"),
        ]

    @admin.action(description="Enable rescue…", permissions=["enable_rescue"])
    def enable_rescue(self, request: HttpRequest, queryset: QuerySet[Machine]) -> HttpResponse | None:
        return self._page(request, queryset, EnableForm(), "enable")

    @admin.action(description="Disable rescue…", permissions=["enable_rescue"])
    def disable_rescue(self, request: HttpRequest, queryset: QuerySet[Machine]) -> HttpResponse | None:
        return self._page(request, queryset, DisableForm(), "disable")

    def enable_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for image, lifetime and reason, and arm the machines named in `ids`."""
        machines = self._chosen(request)
        form = EnableForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            for machine in machines:
                _enable(request, machine, form.order())
            return _done(machines)
        return self._page(request, machines, form, "enable")

    def disable_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a reason, and end the rescues of the machines named in `ids`."""
        machines = self._chosen(request)
        form = DisableForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            for machine in machines:
                _disable(request, machine, form.cleaned_data["reason"])
            return _done(machines)
        return self._page(request, machines, form, "disable")

    def _chosen(self, request: HttpRequest) -> QuerySet[Machine]:
        if not self.has_enable_rescue_permission(request):
            raise PermissionDenied
        ids = (request.POST if request.method == "POST" else request.GET).getlist("ids")
        return Machine.objects.for_lists().filter(pk__in=[pk for pk in ids if pk.isascii() and pk.isdigit()])

    def _page(self, request: HttpRequest, machines: QuerySet[Machine], form: forms.Form, what: str) -> HttpResponse:
        if not machines or len(machines) > MAX_AT_ONCE:
            problem = f"Choose at most {MAX_AT_ONCE} machines." if machines else "These machines are gone."
            messages.error(request, problem)
            return HttpResponseRedirect(reverse("admin:machines_machine_changelist"))
        default = RescueImage.objects.default()
        prospects = [
            Prospect(machine, machine.active_rescue(), machine.image or default)
            for machine in Machine.objects.for_lists().filter(pk__in=machines.values("pk"))
        ]
        names = f"{len(prospects)} machines" if len(prospects) > 1 else prospects[0].machine.name
        context = {
            **self.admin_site.each_context(request),
            "title": f"{what.capitalize()} rescue of {names}",
            "opts": Machine._meta,
            "what": what,
            "form": form,
            "prospects": prospects,
            "keys": SSHKey.objects.for_rescue(request.user.pk).select_related("user"),
            "media": self.media + form.media,
        }
        return TemplateResponse(request, "machines/switch.html", context)


def _enable(request: HttpRequest, machine: Machine, order: RescueOrder) -> None:
    try:
        rescue = Rescue.objects.enable(machine, order, actor_of(request))
    except RescueError as error:
        messages.error(request, str(error))
    except ValidationError as error:
        messages.error(request, f"{machine.name}: {' '.join(error.messages)}")
    else:
        messages.success(
            request, f"Rescue of {machine.name} is armed with {rescue.image_name}. Switch the machine off and on now."
        )
        for warning in rescue.warnings():
            messages.warning(request, warning)


def _disable(request: HttpRequest, machine: Machine, reason: str) -> None:
    try:
        rescue = machine.active_rescue()
        if rescue is None:
            raise NoActiveRescueError(machine)
        rescue.disable(actor_of(request), reason)
    except RescueError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Rescue of {machine.name} has ended: it boots its disk from the next power-on.")


def _done(machines: QuerySet[Machine]) -> HttpResponseRedirect:
    if len(machines) == 1:
        return HttpResponseRedirect(reverse("admin:machines_machine_change", args=[machines[0].pk]))
    return HttpResponseRedirect(reverse("admin:machines_machine_changelist"))
