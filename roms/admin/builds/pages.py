"""Builds: the list, the page that orders a build, and the page of one build."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
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
from django.utils.safestring import SafeString

from rescuesite.actors import actor_of
from roms.admin.builds.form import BuildForm
from roms.admin.builds.preview import fit_of, preview_of
from roms.admin.jobs import JobAdmin, JobStateFilter, attached, number
from roms.downloads import CHIP, padded
from roms.models import Build, Card, JobState, Profile
from roms.wording import job_url, kib


@admin.register(Build)
class BuildAdmin(JobAdmin):
    permission = "roms.build_rom"
    job_template, panel_template = "roms/build.html", "roms/build_panel.html"
    order_form = BuildForm
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
        # A user who flashes must be able to choose a build.
        return super().has_view_permission(request, obj) or request.user.has_perm("roms.flash_rom")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Build]:
        return super().get_queryset(request).select_related("card")

    def searched(self, request: HttpRequest, queryset: QuerySet[Any], text: str) -> tuple[QuerySet[Any], bool]:
        if request.GET.get("model_name") == "flashjob" and request.path == reverse("admin:autocomplete"):
            # The form of a flash job offers only builds that can be flashed.
            queryset = queryset.filter(pk__in=Build.objects.flashable().order_by().values("pk"))
        return super().searched(request, queryset, text)

    # The list

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

    # The order form

    def form_context(self, form: BuildForm) -> dict[str, Any]:
        return {
            "title": "Build a ROM",
            "preview": preview_of(form if form.is_bound else _bound(form)),
            "preview_url": reverse("admin:roms_build_preview"),
        }

    def preview_view(self, request: HttpRequest) -> HttpResponseBase:
        """The live preview: the result of the form so far, and the errors by field, as JSON."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        form = BuildForm(request.POST)
        preview = preview_of(form)
        html = render_to_string("roms/build_preview.html", {"preview": preview}, request)
        errors = {name: [str(text) for text in texts] for name, texts in form.errors.items()}
        return JsonResponse({"errors": errors, "html": html}, headers={"Cache-Control": "no-store"})

    def initial(self, request: HttpRequest) -> dict[str, Any]:
        """The values of an earlier build, or the defaults; with the card and profile that the query names."""
        like = number(request.GET.get("like"))
        build = Build.objects.select_related("card").filter(pk=like).first() if like else None
        initial = BuildForm.order_of(build) if build else BuildForm.default(request)
        asked = request.GET.get("card", "")
        if chosen := Card.objects.filter(Q(slug=asked) | Q(pk=number(asked))).first():
            initial["card"] = chosen
        if request.GET.get("profile") in Profile.values:
            initial["profile"] = request.GET["profile"]
        return initial

    # The page of one build

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
        """Submit the same order again."""
        job = self.to_be_changed(request, pk)
        if isinstance(job, HttpResponseBase):
            return job
        if not job.is_finished:
            messages.warning(request, "The build has not finished yet.")
            return HttpResponseRedirect(job_url(job))
        try:
            build: Build = job.again().submit(actor_of(request))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return HttpResponseRedirect(job_url(job))
        messages.success(request, f"Build {build.pk} repeats build {job.pk}.")
        return HttpResponseRedirect(job_url(build))

    def rom_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        build = self.viewable(request, pk)
        return attached(request, build.artifact, build.file_name)

    def padded_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """The ROM, padded to the size of the chip: some flash programmers need that."""
        build = self.viewable(request, pk)
        if build.artifact is None or not build.artifact.is_intact():
            raise Http404("This build has no ROM, or its file is missing in the data directory.")
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
    """The form with its initial values posted: for the preview before anybody has filled it in."""
    data = {}
    for field in form:
        value = field.value()
        data[field.name] = getattr(value, "pk", value)
    return BuildForm({name: value for name, value in data.items() if value is not None})
