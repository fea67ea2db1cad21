"""Builds: the form that makes one, with its live preview; the list; the page of one while it runs and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    JsonResponse,
)
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from machines.admin.auditing import actor_of
from machines.boot.http import base_url
from machines.models import RescueImage
from roms.admin.jobs import JobAdmin, JobStateFilter, attached, job_url, kib, number, seconds_text, take_errors
from roms.downloads import CHIP, padded
from roms.models import ROM_TARGETS, Build, Card, JobState, Profile, Target
from roms.models.build import KnownSize, platforms_of
from roms.toolchain.ipxe import options as ipxe_options
from roms.toolchain.ipxe.script import checks
from roms.toolchain.ipxe.script.render import render, required_options
from roms.toolchain.ipxe.script.spec import DHCP, VARIABLES, ScriptError, ScriptSpec, StaticNetwork, from_json, to_json
from roms.toolchain.ipxe.script.waits import worst_case, worst_case_seconds

_DEFAULTS = ScriptSpec("http://192.0.2.1")


class BuildForm(forms.Form):
    """What staff choose of a ROM. What is valid the model and the script say: here it is put to the right field."""

    FROM_FORM, BY_HAND = "form", "hand"
    DHCP, STATIC = DHCP, "static"

    target = forms.ChoiceField(choices=Target, initial=Target.ROM, label="What to make")
    profile = forms.ChoiceField(choices=Profile, initial=Profile.MINIMAL, label="Features")
    options = forms.CharField(
        required=False,
        label="Single options",
        help_text="By the names in iPXE's own headers, one in a line: NAME, NAME=off or NAME=20.",
        widget=forms.Textarea(attrs={"rows": 2, "cols": 40, "class": "machine-text", "spellcheck": "false"}),
    )
    banner = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=600,
        label="Banner time-out",
        help_text="How long the ROM offers its prompt at power-on, in tenths of a second. Empty: as iPXE has it.",
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
            "As a network card reaches it: http://192.0.2.10:8000 or https://… Or a file for each machine, as "
            "<code>manage.py export_boot</code> writes them, from a plain server: "
            '<button type="button" class="take" data-file="ftp">FTP</button> '
            '<button type="button" class="take" data-file="tftp">TFTP</button> '
            '<button type="button" class="take" data-file="http">HTTP</button>'
        ),
        widget=forms.TextInput(attrs={"class": "machine-text", "size": 44, "spellcheck": "false"}),
    )
    network = forms.ChoiceField(
        choices=[(DHCP, "DHCP"), (STATIC, "in the ROM: one machine's alone")],
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
        label="What is sent",
        help_text="Besides mac and ip, which are always sent.",
        widget=forms.CheckboxSelectMultiple,
    )
    tries = forms.IntegerField(required=False, initial=_DEFAULTS.tries, label="Tries")
    timeout = forms.IntegerField(required=False, initial=_DEFAULTS.timeout, label="Time-out of one (s)")
    link_wait = forms.IntegerField(required=False, initial=_DEFAULTS.link_wait, label="Wait for a link (s)")
    stp_wait = forms.IntegerField(
        required=False,
        initial=_DEFAULTS.stp_wait,
        label="Slow spanning tree (s)",
        help_text="Spent at every power-on, for a switch port that forwards nothing at first and does not say so.",
    )
    dhcp_wait = forms.IntegerField(
        required=False,
        initial=_DEFAULTS.dhcp_wait,
        label="Wait for DHCP (s)",
        help_text="For a DHCP server or relay that answers late: up to 15, 31 or 63 s. Spent where nobody answers.",
    )
    nic = forms.IntegerField(
        required=False,
        label="Only card number",
        help_text="As iPXE counts those that the ROM drives, from 0. Empty: each in turn.",
    )
    serial_console = forms.BooleanField(required=False, label="Serial console: shows all this at COM1 too")
    text = forms.CharField(
        required=False,
        strip=False,
        label="Script",
        help_text="Begins with #!ipxe. The site does not know how long it may keep a machine from its disk.",
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
            help_text="Type a part of its name or its PCI id.",
        )
        self.order_fields(self.field_order)
        for name in ("banner", "tries", "timeout", "link_wait", "stp_wait", "dhcp_wait", "nic"):
            self.fields[name].widget.attrs["class"] = "rom-number"
        for name in ("ip", "netmask", "gateway", "dns"):
            self.fields[name].widget.attrs |= {"class": "machine-text", "size": 16}
        self.spec: ScriptSpec | None = None

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if values.get("source") == self.BY_HAND:
            self._check_text(values.get("text", ""))
        else:
            self._make_spec(values)
        if not {"card", "target", "profile", "banner"}.intersection(self.errors):
            try:
                self.build().full_clean()
            except ValidationError as error:
                self.take(error)
        return values

    def _check_text(self, text: str) -> None:
        try:
            checks.check_text(text.replace("\r\n", "\n"))
        except ScriptError as error:
            self.add_error("text", list(error.errors.values()))

    def _make_spec(self, values: Mapping[str, Any]) -> None:
        try:
            self.spec = from_json(self._spec_json(values))
        except ScriptError as error:
            for name, message in error.errors.items():
                self.add_error(name.removeprefix("network."), message)

    def _spec_json(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The spec as programs would post it; a number that is none has its own error, and counts as not given."""
        data: dict[str, Any] = {
            "site": values.get("site", ""),
            "network": DHCP,
            "variables": values.get("variables", []),
            "serial_console": values.get("serial_console", False),
        }
        if values.get("network") == self.STATIC:
            data["network"] = {name: values.get(name, "") for name in ("ip", "netmask", "gateway", "dns")}
        numbers = {name: values.get(name) for name in ("tries", "timeout", "link_wait", "stp_wait", "dhcp_wait", "nic")}
        return data | {name: value for name, value in numbers.items() if value is not None}

    def build(self) -> Build:
        """The order, not checked and not submitted."""
        values = self.cleaned_data
        by_hand = values.get("source") == self.BY_HAND
        return Build(
            **{name: values[name] for name in ("card", "target", "profile", "banner")},
            options=self.single_options(),
            script_spec=to_json(self.spec) if self.spec else None,
            script=values.get("text", "") if by_hand else "",
        )

    def single_options(self) -> list[str]:
        return [line.strip() for line in self.cleaned_data.get("options", "").splitlines() if line.strip()]

    def take(self, error: ValidationError) -> None:
        """Show what the model refuses. What is wrong with the script has been said at its fields."""
        errors = {name: texts for name, texts in error.message_dict.items() if name not in {"script", "script_spec"}}
        take_errors(self, ValidationError(errors), {})

    @classmethod
    def default(cls, request: HttpRequest) -> dict[str, Any]:
        return {"site": base_url(request)}

    @classmethod
    def order_of(cls, build: Build) -> dict[str, Any]:
        """The form's values for a build like another one."""
        values: dict[str, Any] = {name: getattr(build, name) for name in ("card", "target", "profile", "banner")}
        values |= {"options": "\n".join(build.options), "text": build.script}
        if build.script_spec is None:
            return values | {"source": cls.BY_HAND}
        spec = from_json(build.script_spec)
        values |= {name: getattr(spec, name) for name in to_json(spec) if name != "network"}
        if isinstance(spec.network, StaticNetwork):
            names = ("ip", "netmask", "gateway", "dns")
            return values | {"network": cls.STATIC} | {name: getattr(spec.network, name) for name in names}
        return values


