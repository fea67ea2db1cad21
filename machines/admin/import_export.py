"""The pages to import machines from a table and to export them. The import shows its changes before it applies them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from machines.admin.lookups import OfferedLookups
from machines.import_export.exporting import table
from machines.import_export.plan import Plan, apply, plan
from machines.import_export.reading import COLUMNS, decode, read
from machines.import_export.rows import BulkError, Problem
from machines.models import Machine
from machines.models.machine import ENABLE_RESCUE
from rescuesite.actors import actor_of

#: The largest table, in bytes. The page for confirmation contains it. The command accepts larger ones.
MAX_UPLOAD = 2 << 20
#: The largest number of changes and errors on the page.
_SHOWN = 200


class UploadForm(forms.Form):
    file = forms.FileField(
        label="Table",
        help_text=f"A CSV file, or an old rescue.php. The first line of the CSV file must name its columns "
        f"({', '.join(COLUMNS)}). The next page shows all changes before you import them.",
    )

    def clean_file(self) -> bytes:
        upload = self.cleaned_data["file"]
        if upload.size > MAX_UPLOAD:
            raise forms.ValidationError(
                f"The file is larger than {MAX_UPLOAD >> 20} MB. Use manage.py import_machines on the server."
            )
        contents: bytes = upload.read()
        return contents


class MachineTables(OfferedLookups):
    """For MachineAdmin: import and export of machines."""

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
        """Ask for a table, show its changes, and apply them after confirmation."""
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
            # Something has changed since the changes were shown.
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
        for name, rows in (("problems", problems or []), ("changes", changes), ("remarks", remarks)):
            context |= {name: rows[:_SHOWN], f"more_{name}": max(0, len(rows) - _SHOWN)}
        return self.page(request, "machines/import.html", "Import machines", planned=planned, **context)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        return self.csv_of_list(request, "machines", _table)


def _table(machines: QuerySet[Machine]) -> Iterator[str]:
    return table(Machine.objects.for_lists().filter(pk__in=machines.order_by().values("pk")))
