"""Additional checks of `manage.py check --deploy`."""

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
    """Report wrong modes in the data directory. Each start corrects them, so these could not be corrected."""
    found = data_directory.too_open(Path(settings.RESCUESITE_DATA_DIR), settings.RESCUESITE_DATABASE_FILE)
    hint = "Make the site's account the owner, use a file system that supports modes, and start the site again."
    return [checks.Warning(str(one), hint=hint, id="rescuesite.W001") for one in found]


@checks.register(checks.Tags.security, deploy=True)
def secret_key_is_private(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    """Report a wrong mode of RESCUESITE_SECRET_KEY_FILE. The site does not change this file."""
    named = os.environ.get("RESCUESITE_SECRET_KEY_FILE")
    mode = stat.S_IMODE(Path(named).stat().st_mode) if named else 0
    if not mode & 0o007:
        return []
    return [
        checks.Warning(
            f"Every account of this host can read or change the secret key in {named}: its mode is {mode:04o}.",
            hint=f"chmod o= {named}",
            id="rescuesite.W002",
        )
    ]
