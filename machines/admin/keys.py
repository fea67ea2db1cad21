"""SSH keys: everybody on the staff keeps their own, and nobody but a superuser touches another's."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest

from machines.admin.auditing import AuditedAdmin
from machines.models import SSHKey


class SSHKeyForm(forms.ModelForm[SSHKey]):
    class Meta:
        model = SSHKey
        fields = ("public_key", "user")
        widgets = {"public_key": forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"})}

    def _get_validation_exclusions(self) -> set[str]:
        # The constraint on user and fingerprint is to be checked, although the form does not ask for both.
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return excluded - {"user", "fingerprint"}


@admin.register(SSHKey)
class SSHKeyAdmin(AuditedAdmin):
    form = SSHKeyForm
    list_display = ("name", "user", "type", "fingerprint", "added_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "fingerprint", "public_key")
    readonly_fields = ("fingerprint", "added_at")

    @admin.display(description="name", ordering="public_key")
    def name(self, key: SSHKey) -> str:
        return str(key)

    @admin.display(description="type")
    def type(self, key: SSHKey) -> str:
        return key.parsed.type

    def snapshot(self, obj: SSHKey) -> dict[str, Any]:
        return {"user": obj.user.get_username(), "fingerprint": obj.fingerprint}

    def save_model(self, request: HttpRequest, obj: SSHKey, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if obj.dropped_options:
            messages.warning(
                request,
                f"The options {obj.dropped_options} were left out: rescue systems get the key alone, and it may log in "
                "from everywhere.",
            )

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[SSHKey]:
        keys: models.QuerySet[SSHKey] = super().get_queryset(request)
        return keys if request.user.is_superuser else keys.filter(user=request.user.pk)

    def get_fields(self, request: HttpRequest, obj: SSHKey | None = None) -> Any:
        fields = ["public_key"]
        if request.user.is_superuser:
            fields.append("user")
        return fields + (["fingerprint", "added_at"] if obj else [])

    def get_readonly_fields(self, request: HttpRequest, obj: SSHKey | None = None) -> list[str]:
        # Another key is another object: its fingerprint stands in the audit log.
        return ["fingerprint", "added_at"] + (["public_key", "user"] if obj else [])

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"user": request.user.pk}

    def get_form(self, request: HttpRequest, obj: SSHKey | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if obj is None and not request.user.is_superuser:
            owner = request.user

            class OwnKeyForm(form):  # type: ignore[misc, valid-type]
                def _post_clean(self) -> None:
                    self.instance.user = owner
                    super()._post_clean()

            return OwnKeyForm
        return form

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: SSHKey | None = None) -> bool:
        return self._may(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._is_staff(request)

    def has_change_permission(self, request: HttpRequest, obj: SSHKey | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: SSHKey | None = None) -> bool:
        return self._may(request, obj)

    @staticmethod
    def _is_staff(request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def _may(self, request: HttpRequest, obj: SSHKey | None) -> bool:
        own = obj is None or request.user.is_superuser or obj.user_id == request.user.pk
        return self._is_staff(request) and own
