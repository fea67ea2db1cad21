"""The switch: the pages on which rescue is enabled and disabled, for one machine or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from machines.models import Actor, Machine, Rescue, RescueImage, SSHKey
from machines.models.rescue_terms import NoActiveRescueError, RescueError, RescueRequest
from machines.models.turns import in_turns
from rescuesite.actors import actor_of

PERMISSION = "machines.enable_rescue"
#: More machines than this are not switched at once: nobody reads such a list.
MAX_AT_ONCE = 500
_MAX_TOLD = 10
#: A primary key has fewer.
MAX_DIGITS = 19


class EnableForm(forms.Form):
    """What staff choose; the fields of a RescueRequest."""

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

    password = forms.BooleanField(
        required=False,
        label="Password too",
        help_text="Besides the SSH keys: made for root, and shown once after enabling. Not for unverified machines.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        default = RescueImage.objects.default()
        self.fields["image"].empty_label = f"The machine's own, or the default ({default or 'none yet'})"  # type: ignore[attr-defined]
        now = timezone.localtime()
        self.fields["expires_at"].help_text += f" Here it is {now:%Y-%m-%d %H:%M}, time zone {now:%Z}."
        self.fields["reason"].widget.attrs |= {"class": "vTextField", "autofocus": True}

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if not self.errors:
            self.order().checked(timezone.now())
        return values

    def order(self) -> RescueRequest:
        names = ("image", "lifetime", "expires_at", "reason", "password")
        return RescueRequest(**{name: self.cleaned_data[name] for name in names})


class DisableForm(forms.Form):
    reason = forms.CharField(
        max_length=500,
        required=False,
        help_text="Kept in the audit log.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )


@dataclass
class Outcomes:
    """What came of switching several machines."""

    done: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedSwitch:
    """What switching would do to one machine."""

    machine: Machine
    rescue: Rescue | None
    image: RescueImage | None = None

    @property
    def state(self) -> str:
        return self.rescue.status_at().state if self.rescue else "local"


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
            path("rescue/try-again/", view(self.try_again_view), name="machines_machine_try_again"),
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
            outcomes = _enable(machines, form.order(), actor_of(request))
            add_messages(request, outcomes, "armed (switch off and on now)")
            return self._passwords_page(request, outcomes) if outcomes.passwords else _done(machines)
        return self._page(request, machines, form, "enable")

    def disable_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a reason, and end the rescues of the machines named in `ids`."""
        machines = self._chosen(request)
        form = DisableForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            outcomes = _disable(machines, form.cleaned_data["reason"], actor_of(request))
            add_messages(request, outcomes, "ended (the next power-on boots the disk)")
            return _done(machines)
        return self._page(request, machines, form, "disable")

    def try_again_view(self, request: HttpRequest) -> HttpResponse:
        """Forget the tries of the machines named in `ids`, whose rescue has failed."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        machines = self._chosen(request)
        if not machines:
            raise Http404("These machines are gone.")
        add_messages(request, _try_again(machines, actor_of(request)), "is tried again (switch off and on now)")
        return _done(machines)

    def _passwords_page(self, request: HttpRequest, outcomes: Outcomes) -> HttpResponse:
        """The passwords, in this response and nowhere else: a message would be kept until somebody reads it."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Passwords, shown this once",
            "opts": Machine._meta,
            "passwords": outcomes.passwords,
        }
        return TemplateResponse(request, "machines/passwords.html", context, headers={"Cache-Control": "no-store"})

    def _chosen(self, request: HttpRequest) -> QuerySet[Machine]:
        if not self.has_enable_rescue_permission(request) or not request.user.has_perm("machines.view_machine"):
            raise PermissionDenied
        ids = (request.POST if request.method == "POST" else request.GET).getlist("ids")
        return Machine.objects.for_lists().filter(
            pk__in=[pk for pk in ids if pk.isascii() and pk.isdigit() and len(pk) < MAX_DIGITS]
        )

    def _page(self, request: HttpRequest, machines: QuerySet[Machine], form: forms.Form, what: str) -> HttpResponse:
        if not machines or len(machines) > MAX_AT_ONCE:
            problem = f"Choose at most {MAX_AT_ONCE} machines." if machines else "These machines are gone."
            messages.error(request, problem)
            return HttpResponseRedirect(reverse("admin:machines_machine_changelist"))
        default = RescueImage.objects.default()
        prospects = [
            PlannedSwitch(machine, machine.active_rescue(), machine.image or default)
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


def _enable(machines: Iterable[Machine], order: RescueRequest, actor: Actor) -> Outcomes:
    outcomes = Outcomes()
    for machine in in_turns(machines):
        try:
            rescue = Rescue.objects.enable(machine, order, actor)
        except RescueError as error:
            outcomes.refused.append(str(error))
        except ValidationError as error:
            outcomes.refused.append(f"{machine.name}: {' '.join(error.messages)}")
        else:
            outcomes.done.append(machine.name)
            if rescue.password:
                outcomes.passwords[machine.name] = rescue.password
            outcomes.warnings.update(dict.fromkeys(rescue.warnings()))
    return outcomes


def _disable(machines: Iterable[Machine], reason: str, actor: Actor) -> Outcomes:
    return _for_each(machines, lambda rescue: rescue.disable(actor, reason))


def _try_again(machines: Iterable[Machine], actor: Actor) -> Outcomes:
    return _for_each(machines, lambda rescue: rescue.try_again(actor))


def _for_each(machines: Iterable[Machine], change: Callable[[Rescue], None]) -> Outcomes:
    """Change the active rescue of each machine."""
    outcomes = Outcomes()
    for machine in in_turns(machines):
        try:
            rescue = machine.active_rescue()
            if rescue is None:
                raise NoActiveRescueError(machine)
            change(rescue)
        except RescueError as error:
            outcomes.refused.append(str(error))
        else:
            outcomes.done.append(machine.name)
    return outcomes


def add_messages(request: HttpRequest, outcomes: Outcomes, what: str) -> None:
    """One message for all that was done, and one for each machine that was not, as far as people read."""
    if outcomes.done:
        messages.success(request, f"Rescue {what} for {', '.join(outcomes.done)}.")
    for warning in list(outcomes.warnings)[:_MAX_TOLD]:
        messages.warning(request, warning)
    for refusal in outcomes.refused[:_MAX_TOLD]:
        messages.error(request, refusal)
    if len(outcomes.refused) > _MAX_TOLD:
        messages.error(request, f"And {len(outcomes.refused) - _MAX_TOLD} more.")


def _done(machines: QuerySet[Machine]) -> HttpResponseRedirect:
    if len(machines) == 1:
        return HttpResponseRedirect(reverse("admin:machines_machine_change", args=[machines[0].pk]))
    return HttpResponseRedirect(reverse("admin:machines_machine_changelist"))
