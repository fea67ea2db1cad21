"""Many machines at once: the page that imports a table, after showing what would be done, and the export."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from machines.import_export.exporting import table
from machines.import_export.plan import Plan, apply, plan
from machines.import_export.reading import COLUMNS, decode, read
from machines.import_export.rows import BulkError, Problem
from machines.models import Machine
from machines.models.machine import ENABLE_RESCUE
from rescuesite.actors import actor_of

#: What is shown to be confirmed travels in the form; more is for the command. In bytes.
MAX_UPLOAD = 2 << 20
#: So many changes and errors people are shown.
_SHOWN = 200


class UploadForm(forms.Form):
    file = forms.FileField(
        label="Table",
        help_text=f"CSV, whose first line names its columns ({', '.join(COLUMNS)}), or an old rescue.php. "
        "Nothing is changed before you have seen what would be.",
    )

    def clean_file(self) -> bytes:
        upload = self.cleaned_data["file"]
        if upload.size > MAX_UPLOAD:
            raise forms.ValidationError(
                f"The file has more than {MAX_UPLOAD >> 20} MB; use manage.py import_machines on the server."
            )
        contents: bytes = upload.read()
        return contents


class MachineTables:
    """For MachineAdmin: import and export of the list."""

    admin_site: admin.AdminSite
    opts: Any

    def table_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("import/", view(self.import_view), name="machines_machine_import"),
            path("export/", view(self.export_view), name="machines_machine_export"),
        ]

    @staticmethod
    def may_import(request: HttpRequest) -> bool:
        return request.user.has_perms(["machines.add_machine", "machines.change_machine"])

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a table; show what it would do; do it once that is confirmed."""
        if not self.may_import(request):
            raise PermissionDenied
        if request.method != "POST":
            return self._import_page(request, form=UploadForm())
        if "contents" in request.POST:
            return self._confirmed(request, request.POST["contents"])
        form = UploadForm(request.POST, request.FILES)
        if not form.is_valid():
            return self._import_page(request, form=form)
        try:
            found = read(form.cleaned_data["file"])
            planned = plan(found, may_switch=request.user.has_perm(ENABLE_RESCUE))
        except BulkError as error:
            return self._import_page(request, form=UploadForm(), problems=error.problems)
        contents = decode(form.cleaned_data["file"])
        return self._import_page(request, planned=planned, contents=contents)

    def _confirmed(self, request: HttpRequest, contents: str) -> HttpResponse:
        try:
            done = apply(read(contents.encode()), actor_of(request))
        except BulkError as error:
            # What was shown does not hold any more.
            return self._import_page(request, form=UploadForm(), problems=error.problems)
        messages.success(request, done.done)
        return HttpResponseRedirect(reverse("admin:machines_machine_changelist"))

    def _import_page(
        self,
        request: HttpRequest,
        *,
        problems: list[Problem] | None = None,
        planned: Plan | None = None,
        **context: Any,
    ) -> HttpResponse:
        changes, remarks = (planned.changes, planned.remarks) if planned else ([], [])
        context |= {
            **self.admin_site.each_context(request),
            "title": "Import machines",
            "opts": self.opts,
            "problems": (problems or [])[:_SHOWN],
            "more_problems": max(0, len(problems or []) - _SHOWN),
            "planned": planned,
            "changes": changes[:_SHOWN],
            "more_changes": max(0, len(changes) - _SHOWN),
            "remarks": remarks[:_SHOWN],
            "more_remarks": max(0, len(remarks) - _SHOWN),
        }
        return TemplateResponse(request, "machines/import.html", context)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """The machines that the list's filters and search leave, as the table that is imported."""
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        try:
            machines = self.get_changelist_instance(request).get_queryset(request)  # type: ignore[attr-defined]
        except IncorrectLookupParameters:
            return HttpResponseRedirect(f"{reverse('admin:machines_machine_changelist')}?e=1")
        found = Machine.objects.for_lists().filter(pk__in=machines.order_by().values("pk"))
        response = StreamingHttpResponse(table(found), content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = 'attachment; filename="machines.csv"'
        return response
