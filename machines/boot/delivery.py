"""What travels to a rescue system besides its image: the archive with this rescue's keys and settings."""

from machines.boot import newc
from machines.boot.request import clean
from machines.models import Rescue

#: Where the settings lie in the rescue system: a file for each, so that no program needs to parse or source anything.
SETTINGS_DIRECTORY = "etc/rescuesite"


def authorized_keys(rescue: Rescue) -> str:
    """The keys that may log in, one OpenSSH public key line each."""
    return "".join(f"{key.parsed.line()}\n" for key in rescue.authorized_keys())


def rescue_archive(rescue: Rescue, base_url: str | None) -> bytes:
    """The archive `rescue.cpio`, to be unpacked over the image's own initrds.

    Without `base_url` it lies where anybody may read it: neither the token, and so no way to report, nor the password's
    hash is in it. The hash never travels to an unverified machine.
    """
    values = {
        "machine": rescue.machine.name,
        "image": rescue.image_name,
        "reason": rescue.reason,
        "enabled_by": rescue.enabled_by_name,
        "enabled_at": rescue.enabled_at.isoformat(timespec="seconds"),
        "lifetime": rescue.lifetime,
        "expires_at": rescue.expires_at.isoformat(timespec="seconds") if rescue.expires_at else "",
    }
    if base_url:
        values["report_url"] = f"{base_url}/boot/{rescue.token}/up"
    if rescue.machine.rescue_network_addresses:
        values["network_address"] = rescue.machine.rescue_network_addresses
        values["network_gateway"] = rescue.machine.rescue_network_gateways
        values["network_dns"] = rescue.machine.rescue_network_dns
    if base_url and rescue.password_hash and not rescue.machine.is_unverified:
        values["password_hash"] = rescue.password_hash
    files = {"root/.ssh/authorized_keys": (0o600, authorized_keys(rescue).encode())}
    for name, value in values.items():
        files[f"{SETTINGS_DIRECTORY}/{name}"] = (0o600, f"{clean(value, 1000)}\n".encode())
    return newc.archive(files, {"root": 0o700, "root/.ssh": 0o700, SETTINGS_DIRECTORY: 0o700})
