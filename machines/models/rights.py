"""Whose account somebody may touch: nobody's who holds a right that they lack, as an account gives all its rights."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.db.models import Q

from machines.models.machine import ENABLE_RESCUE
from machines.models.rescue import Rescue


def may_touch_account(editor: User, owner: User) -> bool:
    """Whether `editor` has every right of `owner`."""
    if editor.is_active and editor.is_superuser:
        return True
    return not owner.is_superuser and held_rights(owner) <= editor.get_all_permissions()


def held_rights(user: User) -> set[str]:
    """The permissions that the account gives, also while it is not active: whoever may wake it can use them.

    Its keys are in each rescue that it has enabled, whatever became of its rights.
    """
    held = Permission.objects.filter(Q(user=user) | Q(group__user=user)).distinct()
    names = held.values_list("content_type__app_label", "codename").order_by()
    active = Rescue.objects.active().filter(enabled_by=user)
    return {f"{app}.{codename}" for app, codename in names} | ({ENABLE_RESCUE} if active.exists() else set())
