"""The admin site: Django's own, with a front page that shows how things stand."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse


class RescueAdminSite(admin.AdminSite):
    site_header = "Rescue"
    site_title = "Rescue"
    index_title = "How things stand"

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        from machines.dashboard import dashboard

        may_see = request.user.has_perm("machines.view_machine")
        context = {
            "dashboard": dashboard() if may_see else None,
            "may_see_audit": request.user.has_perm("machines.view_auditentry"),
            "own_keys": request.user.ssh_keys.count(),  # type: ignore[union-attr]
        }
        return super().index(request, {**(extra_context or {}), **context})
