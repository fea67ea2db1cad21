"""Who may do what: each view names the permission that each of its methods asks for."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

READING = ("GET", "HEAD", "OPTIONS")


class MethodPermissions(BasePermission):
    """The user has the permission that the view's `permissions` names for the request's method.

    `permissions = {"GET": "roms.view_build", "POST": "roms.build_rom"}`; GET stands for HEAD and OPTIONS too. Of
    several, in a tuple, all are needed.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        user = request.user
        if not user or not user.is_authenticated:
            return False
        method = "GET" if request.method in READING else str(request.method)
        needed: str | tuple[str, ...] | None = getattr(view, "permissions", {}).get(method)
        if needed is None:
            # Nothing is done by a method that the view does not have, and it says so: 405.
            return getattr(view, method.lower(), None) is None
        return bool(user.has_perms([needed] if isinstance(needed, str) else needed))
