"""Flash jobs: the list, the form that orders one, and the page of one job with its phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path, reverse

from machines.models import Actor, Machine
from roms.admin.jobs import JobAdmin, JobStateFilter, OrderForm, attached, number
from roms.models import Build, Card, FlashJob, FlashKind, InstalledROM, JobState, Station
from roms.wording import kib

#: The phases of a flash job, for staff.
PHASES = {
    "probe": "Find the chip",
    "save": "Save the contents",
    "write": "Write",
    "verify": "Read back and compare",
}
_WRITING = ("write", "verify")


class FlashForm(OrderForm):
    """The choices for a flash job. The model validates them; this form shows each error at its field."""

    fieldsets = (
        ("What", {"fields": ("action", "build", "restores")}),
        ("Where", {"fields": ("station", "card", "machine", ("slot", "chip_name"))}),
        ("Confirm", {"fields": ("confirm",)}),
    )

    action = forms.ChoiceField(choices=FlashKind, initial=FlashKind.FLASH, label="What to do", widget=forms.RadioSelect)
    station = forms.ModelChoiceField(Station.objects.all(), help_text="The host with the card.")
    slot = forms.CharField(
        required=False,
        max_length=12,
        label="PCI slot",
        help_text="For example 0000:03:00.0 (see lspci -D). Empty: the station finds the card, if it has only one.",
        widget=forms.TextInput(attrs={"class": "machine-text", "size": 14}),
    )
    chip_name = forms.CharField(
        required=False,
        max_length=100,
        label="Chip",
        help_text="Only needed if flashrom found several definitions.",
        widget=forms.TextInput(attrs={"class": "machine-text", "size": 24}),
    )
    confirm = forms.CharField(
        required=False,
        label="To confirm",
        help_text="Type the machine's name, or the station's name if no machine is chosen.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "class": "vTextField", "spellcheck": "false"}),
    )

    field_order = ("action", "build", "restores", "station", "card", "machine", "slot", "chip_name", "confirm")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chosen: dict[str, tuple[QuerySet[Any], str, str]] = {
            "build": (Build.objects.flashable(), "Build", "Number, card or profile of a build that succeeded."),
            "restores": (
                FlashJob.objects.filter(backup__isnull=False),
                "Saved by",
                "The flash job that saved the contents to write back.",
            ),
            "card": (
                Card.objects.flashable(),
                "Card",
                "Empty: the card of the build or of the saved contents. The practice card needs no hardware.",
            ),
            "machine": (
                Machine.objects.all(),
                "Machine",
                "The machine with this card, for the list of installed ROMs. Empty: the card is in no machine.",
            ),
        }
        for name, (queryset, label, help_text) in chosen.items():
            self.fields[name] = forms.ModelChoiceField(
                queryset,
                required=False,
                label=label,
                help_text=help_text,
                widget=AutocompleteSelect(FlashJob._meta.get_field(name), admin.site),
            )
        self.order_fields(self.field_order)

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if self.errors:
            return values
        # The page hides the fields of other actions: ignore their values.
        if values["action"] != FlashKind.FLASH:
            values["build"] = None
        if values["action"] != FlashKind.RESTORE:
            values["restores"] = None
        of = values["build"] or values["restores"]
        values["card"] = values["card"] or (of.card if of else None)
        if values["card"] is None:
            wanted = {FlashKind.FLASH: "build", FlashKind.RESTORE: "restores"}.get(values["action"], "card")
            self.add_error(wanted, "This field is required.")
            return values
        try:
            self.job().full_clean()
        except ValidationError as error:
            self.add_model_errors(error)
        return values

    def job(self) -> FlashJob:
        """The job, not submitted."""
        return FlashJob(**{name: self.cleaned_data[name] for name in FlashJob.INPUT_FIELDS})

    def submit(self, actor: Actor) -> FlashJob:
        return self.job().submit_confirmed(actor, self.cleaned_data["confirm"])

    @staticmethod
    def order_of(job: FlashJob) -> dict[str, Any]:
        """The form's values for the same order as this job."""
        return {name: getattr(job, name) for name in FlashJob.INPUT_FIELDS}


# The page of one job


@dataclass(frozen=True)
class Step:
    """One phase, with its state: next, now, done, failed or skipped."""

    title: str
    state: str


def steps(job: FlashJob, state: JobState) -> list[Step]:
    """The phases of a flash job, with their states."""
    phases = [phase for phase in PHASES if job.action != FlashKind.SAVE or phase not in _WRITING]
    if state == JobState.SUCCEEDED:
        skipped = _WRITING if job.wrote is False else ()
        return [Step(PHASES[phase], "skipped" if phase in skipped else "done") for phase in phases]
    at = phases.index(job.phase) if job.phase in phases else -1
    here = "now" if state == JobState.RUNNING else "failed"
    return [Step(PHASES[phase], "done" if n < at else here if n == at else "next") for n, phase in enumerate(phases)]


def left_half_written(job: FlashJob, state: JobState) -> bool:
    """Whether a write began and failed: the chip may hold neither the old nor the new contents."""
    ended_badly = state in {JobState.FAILED, JobState.SITE_ERROR, JobState.LOST}
    return ended_badly and job.phase in _WRITING and job.chip_state != "as_wanted"


def recovered_by(job: FlashJob) -> FlashJob | None:
    """The first later job that wrote to the same card; None if there is none."""
    later = FlashJob.objects.filter(
        station=job.station_id, card=job.card_id, slot=job.slot, state=JobState.SUCCEEDED, pk__gt=job.pk
    )
    return later.exclude(action=FlashKind.SAVE).order_by("pk").first()


