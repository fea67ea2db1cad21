"""What tests of the admin's pages share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBgpRzGy3PmIlAPBu0zy1RkqmzwzlwqdtnBDCsQMnnCI alice@example.net"
ENABLE, DISABLE = "/admin/machines/machine/rescue/enable/", "/admin/machines/machine/rescue/disable/"


@pytest.fixture
def staff(client: Client, db: None) -> Callable[..., Client]:
    """Log in as a staff user with the named permissions."""

    def log_in(*permissions: str, name: str = "bob") -> Client:
        user = User.objects.create_user(name, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return client

    return log_in


def machine_form(**changes: Any) -> dict[str, Any]:
    empty = {
        f"{prefix}-{name}": "0" for prefix in ("macs", "allowed_networks") for name in ("TOTAL_FORMS", "INITIAL_FORMS")
    }
    return {"name": "db01", "identity": "{}", "notes": "", **empty, **changes}
