"""What `make run` does once the environment is there: migrate, make the first account, serve."""

from __future__ import annotations

import os
import secrets
import sys
from typing import NoReturn


def main() -> NoReturn:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rescuesite.settings")
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    call_command("check", fail_level="ERROR")
    call_command("migrate", interactive=False, verbosity=0)
    password = make_first_admin()
    bound = settings.RESCUESITE_BIND
    if password:
        print(f"First account: admin, password: {password}  (shown this once; change it in the admin)")
    print(f"Admin: http://{bound}/admin/   NICs ask: {settings.RESCUESITE_BASE_URL}/boot   Stop: Ctrl-C", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", "python:rescuesite.gunicorn_conf"])  # noqa: S606 - becomes the server


def make_first_admin() -> str | None:
    """Make the account `admin` where there is no account at all; return its password if it was made up here."""
    from django.contrib.auth import get_user_model

    from machines.models import Actor, AuditEntry

    users = get_user_model()._default_manager
    if users.exists():
        return None
    given = os.environ.get("RESCUESITE_ADMIN_PASSWORD")
    password = given or secrets.token_urlsafe(12)
    users.create_superuser("admin", password=password)
    AuditEntry.objects.record("user_added", actor=Actor("console:make run"), subject="admin")
    return None if given else password


if __name__ == "__main__":
    main()
