"""API tokens: everybody on the staff keeps their own; a superuser sees and deletes all."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from machines.admin.auditing import actor_of
from machines.admin.lookups import OfferedLookups
from machines.models import APIToken


class APITokenForm(forms.ModelForm[APIToken]):
    class Meta:
        model = APIToken
        fields = ("name", "user", "expires_at")

    def _get_validation_exclusions(self) -> set[str]:
        # The constraint on user and name is to be checked, although the form does not always ask for both.
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return excluded - {"user", "name"}


@admin.register(APIToken)
class APITokenAdmin(OfferedLookups):
    """The model leaves the audit entries, as tokens are made by other ways too."""

    form = APITokenForm
    list_display = ("name", "user", "created_at", "last_used_at", "expires_at", "works")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")

    @admin.display(description="works", boolean=True)
    def works(self, token: APIToken) -> bool:
        return token.user.is_active and not token.has_expired

    def save_model(self, request: HttpRequest, obj: APIToken, form: Any, change: Any) -> None:
        request.clear_token = obj.issue(actor_of(request))  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: APIToken, post_url_continue: str | None = None) -> HttpResponse:
        """The clear text, in this response and nowhere else: a message would be kept until somebody reads it."""
        context = {
            **self.admin_site.each_context(request),
            "title": "The token, shown this once",
            "opts": self.opts,
            "token": obj,
            "clear": request.clear_token,  # type: ignore[attr-defined]
        }
        return TemplateResponse(request, "machines/token.html", context, headers={"Cache-Control": "no-store"})

    def delete_model(self, request: HttpRequest, obj: APIToken) -> None:
        obj.revoke(actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[APIToken]) -> None:
        with transaction.atomic():
            for token in queryset:
                token.revoke(actor_of(request))

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[APIToken]:
        tokens: models.QuerySet[APIToken] = super().get_queryset(request)
        return tokens if request.user.is_superuser else tokens.filter(user=request.user.pk)

    def get_fields(self, request: HttpRequest, obj: APIToken | None = None) -> Any:
        fields = ["name", "expires_at"]
        if request.user.is_superuser:
            fields.append("user")
        return fields + (["created_at", "last_used_at"] if obj else [])

    def get_readonly_fields(self, request: HttpRequest, obj: APIToken | None = None) -> list[str]:
        return ["created_at", "last_used_at"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"user": request.user.pk}

    def get_form(self, request: HttpRequest, obj: APIToken | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if obj is None and not request.user.is_superuser:
            owner = request.user

            class OwnTokenForm(form):  # type: ignore[misc, valid-type]
                def _post_clean(self) -> None:
                    self.instance.user = owner
                    super()._post_clean()

            return OwnTokenForm
        return form

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: APIToken | None = None) -> bool:
        return self._may(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._is_staff(request)

    def has_change_permission(self, request: HttpRequest, obj: APIToken | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: APIToken | None = None) -> bool:
        return self._may(request, obj)

    @staticmethod
    def _is_staff(request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def _may(self, request: HttpRequest, obj: APIToken | None) -> bool:
        own = obj is None or request.user.is_superuser or obj.user_id == request.user.pk
        return self._is_staff(request) and own
