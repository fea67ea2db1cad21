"""What the pages of builds and flash jobs share: the list, the live panel with its log, the log, cancelling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied, ValidationError
from django.forms import Form
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
from machines.models import StoredFile
from rescuesite.actors import actor_of
from roms.models import Job, JobState
from roms.models.job import FINISHED
from roms.wording import CSS_CLASSES, MEANINGS, badge, card_code, duration_text, job_url

#: A primary key has fewer digits; so has an offset in a log.
MAX_DIGITS = 19
#: So much of a log's end the page shows at first, and so much it fetches at once. In bytes.
TAIL, CHUNK = 64 << 10, 256 << 10


def number(text: str | None) -> int | None:
    """A primary key in a request's query; None where it can be none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else None


def take_errors(form: Form, error: ValidationError) -> None:
    """Show what a model refuses at the form's fields."""
    for name, texts in error.message_dict.items():
        form.add_error(name if name in form.fields else None, texts)


def attached(request: HttpRequest, stored: StoredFile | None, name: str) -> HttpResponseBase:
    """The response that has a stored file saved under a name. Raises Http404."""
    if stored is None or not stored.is_intact():
        raise Http404("This file is gone from the data directory.")
    response = send(request, stored)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


class JobStateFilter(admin.SimpleListFilter):
    """By the effective state, in which a job whose worker has gone is lost."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unfinished", "queued or running"), *((state.value, state.label.lower()) for state in JobState)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "unfinished":
            return queryset.unfinished()
        return queryset.with_status(self.value()) if self.value() in JobState.values else queryset


class JobAdmin(OfferedLookups):
    """Jobs are asked for and cancelled, never edited or deleted."""

    #: Needed to ask for such jobs and to cancel them.
    permission = ""
    #: What the page of one job is made of; the panel is what is fetched again while it runs.
    job_template = panel_template = ""
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

    @admin.display(description="asked for", ordering="created_at")
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
        """Further pages of such jobs."""
        return []

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        job = self.viewable(request, number(object_id))
        # First the job, then its log: of a finished one it is complete.
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
        """What the panel shows; subclasses add to it."""
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
        """What the page fetches while the job is under way: the panel, and the log from an offset on."""
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
            messages.warning(request, "It was finished already.")
        elif job.state == JobState.CANCELLED:
            messages.success(request, "Cancelled.")
        else:
            messages.info(request, "Its worker is asked to stop.")
        return HttpResponseRedirect(job_url(job))

    def to_be_changed(self, request: HttpRequest, pk: int) -> Any:
        """The job that a button was pressed for, or the refusal of anything but a POST. Raises PermissionDenied."""
        job = self.viewable(request, pk)
        if not self.may_act(request):
            raise PermissionDenied
        return job if request.method == "POST" else HttpResponseNotAllowed(["POST"])

    def viewable(self, request: HttpRequest, pk: int | None) -> Any:
        """The job of that number. Raises PermissionDenied, Http404."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        job = self.get_queryset(request).filter(pk=pk).first()
        if job is None:
            raise Http404(f"There is no such {self.opts.verbose_name}; old ones are removed after a time.")
        return job

    # Asking for one

    def ask_page(self, request: HttpRequest, form: Form, fieldsets: Any, context: dict[str, Any]) -> HttpResponse:
        """The form in which a job is ordered."""
        page = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "form": form,
            "adminform": AdminForm(form, fieldsets, {}),  # type: ignore[arg-type]
            "media": self.media + form.media,
            **context,
        }
        return TemplateResponse(request, f"roms/{self.opts.model_name}_form.html", page)


def _whole_log(job: Job) -> Iterator[str]:
    offset = 0
    while True:
        text, end = job.log_from(offset, CHUNK)
        if end <= offset:
            return
        offset = end
        yield text
