"""Users and groups: Django's own pages, with audit entries for who may do what."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User

from machines.admin.auditing import AuditedAdmin

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class AuditedUserAdmin(AuditedAdmin, UserAdmin[User]):
    def described(self, obj: User) -> dict[str, Any]:
        return {
            "username": obj.username,
            "is_active": obj.is_active,
            "is_staff": obj.is_staff,
            "is_superuser": obj.is_superuser,
            "groups": sorted(obj.groups.values_list("name", flat=True)),
            "permissions": sorted(obj.user_permissions.values_list("codename", flat=True)),
        }


@admin.register(Group)
class AuditedGroupAdmin(AuditedAdmin, GroupAdmin):
    def described(self, obj: Group) -> dict[str, Any]:
        return {"name": obj.name, "permissions": sorted(obj.permissions.values_list("codename", flat=True))}
