"""API tokens: staff users manage their own. Only a superuser sees and deletes those of others."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse

from machines.admin.auditing import AuditingModelAdmin
from machines.admin.owned import OwnedAdmin, OwnedForm
from machines.models import APIToken
from rescuesite.actors import actor_of


class APITokenForm(OwnedForm):
    unique_field = "name"

    class Meta:
        model = APIToken
        fields = ("name", "user", "expires_at")


@admin.register(APIToken)
class APITokenAdmin(OwnedAdmin, AuditingModelAdmin):
    form = APITokenForm
    own_fields = ("name", "expires_at")
    shown_fields = ("created_at", "last_used_at")
    list_display = ("name", "user", "created_at", "last_used_at", "expires_at", "active")
    search_fields = ("name", "user__username")

    @admin.display(description="active", boolean=True)
    def active(self, token: APIToken) -> bool:
        return token.user.is_active and not token.has_expired

    def save_model(self, request: HttpRequest, obj: APIToken, form: Any, change: Any) -> None:
        request.clear_token = obj.issue(actor_of(request))  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: APIToken, post_url_continue: str | None = None) -> HttpResponse:
        clear: str = request.clear_token  # type: ignore[attr-defined]
        title = "The token, shown only once"
        return self.page(request, "machines/token.html", title, shows_secret=True, token=obj, clear=clear)
