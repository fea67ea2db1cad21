"""SSH keys: staff users manage their own. Only a superuser sees and deletes those of others."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest

from machines.admin.auditing import AuditedAdmin
from machines.admin.owned import OwnedAdmin, OwnedForm
from machines.models import SSHKey


class SSHKeyForm(OwnedForm):
    unique_field = "fingerprint"

    class Meta:
        model = SSHKey
        fields = ("public_key", "user")
        widgets = {"public_key": forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"})}


@admin.register(SSHKey)
class SSHKeyAdmin(OwnedAdmin, AuditedAdmin):
    form = SSHKeyForm
    own_fields = ("public_key",)
    # The audit log shows the fingerprint.
    shown_fields = ("fingerprint", "added_at")
    list_display = ("name", "user", "type", "fingerprint", "added_at")
    search_fields = ("user__username", "fingerprint", "public_key")

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
                f"The options {obj.dropped_options} were removed. Rescue systems get only the key. It can log in from "
                "every address.",
            )
