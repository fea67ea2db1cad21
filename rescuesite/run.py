"""What `make run` does once the environment is there: migrate, make the first account, serve."""

from __future__ import annotations

import io
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
    from django.db import Error

    call_command("check", fail_level="ERROR", stdout=io.StringIO())
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except Error as error:
        sys.exit(f"The database cannot be used: {error}\nCheck DATABASE_URL, or the data directory.")
    password = make_first_admin()
    if password:
        print(f"First account: admin, password: {password}  (shown this once; change it in the admin)")
    print(_where(settings.RESCUESITE_BIND), flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", "python:rescuesite.gunicorn_conf"])  # noqa: S606 - becomes the server


def _where(bound: str) -> str:
    """What to type into a browser, and what NICs are to ask, for the bound address."""
    if bound.startswith("unix:"):
        return f"Serving {bound} for the web server in front. Stop: Ctrl-C"
    host, _, port = bound.rpartition(":")
    if host in {"0.0.0.0", "[::]"}:  # noqa: S104 - compared
        return (
            f"Serving every address of this host on port {port}. Stop: Ctrl-C\n"
            f"NICs ask http://ADDRESS:{port}/boot; to open the admin by a name or address other than localhost, "
            "list it in RESCUESITE_ALLOWED_HOSTS."
        )
    return f"Admin: http://{bound}/admin/   NICs ask: http://{bound}/boot   Stop: Ctrl-C"


def make_first_admin() -> str | None:
    """Make the account `admin` where there is no account at all; return its password if it was made up here."""
    from django.contrib.auth import get_user_model
    from django.db import transaction

    from machines.models import Actor, AuditEntry

    users = get_user_model()._default_manager
    if users.exists():
        return None
    given = os.environ.get("RESCUESITE_ADMIN_PASSWORD")
    password = given or secrets.token_urlsafe(12)
    with transaction.atomic():
        users.create_superuser("admin", password=password)
        AuditEntry.objects.record("user_added", actor=Actor("console:make run"), subject="admin")
    return None if given else password


if __name__ == "__main__":
    main()
