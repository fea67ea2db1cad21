"""What the pages of builds and flash jobs share: the list, the order form, the live panel, the log, cancelling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from machines.admin.lookups import OfferedLookups
from machines.boot.sending import send
from machines.models import Actor, StoredFile
from rescuesite.actors import actor_of
from roms.models import Job, JobState
from roms.models.job import FINISHED
from roms.wording import CSS_CLASSES, MEANINGS, badge, card_code, duration_text, job_url

#: Primary keys and offsets in a log have fewer digits.
MAX_DIGITS = 19
#: How much of the log's end the page shows at first, and how much it fetches per request. In bytes.
TAIL, CHUNK = 64 << 10, 256 << 10


def number(text: str | None) -> int | None:
    """A number from a request's query; None if the text is not a valid number."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else None


def attached(request: HttpRequest, stored: StoredFile | None, name: str) -> HttpResponseBase:
    """A response that downloads a stored file under this name. Raises Http404."""
    if stored is None or not stored.is_intact():
        raise Http404("This file is missing in the data directory.")
    response = send(request, stored)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


class OrderForm(forms.Form):
    """A form in which staff order a job."""

    fieldsets: Any = ()

    def submit(self, actor: Actor) -> Job:
        """Submit the job of this valid form. Raises ValidationError."""
        raise NotImplementedError

    def add_model_errors(self, error: ValidationError) -> None:
        """Show the errors of the model at the fields of this form."""
        for name, texts in error.message_dict.items():
            self.add_error(name if name in self.fields else None, texts)


