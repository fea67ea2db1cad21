"""Permissions: each view names the permission for each of its methods."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

READING = ("GET", "HEAD", "OPTIONS")


class MethodPermissions(BasePermission):
    """Requires the permission in the view's `permissions` for the method of the request.

    Example: `permissions = {"GET": "roms.view_build", "POST": "roms.build_rom"}`. GET includes HEAD and OPTIONS. A
    tuple requires all its permissions.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        user = request.user
        if not user or not user.is_authenticated:
            return False
        method = "GET" if request.method in READING else str(request.method)
        needed: str | tuple[str, ...] | None = getattr(view, "permissions", {}).get(method)
        if needed is None:
            # Allow a method that the view does not have: it answers 405.
            return getattr(view, method.lower(), None) is None
        return bool(user.has_perms([needed] if isinstance(needed, str) else needed))
