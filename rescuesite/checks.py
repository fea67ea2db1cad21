"""What `manage.py check --deploy` says of this host, besides Django's own checks."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core import checks

from rescuesite import data_directory


@checks.register(checks.Tags.security, deploy=True)
def data_directory_is_private(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    """The modes are set at each start, so what is found here could not be set."""
    found = data_directory.too_open(Path(settings.RESCUESITE_DATA_DIR), settings.RESCUESITE_DATABASE_FILE)
    hint = "Give it to the account that runs the site, on a file system that keeps modes; start the site again."
    return [checks.Warning(str(one), hint=hint, id="rescuesite.W001") for one in found]


@checks.register(checks.Tags.security, deploy=True)
def secret_key_is_private(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    """A key file that RESCUESITE_SECRET_KEY_FILE names is its owner's: nothing is changed there."""
    named = os.environ.get("RESCUESITE_SECRET_KEY_FILE")
    mode = stat.S_IMODE(Path(named).stat().st_mode) if named else 0
    if not mode & 0o007:
        return []
    return [
        checks.Warning(
            f"Every account of this host may use the secret key in {named}: its mode is {mode:04o}.",
            hint=f"chmod o= {named}",
            id="rescuesite.W002",
        )
    ]