@dataclass(frozen=True)
class Choice:
    """One chip or slot to choose, after flashrom found several."""

    text: str
    url: str


def choices_of(job: FlashJob) -> list[Choice]:
    """Links to the form with the same order and one choice each."""
    found: list[tuple[str, dict[str, str]]] = [
        (f"The chip {chip}", {"chip": str(chip)}) for chip in job.choices.get("chips", [])
    ]
    for slot in job.choices.get("slots", []):
        more = ", ".join([*slot.get("macs", ()), *filter(None, [slot.get("driver")])])
        found.append((f"The card in slot {slot['slot']}{f' ({more})' if more else ''}", {"slot": str(slot["slot"])}))
    return [Choice(text, ask_url(again=str(job.pk), **query)) for text, query in found]


def ask_url(**query: str) -> str:
    """The address of the form, with these initial values."""
    return f"{reverse('admin:roms_flashjob_add')}?{urlencode(query)}"


@admin.register(FlashJob)
class FlashJobAdmin(JobAdmin):
    permission = "roms.flash_rom"
    job_template, panel_template = "roms/flashjob.html", "roms/flashjob_panel.html"
    order_form = FlashForm
    list_display = (
        "name", "status", "what", "card_short", "station", "machine_shown", "build_shown", "asked", "took",
    )  # fmt: skip
    list_filter = (JobStateFilter, "action", "station", "created_at")
    search_fields = (
        "id__exact", "card__name", "card__slug", "machine_name", "station__name", "requested_by_name",
        "backup_sha256__startswith", "written_sha256__startswith",
    )  # fmt: skip
    search_help_text = "Number, card, machine, station, person, or the beginning of a SHA-256."

    def get_queryset(self, request: HttpRequest) -> QuerySet[FlashJob]:
        return super().get_queryset(request).select_related("card", "station", "build__card", "machine", "backup")

    def searched(self, request: HttpRequest, queryset: QuerySet[Any], text: str) -> tuple[QuerySet[Any], bool]:
        if request.GET.get("field_name") == "restores" and request.path == reverse("admin:autocomplete"):
            queryset = queryset.filter(backup__isnull=False)
        return super().searched(request, queryset, text)

    # The list

    @admin.display(description="action", ordering="action")
    def what(self, job: FlashJob) -> str:
        return job.action

    @admin.display(description="build", ordering="build")
    def build_shown(self, job: FlashJob) -> str:
        return f"#{job.build_id}" if job.build_id else "-"

    @admin.display(description="machine", ordering="machine_name")
    def machine_shown(self, job: FlashJob) -> str:
        return job.machine_name or "-"

    # The order form

    def bound_form(self, request: HttpRequest) -> FlashForm:
        form: FlashForm = super().bound_form(request)
        if not self.admin_site._registry[Machine].has_view_permission(request):
            form.fields["machine"].queryset = Machine.objects.none()  # type: ignore[attr-defined]
        return form

    def form_context(self, form: FlashForm) -> dict[str, Any]:
        stations = list(Station.objects.all())
        without_worker = [station for station in stations if not station.has_worker()]
        return {"title": "Flash a card", "stations": stations, "without_worker": without_worker}

    def initial(self, request: HttpRequest) -> dict[str, Any]:
        """The values of an earlier job, of a restore, or of an installed ROM; with the choices that the query names."""
        query = request.GET
        initial: dict[str, Any] = {}
        if again := self._named(FlashJob, query.get("again")):
            initial = FlashForm.order_of(again)
        elif (saved := self._named(FlashJob, query.get("restore"))) and saved.backup_id:
            initial = FlashForm.order_of(saved.restoring())
        elif installed := self._named(InstalledROM, query.get("installed")):
            latest = Build.objects.flashable(installed.card).first()
            initial = {"card": installed.card, "machine": installed.machine, "build": latest}
        for name, model in {"build": Build, "card": Card, "machine": Machine, "station": Station}.items():
            if found := self._named(model, query.get(name)):
                initial[name] = found
        for name, field in {"slot": "slot", "chip": "chip_name"}.items():
            if query.get(name):
                initial[field] = query[name]
        if "station" not in initial:
            initial["station"] = Station.objects.order_by("-seen_at").exclude(seen_at=None).first()
        return initial

    @staticmethod
    def _named(model: Any, pk: str | None) -> Any:
        return model._default_manager.filter(pk=number(pk)).first() if number(pk) else None

    # The page of one job

    def job_urls(self, name: str) -> list[URLPattern]:
        backup = path("<int:pk>/backup/", self.admin_site.admin_view(self.backup_view), name="roms_flashjob_backup")
        return [backup]

    def panel(self, request: HttpRequest, job: FlashJob) -> dict[str, Any]:
        context = super().panel(request, job)
        state = context["state"]
        is_hanging = left_half_written(job, state)
        mended = recovered_by(job) if is_hanging else None
        return {
            **context,
            "steps": steps(job, state),
            "choices": choices_of(job) if state == JobState.FAILED else [],
            "left_half_written": is_hanging and mended is None,
            "holds_old": job.chip_state == "unchanged",
            "mended": mended,
            # Nobody can cancel a write.
            "is_writing": state == JobState.RUNNING and job.phase in _WRITING,
            "waits_for_worker": state == JobState.QUEUED and not job.station.has_worker(),
            "retry_url": ask_url(again=str(job.pk)),
            "restore_url": ask_url(restore=str(job.pk)) if job.backup_id else "",
            "chip": kib(job.chip_size),
        }

    def backup_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """The saved contents of the chip."""
        job = self.viewable(request, pk)
        return attached(request, job.backup, f"backup-{job.card.target}-flash-job-{job.pk}.bin")
