"""The admin site: Django's, with an overview on the front page."""

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from rescuesite import disk_space


class RescueAdminSite(admin.AdminSite):
    site_header = "Rescue"
    site_title = "Rescue"
    index_title = "Overview"
    password_change_template = "machines/own_password.html"  # noqa: S105 - a template

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        from rescuesite.login import LoginForm

        self.login_form = LoginForm
        return super().login(request, extra_context)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Django's view, with an audit entry."""
        from machines.models import AuditEntry
        from rescuesite.actors import actor_of

        with transaction.atomic():
            response: HttpResponse = super().password_change(request, extra_context)
            if request.method == "POST" and response.status_code == 302:
                AuditEntry.objects.record("own_password_changed", actor=actor_of(request))
        return response

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        from machines.dashboard import dashboard
        from roms.dashboard import rom_dashboard

        may_see = request.user.has_perm("machines.view_machine")
        context = {
            "disk_problem": disk_space.problem(),
            "dashboard": dashboard() if may_see else None,
            "roms": rom_dashboard(request.user),
            "may_see_audit": request.user.has_perm("machines.view_auditentry"),
            "own_keys": request.user.ssh_keys.count(),  # type: ignore[union-attr]
        }
        return super().index(request, {**(extra_context or {}), **context})