class JobStateFilter(admin.SimpleListFilter):
    """Filters by the effective state: a running job whose worker has stopped counts as lost."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unfinished", "queued or running"), *((state.value, state.label.lower()) for state in JobState)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "unfinished":
            return queryset.unfinished()
        return queryset.with_status(self.value()) if self.value() in JobState.values else queryset


class JobAdmin(OfferedLookups):
    """The admin of jobs: staff order and cancel them, but never edit or delete them."""

    #: The permission to order and to cancel such jobs.
    permission = ""
    #: The page of one job, and its panel, which the browser fetches again while the job runs.
    job_template = panel_template = ""
    order_form: type[OrderForm]
    list_per_page = 50
    show_full_result_count = False

    class Media:
        css = {"all": ["roms/roms.css"]}
        js = ["roms/jobs.js"]

    # Who may do what

    def may_act(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.permission)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may_act(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or self.may_act(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # The list

    @admin.display(description="no.", ordering="pk")
    def name(self, job: Job) -> str:
        return f"#{job.pk}"

    @admin.display(description="state")
    def status(self, job: Job) -> SafeString:
        return badge(job.status_at())

    @admin.display(description="card", ordering="card__slug")
    def card_short(self, job: Any) -> SafeString | str:
        return card_code(job.card)

    @admin.display(description="took")
    def took(self, job: Job) -> SafeString:
        return format_html('<span class="nowrap">{}</span>', duration_text(job.duration))

    @admin.display(description="requested", ordering="created_at")
    def asked(self, job: Job) -> SafeString:
        at = timezone.localtime(job.created_at)
        html = '<span class="nowrap" title="{}">{}</span><br>{}'
        return format_html(html, f"{at:%Y-%m-%d %H:%M:%S}", f"{at:%m-%d %H:%M}", job.requested_by_name)

    # The page of one job

    def get_urls(self) -> list[URLPattern]:
        view, name = self.admin_site.admin_view, f"roms_{self.opts.model_name}"
        return [
            path("<int:pk>/panel/", view(self.panel_view), name=f"{name}_panel"),
            path("<int:pk>/log/", view(self.log_view), name=f"{name}_log"),
            path("<int:pk>/cancel/", view(self.cancel_view), name=f"{name}_cancel"),
            *self.job_urls(name),
            *super().get_urls(),
        ]

    def job_urls(self, name: str) -> list[URLPattern]:
        """URLs of further pages."""
        return []

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        job = self.viewable(request, number(object_id))
        # Read the job before its log: the log of a finished job is then complete.
        panel = self.panel(request, job)
        log, offset = job.log_from(-TAIL, TAIL)
        context = {
            **self.admin_site.each_context(request),
            **panel,
            **(extra_context or {}),
            "title": str(job).capitalize(),
            "opts": self.opts,
            "media": self.media,
            "panel_template": self.panel_template,
            "panel_url": reverse(f"admin:roms_{self.opts.model_name}_panel", args=[job.pk]),
            "log_url": reverse(f"admin:roms_{self.opts.model_name}_log", args=[job.pk]),
            "log": log,
            "log_is_cut": offset > TAIL,
            "offset": offset,
        }
        return TemplateResponse(request, self.job_template, context)

    def panel(self, request: HttpRequest, job: Any) -> dict[str, Any]:
        """The context of the panel. Subclasses add to it."""
        state = job.status_at()
        return {
            "job": job,
            "state": state,
            "look": CSS_CLASSES[state],
            "meaning": MEANINGS[state],
            "is_finished": state in FINISHED,
            "error": job.problem,
            "took": "" if state == JobState.LOST else duration_text(job.duration),
            "last_heard": job.heartbeat_at if state == JobState.LOST else None,
            "percent": round(job.progress * 100),
            "may_act": self.may_act(request),
            "cancel_url": reverse(f"admin:roms_{self.opts.model_name}_cancel", args=[job.pk]),
        }

    def panel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The panel, and the log from an offset on, as JSON: the page fetches it while the job runs."""
        job = self.viewable(request, pk)
        context = self.panel(request, job)
        start = number(request.GET.get("from")) or 0
        log, offset = job.log_from(start, CHUNK)
        more = offset - start >= CHUNK
        return JsonResponse(
            {
                "panel": render_to_string(self.panel_template, context, request),
                "log": log,
                "offset": offset,
                "more": more,
                "finished": context["is_finished"] and not more,
            },
            headers={"Cache-Control": "no-store"},
        )

    def log_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """The whole log, as a text file."""
        job = self.viewable(request, pk)
        response = StreamingHttpResponse(_whole_log(job), content_type="text/plain; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{job.kind}-{job.pk}.log"'
        return response

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        job = self.to_be_changed(request, pk)
        if isinstance(job, HttpResponseBase):
            return job
        if job.is_finished or not job.cancel(actor_of(request)):
            messages.warning(request, "The job has already finished.")
        elif job.state == JobState.CANCELLED:
            messages.success(request, "Cancelled.")
        else:
            messages.info(request, "The site has asked the worker to stop.")
        return HttpResponseRedirect(job_url(job))

    def to_be_changed(self, request: HttpRequest, pk: int) -> Any:
        """The job for a POST request, or the response to any other method. Raises PermissionDenied, Http404."""
        job = self.viewable(request, pk)
        if not self.may_act(request):
            raise PermissionDenied
        return job if request.method == "POST" else HttpResponseNotAllowed(["POST"])

    def viewable(self, request: HttpRequest, pk: int | None) -> Any:
        """The job with this number. Raises PermissionDenied, Http404."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        job = self.get_queryset(request).filter(pk=pk).first()
        if job is None:
            raise Http404(f"There is no such {self.opts.verbose_name}. The site removes old jobs after some time.")
        return job

    # The order form

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = self.bound_form(request)
        if form.is_bound and "_preview" not in request.POST and form.is_valid():
            try:
                job = form.submit(actor_of(request))
            except ValidationError as error:
                form.add_model_errors(error)
            else:
                return HttpResponseRedirect(job_url(job))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "form": form,
            "adminform": AdminForm(form, form.fieldsets, {}),
            "media": self.media + form.media,
            **self.form_context(form),
            **(extra_context or {}),
        }
        return TemplateResponse(request, f"roms/{self.opts.model_name}_form.html", context)

    def bound_form(self, request: HttpRequest) -> Any:
        """The order form, with what the request posts."""
        return self.order_form(request.POST if request.method == "POST" else None, initial=self.initial(request))

    def initial(self, request: HttpRequest) -> dict[str, Any]:
        """The initial values of the order form."""
        raise NotImplementedError

    def form_context(self, form: Any) -> dict[str, Any]:
        """What else the page with the order form shows."""
        raise NotImplementedError


def _whole_log(job: Job) -> Iterator[str]:
    offset = 0
    while True:
        text, end = job.log_from(offset, CHUNK)
        if end <= offset:
            return
        offset = end
        yield text
