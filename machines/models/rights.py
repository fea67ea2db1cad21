"""Which accounts a user may edit: only those whose permissions the user has too.

An editor of an account can use all its permissions, for example after setting a new password.
"""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.db.models import Q

from machines.models.machine import ENABLE_RESCUE
from machines.models.rescue import Rescue


def may_touch_account(editor: User, owner: User) -> bool:
    """Whether `editor` has every permission of `owner`."""
    if editor.is_active and editor.is_superuser:
        return True
    return not owner.is_superuser and held_rights(owner) <= editor.get_all_permissions()


def held_rights(user: User) -> set[str]:
    """Return the permissions of an account, even if it is inactive: an editor can activate it and use them.

    The SSH keys of the account are in each rescue that it has enabled. So an active rescue counts as a permission,
    even if the account has lost that permission.
    """
    held = Permission.objects.filter(Q(user=user) | Q(group__user=user)).distinct()
    names = held.values_list("content_type__app_label", "codename").order_by()
    active = Rescue.objects.active().filter(enabled_by=user)
    return {f"{app}.{codename}" for app, codename in names} | ({ENABLE_RESCUE} if active.exists() else set())
