"""Users and groups: Django's pages with audit entries, and with limits on which accounts a user may edit."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse

from machines.admin.auditing import AuditedAdmin
from machines.models import APIToken
from machines.models.rights import may_touch_account
from rescuesite.actors import actor_of

admin.site.unregister(User)
admin.site.unregister(Group)

#: The fields that only a superuser may change. Other users could give themselves more permissions with them.
_SUPERUSER_FIELDS = ("is_superuser", "groups", "user_permissions")


@admin.register(User)
class AuditedUserAdmin(AuditedAdmin, UserAdmin[User]):
    """A user may edit only accounts whose permissions the user has too. Only superusers edit permissions and groups."""

    change_user_password_template = "machines/user_password.html"  # noqa: S105 - a template

    def snapshot(self, obj: User) -> dict[str, Any]:
        return {
            "username": obj.username,
            "is_active": obj.is_active,
            "is_staff": obj.is_staff,
            "is_superuser": obj.is_superuser,
            "groups": sorted(obj.groups.values_list("name", flat=True)),
            "permissions": sorted(obj.user_permissions.values_list("codename", flat=True)),
            "ssh_keys": sorted(obj.ssh_keys.values_list("fingerprint", flat=True)),
        }

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[User]:
        users: models.QuerySet[User] = super().get_queryset(request)
        return users if request.user.is_superuser else users.filter(is_superuser=False)

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        sets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return sets
        # Hide the password field: Django shows the first digits of the hash.
        return [
            (name, {**options, "fields": [field for field in options["fields"] if field != "password"]})
            for name, options in sets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        fixed = super().get_readonly_fields(request, obj)
        return fixed if request.user.is_superuser else (*fixed, *_SUPERUSER_FIELDS)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and self._may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and self._may_touch(request, obj)

    @staticmethod
    def _may_touch(request: HttpRequest, obj: User | None) -> bool:
        return obj is None or may_touch_account(request.user, obj)  # type: ignore[arg-type]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        user = self.get_object(request, object_id)
        may_change_others = super().has_change_permission(request)
        if user and request.method == "GET" and may_change_others and not self._may_touch(request, user):
            messages.info(request, f"You cannot change this account: {user} has a permission that you do not have.")
        return super().change_view(request, object_id, form_url, extra_context)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002 - Django's name
        """Django's view. If another user sets the password, the API tokens of the account are deleted."""
        with transaction.atomic():
            before = self.get_object(request, unquote(id))
            response = super().user_change_password(request, id, form_url)
            if before and before.pk != request.user.pk:
                after = User.objects.get(pk=before.pk)
                if after.password != before.password and (
                    gone := APIToken.objects.revoke_all(after, actor_of(request))
                ):
                    tokens = f"{gone} API token{'s' if gone > 1 else ''}"
                    messages.info(request, f"The new password also deleted {tokens} of this account.")
        return response


@admin.register(Group)
class AuditedGroupAdmin(AuditedAdmin, GroupAdmin):
    """Only a superuser may edit groups, because the members get the permissions of a group."""

    def snapshot(self, obj: Group) -> dict[str, Any]:
        return {"name": obj.name, "permissions": sorted(obj.permissions.values_list("codename", flat=True))}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return bool(request.user.is_superuser)