FIELDSETS = (
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


# What the form comes to


@dataclass(frozen=True)
class Row:
    """How a profile came out for cards like the chosen one."""

    known: KnownSize
    fits: bool | None
    is_chosen: bool

    @property
    def profile(self) -> str:
        return self.known.profile


@dataclass(frozen=True)
class Fit:
    """Whether the ROM fits its chip, as far as earlier builds tell."""

    card: Card
    profile: str
    rows: tuple[Row, ...]
    has_options: bool

    @property
    def chosen(self) -> Row | None:
        return next((row for row in self.rows if row.is_chosen), None)

    @property
    def offer(self) -> Row | None:
        """What to take instead: the largest set of features that fits, where the chosen one is not known to."""
        if self.chosen and self.chosen.fits:
            return None
        return next((row for row in reversed(self.rows) if row.fits and not row.is_chosen), None)

    @property
    def chip(self) -> str:
        return kib(self.card.chip_size)

    @property
    def verdict(self) -> str:
        """For the page: fits, too-large or unknown."""
        if self.chosen is None or self.chosen.fits is None:
            return "unknown"
        return "fits" if self.chosen.fits else "too-large"


def fit_of(card: Card | None, target: str, profile: str, *, has_options: bool) -> Fit | None:
    """What is known of the size; None for what goes into no chip, or while no card is chosen. One query."""
    if card is None or target not in ROM_TARGETS:
        return None

    def row(known: KnownSize) -> Row:
        fits = known.fits(card.chip_size) if card.chip_size else None
        return Row(known, fits, known.profile == profile)

    rows = tuple(row(known) for known in Build.objects.known_sizes(card, target))
    return Fit(card, profile, rows, has_options)


@dataclass(frozen=True)
class Delay:
    """How long a machine may be kept from its disk."""

    site: str
    network: str
    cases: tuple[tuple[str, str], ...]
    per_card: str


def delay_of(spec: ScriptSpec) -> Delay:
    files = RescueImage.objects.most_fetched()
    case = worst_case(spec, files=files)
    cases = [
        ("no cable", case.no_link),
        ("no answer to DHCP", case.no_address),
        ("no answer from the site", case.no_site),
        (f"a site that falls silent in each of a rescue's {files} files", case.in_files),
        ("whatever else happens", case.ever),
    ]
    more = worst_case_seconds(spec, 2) - worst_case_seconds(spec, 1)
    return Delay(
        seconds_text(case.no_site),
        seconds_text(max(case.no_link, case.no_address)),
        tuple((what, seconds_text(seconds)) for what, seconds in cases if seconds),
        seconds_text(more) if more else "",
    )


@dataclass(frozen=True)
class Needed:
    """A build option that the script cannot do without."""

    name: str
    is_added: bool  # the profile leaves it out


def needed_by(spec: ScriptSpec, profile: str) -> list[Needed]:
    left_out = {name for name, value in ipxe_options.PROFILES.get(profile, {}).items() if value is False}
    return [Needed(name, name in left_out) for name in sorted(required_options(spec))]


def preview_of(form: BuildForm) -> dict[str, Any]:
    """What the preview shows of a bound form, valid or not."""
    form.is_valid()
    values = form.cleaned_data
    profile, singles = values.get("profile", ""), form.single_options()
    script, warnings = "", []
    if form.spec:
        script = render(form.spec)
    elif values.get("source") == BuildForm.BY_HAND and "text" not in form.errors:
        script = values["text"].replace("\r\n", "\n")
        platforms = platforms_of(values.get("target", ""))
        warnings = checks.check_text(script, checks.likely_options(profile, singles), platforms)
    return {
        "problems": [
            (form.fields[name].label or name.capitalize() if name in form.fields else "", texts)
            for name, texts in form.errors.items()
        ],
        "script": script,
        "warnings": warnings,
        "delay": delay_of(form.spec) if form.spec else None,
        "needed": needed_by(form.spec, profile) if form.spec else [],
        "kept_out": checks.takeover_options(profile, singles) if form.spec else [],
        "fit": fit_of(values.get("card"), values.get("target", ""), profile, has_options=bool(singles)),
        "is_medium": values.get("target") not in ROM_TARGETS,
    }


@admin.register(Build)
class BuildAdmin(JobAdmin):
    permission = "roms.build_rom"
    job_template, panel_template = "roms/build.html", "roms/build_panel.html"
    list_display = (
        "name", "status", "card_short", "target_code", "profile_name", "how_large", "fits_chip", "script_short",
        "asked", "took",
    )  # fmt: skip
    list_filter = (JobStateFilter, "target", "profile", "created_at")
    search_fields = (
        "id__exact", "card__name", "card__slug", "target", "profile", "requested_by_name", "script_sha256__startswith",
        "sha256__startswith",
    )  # fmt: skip
    search_help_text = "Number, card, target, profile, person, or the beginning of a SHA-256."

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Who flashes must be able to choose a build.
        return super().has_view_permission(request, obj) or request.user.has_perm("roms.flash_rom")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Build]:
        return super().get_queryset(request).select_related("card")

    def searched(self, request: HttpRequest, queryset: QuerySet[Any], text: str) -> tuple[QuerySet[Any], bool]:
        if request.GET.get("model_name") == "flashjob" and request.path == reverse("admin:autocomplete"):
            # To be flashed: what was made, newest first.
            queryset = queryset.filter(pk__in=Build.objects.flashable().order_by().values("pk"))
        return super().searched(request, queryset, text)

    # The list

    @admin.display(description="no.", ordering="pk")
    def name(self, build: Build) -> str:
        return f"#{build.pk}"

    @admin.display(description="target", ordering="target")
    def target_code(self, build: Build) -> str:
        return build.target

    @admin.display(description="profile", ordering="profile")
    def profile_name(self, build: Build) -> str:
        return build.profile

    @admin.display(description="size", ordering="size")
    def how_large(self, build: Build) -> str:
        return f"{build.size:,}" if build.size is not None else ""

    @admin.display(description="fits", boolean=True)
    def fits_chip(self, build: Build) -> bool | None:
        return build.fits

    @admin.display(description="script", ordering="script_sha256")
    def script_short(self, build: Build) -> SafeString:
        return format_html('<code title="{}">{}</code>', build.script_sha256, build.script_sha256[:8])

    # Asking for one

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        is_posted = request.method == "POST"
        form = BuildForm(request.POST if is_posted else None, initial=self._initial(request))
        if is_posted and "_preview" not in request.POST and form.is_valid():
            try:
                build = form.build().submit(actor_of(request))
            except ValidationError as error:
                form.take(error)
            else:
                return HttpResponseRedirect(job_url(build))
        context = {
            "title": "Build a ROM",
            "preview": preview_of(form if is_posted else _bound(form)),
            "preview_url": reverse("admin:roms_build_preview"),
            **(extra_context or {}),
        }
        return self.ask_page(request, form, FIELDSETS, context)

    def preview_view(self, request: HttpRequest) -> HttpResponseBase:
        """The live preview: what the form as it stands comes to, and what is wrong with which field."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        form = BuildForm(request.POST)
        preview = preview_of(form)
        html = render_to_string("roms/build_preview.html", {"preview": preview}, request)
        errors = {name: [str(text) for text in texts] for name, texts in form.errors.items()}
        return JsonResponse({"errors": errors, "html": html}, headers={"Cache-Control": "no-store"})

    def _initial(self, request: HttpRequest) -> dict[str, Any]:
        """What the form begins with: a card, or an earlier build's whole order."""
        like = number(request.GET.get("like"))
        build = Build.objects.select_related("card").filter(pk=like).first() if like else None
        initial = BuildForm.order_of(build) if build else BuildForm.default(request)
        asked = request.GET.get("card", "")
        if chosen := Card.objects.filter(Q(slug=asked) | Q(pk=number(asked))).first():
            initial["card"] = chosen
        if request.GET.get("profile") in Profile.values:
            initial["profile"] = request.GET["profile"]
        return initial

    # The page of one

    def job_urls(self, name: str) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("preview/", view(self.preview_view), name="roms_build_preview"),
            path("<int:pk>/retry/", view(self.retry_view), name="roms_build_retry"),
            path("<int:pk>/rom/", view(self.rom_view), name="roms_build_rom"),
            path("<int:pk>/rom/padded/", view(self.padded_view), name="roms_build_padded"),
        ]

    def panel(self, request: HttpRequest, job: Build) -> dict[str, Any]:
        context = super().panel(request, job)
        flashable = job.is_rom and context["state"] == JobState.SUCCEEDED and job.fits is not False
        is_too_large = job.state != JobState.SUCCEEDED and job.fits is False
        smaller = fit_of(job.card, job.target, job.profile, has_options=False) if is_too_large else None
        chip_size = job.chip_size or (job.card.chip_size if job.card else None)
        return {
            **context,
            "chip": kib(chip_size),
            "retry_url": reverse("admin:roms_build_retry", args=[job.pk]),
            "is_flashable": flashable,
            "may_flash": request.user.has_perm("roms.flash_rom"),
            "can_be_padded": flashable and chip_size is not None,
            "offer": smaller.offer if smaller else None,
            "commands": "\n".join(map(str, job.commands)),
        }

    def retry_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """The same order once more."""
        job = self.to_be_changed(request, pk)
        if isinstance(job, HttpResponseBase):
            return job
        if not job.is_finished:
            messages.warning(request, "It is not finished yet.")
            return HttpResponseRedirect(job_url(job))
        try:
            build: Build = job.again().submit(actor_of(request))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return HttpResponseRedirect(job_url(job))
        messages.success(request, f"This is build {build.pk}: the same order as build {job.pk}.")
        return HttpResponseRedirect(job_url(build))

    def rom_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """What was built, as it was built."""
        build = self.viewable(request, pk)
        return attached(request, build.artifact, build.file_name)

    def padded_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """What was built, filled up to the size of the chip: for a programmer that wants it so."""
        build = self.viewable(request, pk)
        if build.artifact is None or not build.artifact.is_intact():
            raise Http404("This build has no ROM, or it is gone from the data directory.")
        try:
            contents = padded(build, CHIP)
        except ValidationError as error:
            raise Http404(" ".join(error.messages)) from error
        response = HttpResponse(
            contents, content_type="application/octet-stream", headers={"Cache-Control": "no-store"}
        )
        name, _, suffix = build.file_name.rpartition(".")
        response["Content-Disposition"] = f'attachment; filename="{name}-{len(contents) // 1024}k.{suffix}"'
        return response


def _bound(form: BuildForm) -> BuildForm:
    """The same form as if its initial values had been posted: for the preview of a form that nobody has filled in."""
    data = {}
    for field in form:
        value = field.value()
        data[field.name] = getattr(value, "pk", value)
    return BuildForm({name: value for name, value in data.items() if value is not None})
