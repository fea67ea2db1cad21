"""The pages to enable and disable rescue, for one machine or several."""

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
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from machines.admin.lookups import OfferedLookups
from machines.models import Actor, Machine, Rescue, RescueImage, SSHKey
from machines.models.machine import ENABLE_RESCUE
from machines.models.rescue_terms import NoActiveRescueError, RescueError, RescueRequest
from machines.models.turns import in_turns
from rescuesite.actors import actor_of

#: The largest number of machines on one page.
MAX_AT_ONCE = 500
#: The largest number of messages of one kind.
_MAX_MESSAGES = 10
#: A primary key has fewer digits.
MAX_DIGITS = 19


class EnableForm(forms.Form):
    """The fields of a RescueRequest."""

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
        help_text="Required for “until a time”. For “one boot”, the rescue ends at this time at the latest.",
    )
    reason = forms.CharField(
        max_length=500, help_text="The audit log keeps it, and the rescue system shows it after each login."
    )

    password = forms.BooleanField(
        required=False,
        label="Password too",
        help_text="Also allow logins as root with a new password. The site shows it once, after enabling. Not "
        "available for unverified machines.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        default = RescueImage.objects.default()
        self.fields["image"].empty_label = f"The machine's image, or the default ({default or 'none yet'})"  # type: ignore[attr-defined]
        now = timezone.localtime()
        self.fields["expires_at"].help_text += f" It is now {now:%Y-%m-%d %H:%M} {now:%Z}."
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
        help_text="The audit log keeps it.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )


@dataclass
class Outcomes:
    """The results for several machines."""

    done: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedSwitch:
    """The machine, its active rescue and the image that it would boot."""

    machine: Machine
    rescue: Rescue | None
    image: RescueImage | None = None

    @property
    def state(self) -> str:
        return self.rescue.status_at().state if self.rescue else "local"


class RescueSwitch(OfferedLookups):
    """For MachineAdmin: the actions in the list, and the pages of these actions and of the machine's button."""

    def has_enable_rescue_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(ENABLE_RESCUE)

    def switch_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("rescue/enable/", view(self.enable_view), name="machines_machine_enable"),
            path("rescue/disable/", view(self.disable_view), name="machines_machine_disable"),
            path("rescue/try-again/", view(self.try_again_view), name="machines_machine_try_again"),
        ]

    @admin.action(description="Enable rescue…", permissions=["enable_rescue"])
    def enable_rescue(self, request: HttpRequest, queryset: QuerySet[Machine]) -> HttpResponse | None:
        return self._switch_page(request, queryset, EnableForm(), "enable")

    @admin.action(description="Disable rescue…", permissions=["enable_rescue"])
    def disable_rescue(self, request: HttpRequest, queryset: QuerySet[Machine]) -> HttpResponse | None:
        return self._switch_page(request, queryset, DisableForm(), "disable")

    def enable_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for image, lifetime and reason, and enable rescue of the machines in `ids`."""
        machines = self._chosen(request)
        form = EnableForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            outcomes = _enable(machines, form.order(), actor_of(request))
            add_messages(request, outcomes, "Rescue is armed for {}. Switch the power off and on now.")
            if not outcomes.passwords:
                return _done(machines)
            title, passwords = "Passwords, shown only once", outcomes.passwords
            return self.page(request, "machines/passwords.html", title, shows_secret=True, passwords=passwords)
        return self._switch_page(request, machines, form, "enable")

    def disable_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a reason, and end the rescues of the machines in `ids`."""
        machines = self._chosen(request)
        form = DisableForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            outcomes = _disable(machines, form.cleaned_data["reason"], actor_of(request))
            add_messages(request, outcomes, "Rescue has ended for {}. The next power-on boots the disk.")
            return _done(machines)
        return self._switch_page(request, machines, form, "disable")

    def try_again_view(self, request: HttpRequest) -> HttpResponse:
        """Reset the tries of the machines in `ids` whose rescue has failed."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        machines = self._chosen(request)
        if not machines:
            raise Http404("These machines do not exist any more.")
        outcomes = _try_again(machines, actor_of(request))
        add_messages(request, outcomes, "Rescue is tried again for {}. Switch the power off and on now.")
        return _done(machines)

    def _chosen(self, request: HttpRequest) -> QuerySet[Machine]:
        if not self.has_enable_rescue_permission(request) or not request.user.has_perm("machines.view_machine"):
            raise PermissionDenied
        ids = (request.POST if request.method == "POST" else request.GET).getlist("ids")
        return Machine.objects.for_lists().filter(
            pk__in=[pk for pk in ids if pk.isascii() and pk.isdigit() and len(pk) < MAX_DIGITS]
        )

    def _switch_page(
        self, request: HttpRequest, machines: QuerySet[Machine], form: forms.Form, what: str
    ) -> HttpResponse:
        if not machines or len(machines) > MAX_AT_ONCE:
            problem = f"Choose at most {MAX_AT_ONCE} machines." if machines else "These machines do not exist any more."
            messages.error(request, problem)
            return HttpResponseRedirect(reverse("admin:machines_machine_changelist"))
        default = RescueImage.objects.default()
        prospects = [
            PlannedSwitch(machine, machine.active_rescue(), machine.image or default)
            for machine in Machine.objects.for_lists().filter(pk__in=machines.values("pk"))
        ]
        names = f"{len(prospects)} machines" if len(prospects) > 1 else prospects[0].machine.name
        return self.page(
            request,
            "machines/switch.html",
            f"{what.capitalize()} rescue of {names}",
            what=what,
            form=form,
            prospects=prospects,
            keys=SSHKey.objects.for_rescue(request.user.pk).select_related("user"),
            media=self.media + form.media,
        )


def _enable(machines: Iterable[Machine], order: RescueRequest, actor: Actor) -> Outcomes:
    outcomes = Outcomes()
    for machine in in_turns(machines):
        try:
            rescue = Rescue.objects.enable(machine, order, actor)
        except RescueError as error:
            outcomes.refused.append(str(error))
        except ValidationError as error:
            outcomes.refused.append(f"Machine {machine.name}: {' '.join(error.messages)}")
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
    """Call `change` with the active rescue of each machine."""
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


def add_messages(request: HttpRequest, outcomes: Outcomes, success: str) -> None:
    """Add one message for all successes, and one message for each failure. `success` has {} for the machines."""
    if outcomes.done:
        messages.success(request, success.format(", ".join(outcomes.done)))
    for warning in list(outcomes.warnings)[:_MAX_MESSAGES]:
        messages.warning(request, warning)
    for refusal in outcomes.refused[:_MAX_MESSAGES]:
        messages.error(request, refusal)
    if len(outcomes.refused) > _MAX_MESSAGES:
        messages.error(request, f"{len(outcomes.refused) - _MAX_MESSAGES} more machines failed.")


def _done(machines: QuerySet[Machine]) -> HttpResponseRedirect:
    if len(machines) == 1:
        return HttpResponseRedirect(reverse("admin:machines_machine_change", args=[machines[0].pk]))
    return HttpResponseRedirect(reverse("admin:machines_machine_changelist"))
