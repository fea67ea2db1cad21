"""What travels to a rescue system besides its image: the archive with this rescue's keys and settings."""

import re

from django.conf import settings
from django.http import HttpRequest

from machines.boot import newc
from machines.boot.request import clean
from machines.models import Rescue

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII)

#: Where the settings lie in the rescue system: a file for each, so that no program needs to parse or source anything.
SETTINGS_DIRECTORY = "etc/rescuesite"


def rescue_archive(rescue: Rescue, base_url: str) -> bytes:
    """The archive `rescue.cpio`, to be unpacked over the image's own initrds."""
    keys = "".join(f"{key.parsed.line()}\n" for key in rescue.authorized_keys())
    values = {
        "machine": rescue.machine.name,
        "image": rescue.image_name,
        "reason": rescue.reason,
        "enabled_by": rescue.enabled_by_name,
        "enabled_at": rescue.enabled_at.isoformat(timespec="seconds"),
        "lifetime": rescue.lifetime,
        "expires_at": rescue.expires_at.isoformat(timespec="seconds") if rescue.expires_at else "",
        "report_url": f"{base_url}/boot/{rescue.token}/up",
    }
    if rescue.password_hash and not rescue.machine.is_unverified:
        values["password_hash"] = rescue.password_hash
    files = {"root/.ssh/authorized_keys": (0o600, keys.encode())}
    for name, value in values.items():
        files[f"{SETTINGS_DIRECTORY}/{name}"] = (0o600, f"{clean(value, 1000)}\n".encode())
    return newc.archive(files, {"root": 0o700, "root/.ssh": 0o700, SETTINGS_DIRECTORY: 0o700})


def base_url(request: HttpRequest) -> str:
    """The site's address as a rescue system can reach it: what was configured, or what reached us this time."""
    if settings.RESCUESITE_BASE_URL_GIVEN:
        return str(settings.RESCUESITE_BASE_URL)
    host = request.META.get("HTTP_HOST", "")
    if not _HOST.fullmatch(host):
        return str(settings.RESCUESITE_BASE_URL)
    return f"{request.scheme}://{host}"
