"""Read the site's environment variables. A value that is not valid stops the start with a message."""

import contextlib
import ipaddress
import math
import os
import secrets
import zoneinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from rescuesite import data_directory


def secret_key(data_dir: Path) -> str:
    """Return RESCUESITE_SECRET_KEY, the contents of RESCUESITE_SECRET_KEY_FILE, or a key that the site made and stored.

    Raises ImproperlyConfigured if a file cannot be read or is empty.
    """
    if given := os.environ.get("RESCUESITE_SECRET_KEY"):
        return given
    if named := os.environ.get("RESCUESITE_SECRET_KEY_FILE"):
        return _read_key(Path(named))
    path = data_dir / "secret_key"
    try:
        # The file gets its name when it is complete: two processes that start together must read the same key.
        draft = path.with_name(f"secret_key.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50))
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        draft.unlink()
    except OSError as error:
        if not path.exists():
            raise ImproperlyConfigured(f"Cannot write the secret key to {path}: {error.strerror}.") from error
    return _read_key(path)


def _read_key(path: Path) -> str:
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(f"Cannot read the secret key in {path}: {error.strerror}.") from error
    if not key:
        raise ImproperlyConfigured(f"The secret key file {path} is empty. Remove it, and the site makes a new key.")
    return key


def data_dir(default: Path) -> Path:
    """Return RESCUESITE_DATA_DIR and make it if it is missing."""
    path = Path(os.environ.get("RESCUESITE_DATA_DIR") or default).expanduser().resolve()
    try:
        data_directory.prepare(path)
    except OSError as error:
        raise ImproperlyConfigured(
            f"Cannot make the data directory {path}: {error.strerror}. Set RESCUESITE_DATA_DIR to a directory that the "
            "site can write to."
        ) from error
    return path


def words(name: str, default: str = "") -> list[str]:
    """Read a list. Commas or white space separate the items."""
    return os.environ.get(name, default).replace(",", " ").split()


def flag(name: str) -> bool:
    """Read a yes/no variable. Empty or missing means no. Raises ImproperlyConfigured."""
    value = os.environ.get(name, "").strip().lower()
    if value in {"", "0", "no", "false", "off"}:
        return False
    if value in {"1", "yes", "true", "on"}:
        return True
    raise ImproperlyConfigured(f"{name} is “{value}”; expected 1 or 0.")


def api_rate() -> str:
    """Return RESCUESITE_API_RATE, in requests per minute, in DRF's format."""
    value = os.environ.get("RESCUESITE_API_RATE") or "1200"
    if value.isascii() and value.isdigit() and int(value[:9]) > 0:
        return f"{value[:9]}/min"
    raise ImproperlyConfigured(f"RESCUESITE_API_RATE is “{value}”; expected a number of requests per minute.")


def seconds(name: str, *, default: float) -> float:
    """Read a number of seconds above zero. Raises ImproperlyConfigured."""
    value = os.environ.get(name) or str(default)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if 0 < number < math.inf:
        return number
    raise ImproperlyConfigured(f"{name} is “{value}”; expected a number of seconds, such as 10.")


def time_zone(name: str) -> str:
    """Read the name of a time zone (default: UTC). Raises ImproperlyConfigured if this host does not know it."""
    value = os.environ.get(name) or "UTC"
    if value not in zoneinfo.available_timezones():
        raise ImproperlyConfigured(f"{name} is “{value}”; expected a name such as Europe/Berlin.")
    return value


def email() -> dict[str, Any]:
    """Return Django's EMAIL_… settings from RESCUESITE_EMAIL_URL. Without it, no email is sent.

    The format is smtp://USER:PASSWORD@HOST:PORT. smtp+tls:// means STARTTLS (port 587), smtp+ssl:// means TLS from the
    start (port 465). Raises ImproperlyConfigured.
    """
    value = os.environ.get("RESCUESITE_EMAIL_URL", "")
    nowhere = {
        "EMAIL_BACKEND": "django.core.mail.backends.dummy.EmailBackend",
        "EMAIL_HOST": "",
        "EMAIL_PORT": 25,
        "EMAIL_HOST_USER": "",
        "EMAIL_HOST_PASSWORD": "",
        "EMAIL_USE_TLS": False,
        "EMAIL_USE_SSL": False,
    }
    if not value:
        return nowhere
    scheme = value.partition("://")[0]
    try:
        given = environ.Env.email_url_config(value)
        ports = {"smtp": 25, "smtp+tls": 587, "smtp+ssl": 465}
        port = int(given["EMAIL_PORT"] or ports[scheme])
        if not given["EMAIL_HOST"]:
            raise ValueError
    except (KeyError, ValueError):
        # Do not show the value: it may contain a password.
        raise ImproperlyConfigured(
            "RESCUESITE_EMAIL_URL is not valid. Write it like smtp://USER:PASSWORD@HOST:PORT, smtp+tls://… or "
            "smtp+ssl://…."
        ) from None
    return {
        **nowhere,
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": given["EMAIL_HOST"],
        "EMAIL_PORT": port,
        "EMAIL_HOST_USER": given["EMAIL_HOST_USER"] or "",
        "EMAIL_HOST_PASSWORD": given["EMAIL_HOST_PASSWORD"] or "",
        "EMAIL_USE_TLS": scheme == "smtp+tls",
        "EMAIL_USE_SSL": scheme == "smtp+ssl",
    }


def networks(name: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Read a list of addresses and CIDR blocks. Raises ImproperlyConfigured."""
    try:
        return tuple(ipaddress.ip_network(word) for word in words(name) if word != "unix")
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}; expected addresses or CIDR blocks.") from error


def bind(default: str = "127.0.0.1:8000") -> str:
    """Return RESCUESITE_BIND: HOST:PORT, or unix:PATH. Raises ImproperlyConfigured."""
    value = os.environ.get("RESCUESITE_BIND") or default
    host, _, port = value.rpartition(":")
    if value.startswith("unix:") or (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        return value
    raise ImproperlyConfigured(f"RESCUESITE_BIND is “{value}”; expected HOST:PORT, such as 0.0.0.0:8000, or unix:PATH.")


def named_hosts(bound: str, url: str) -> list[str]:
    """Return the hosts in a bind address and a base URL, without wildcards and sockets."""
    bound_host = None if bound.startswith("unix:") else urlsplit(f"//{bound}").hostname
    named = {host for host in (bound_host, urlsplit(url).hostname) if host} - {"0.0.0.0", "::"}  # noqa: S104 - left out
    return sorted(f"[{host}]" if ":" in host else host for host in named)


def base_url(bound: str) -> str:
    """Return RESCUESITE_BASE_URL without a trailing slash (default: from the bind address)."""
    given = os.environ.get("RESCUESITE_BASE_URL", "").rstrip("/")
    if given and not given.startswith(("http://", "https://")):
        raise ImproperlyConfigured(f"RESCUESITE_BASE_URL is “{given}”; expected http://HOST[:PORT] or https://….")
    return given or ("http://127.0.0.1" if bound.startswith("unix:") else f"http://{bound}")
