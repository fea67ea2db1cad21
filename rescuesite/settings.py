"""Settings of the whole site. What its owner may set comes from the environment: docs/deployment.md has the table."""

import os
import socket
from pathlib import Path
from typing import Any

import django_stubs_ext
import environ

from rescuesite import environment

# Lets annotations such as QuerySet[Machine] stand where Python reads them.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent

RESCUESITE_DATA_DIR = environment.data_dir(BASE_DIR / "var")
RESCUESITE_BIND = environment.bind()
RESCUESITE_BASE_URL = environment.base_url(RESCUESITE_BIND)
#: Whether the owner named the address that NICs use; otherwise it is taken from each request.
RESCUESITE_BASE_URL_GIVEN = bool(os.environ.get("RESCUESITE_BASE_URL"))
RESCUESITE_TRUSTED_PROXIES = environment.networks("RESCUESITE_TRUSTED_PROXIES")
#: A peer on a Unix socket has no address; it counts as a trusted proxy when it is named `unix`.
RESCUESITE_TRUST_UNIX_PEER = "unix" in environment.words("RESCUESITE_TRUSTED_PROXIES")
#: Where nginx serves the data directory's `files/` internally, such as `/rescue-files/`; empty: we send them ourselves.
RESCUESITE_ACCEL_PREFIX = os.environ.get("RESCUESITE_ACCEL_PREFIX", "")
#: A boot request is answered within this many seconds whatever the database does; the contract allows 2.
RESCUESITE_BOOT_DEADLINE: float | None = 1.7
#: A client may take so many seconds to send a request's head, with a small body; then its connection is closed.
RESCUESITE_REQUEST_TIMEOUT = environment.seconds("RESCUESITE_REQUEST_TIMEOUT", default=10)

#: Networks that notifications may be posted to though they are not public.
RESCUESITE_WEBHOOK_NETWORKS = environment.networks("RESCUESITE_WEBHOOK_NETWORKS")

#: Where iPXE's source comes from: a Git URL, or a directory; and which version of it.
RESCUESITE_IPXE_SOURCE = os.environ.get("RESCUESITE_IPXE_SOURCE") or "https://github.com/ipxe/ipxe.git"
RESCUESITE_IPXE_REF = os.environ.get("RESCUESITE_IPXE_REF") or "v2.0.0"
#: The account that builds run under where the site's worker is root.
RESCUESITE_BUILD_USER = os.environ.get("RESCUESITE_BUILD_USER") or "nobody"

SECRET_KEY = environment.secret_key(RESCUESITE_DATA_DIR)
DEBUG = False
ALLOWED_HOSTS = [
    *environment.words("RESCUESITE_ALLOWED_HOSTS", "localhost 127.0.0.1 [::1]"),
    # Who names the site's address need not name it twice.
    *environment.named_hosts(RESCUESITE_BIND, RESCUESITE_BASE_URL),
]
CSRF_TRUSTED_ORIGINS = [RESCUESITE_BASE_URL] if RESCUESITE_BASE_URL_GIVEN else []

INSTALLED_APPS = [
    "rescuesite.apps.RescueAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "machines",
    "roms",
]

MIDDLEWARE = [
    # First: what NICs ask is answered before anything that could redirect, refuse a Host or need a session.
    "machines.boot.middleware.BootFaceMiddleware",
    "rescuesite.security_headers.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Before a view, or the check of its CSRF token, looks into the body.
    "rescuesite.body_limits.BodyLimitMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "rescuesite.urls"
WSGI_APPLICATION = "rescuesite.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _database() -> dict[str, Any]:
    database: dict[str, Any] = environ.Env().db_url(
        "DATABASE_URL", default=f"sqlite:///{RESCUESITE_DATA_DIR / 'db.sqlite3'}"
    )
    options = database.setdefault("OPTIONS", {})
    if database["ENGINE"].endswith("sqlite3"):
        # A connection outlives a file that somebody puts in the database's place, and would go on answering from it.
        database["CONN_MAX_AGE"] = 0
        options |= {
            # A transaction that will write takes the lock at once: waiting works, upgrading a read lock does not.
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            # FULL: a rescue that staff ended must not be armed again after a power cut.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-8000;",
        }
        database["TEST"] = {"NAME": RESCUESITE_DATA_DIR / "test.sqlite3"}
    else:
        options |= {
            # Threads share a pool: a site has many threads, a server few connections.
            "pool": {"min_size": 1, "max_size": 16, "timeout": 1.5},
            "connect_timeout": 2,
            "tcp_user_timeout": 2000,
            "application_name": "rescuesite",
        }
    return database


DATABASES = {"default": _database()}
#: SQLite's file; None with another database.
RESCUESITE_DATABASE_FILE = Path(DATABASES["default"]["NAME"]) if "sqlite3" in DATABASES["default"]["ENGINE"] else None
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"

# How mail leaves the site; without it, nobody is told by mail.
RESCUESITE_EMAIL_GIVEN = bool(os.environ.get("RESCUESITE_EMAIL_URL"))
_mail = environment.email()
EMAIL_BACKEND = _mail["EMAIL_BACKEND"]
EMAIL_HOST, EMAIL_PORT = _mail["EMAIL_HOST"], _mail["EMAIL_PORT"]
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail["EMAIL_HOST_USER"], _mail["EMAIL_HOST_PASSWORD"]
EMAIL_USE_TLS, EMAIL_USE_SSL = _mail["EMAIL_USE_TLS"], _mail["EMAIL_USE_SSL"]
DEFAULT_FROM_EMAIL = os.environ.get("RESCUESITE_EMAIL_FROM") or f"rescuesite@{socket.gethostname()}"
EMAIL_TIMEOUT = 20


REST_FRAMEWORK = {
    # The first tells who names nobody how to: 401. A session's requests that change something need its CSRF token.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rescuesite.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    # A view that names no permission is nobody's.
    "DEFAULT_PERMISSION_CLASSES": ["rescuesite.api.permissions.MethodPermissions"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rescuesite.api.negotiation.BoundedJSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "rescuesite.api.negotiation.JSONAlways",
    "DEFAULT_PAGINATION_CLASS": "rescuesite.api.pagination.Pages",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": ["rescuesite.api.throttling.TokenThrottle"],
    "DEFAULT_THROTTLE_RATES": {"token": environment.api_rate()},
    "EXCEPTION_HANDLER": "rescuesite.api.errors.handle",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Rescue",
    "DESCRIPTION": "Machines, rescues, and the ROMs of their network cards, for programs.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api",
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "rescuesite.api.schema.add_errors",
    ],
    "ENUM_NAME_OVERRIDES": {
        "JobState": "roms.models.JobState",
        "FileKind": "machines.models.image.ImageFile.Kind",
        "NotificationKind": "machines.models.notification.NotificationRule.Kind",
        "NotificationState": "machines.models.delivery.Delivery.State",
        "NotifiedEvent": "machines.notifications.events.Event",
        "RescueState": "machines.models.rescue_terms.State",
        "MachineState": "machines.api.serializers.STATES",
        "Target": "roms.models.TARGETS",
        "Profile": "roms.models.Profile",
        "FlashAction": "roms.models.FlashKind",
        "CardOrigin": "roms.models.Card.Origin",
    },
    # The pages work without the internet.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

LANGUAGE_CODE = "en-us"
USE_I18N = False
TIME_ZONE = environment.time_zone("RESCUESITE_TIME_ZONE")
USE_TZ = True
FORMAT_MODULE_PATH = "rescuesite.formats"

STATIC_URL = "static/"
STATIC_ROOT = RESCUESITE_DATA_DIR / "static"
WHITENOISE_USE_FINDERS = True

# An initrd may be larger than /tmp. What is small enough for whoever may not upload images never reaches the disk.
FILE_UPLOAD_TEMP_DIR = RESCUESITE_DATA_DIR / "tmp"
FILE_UPLOAD_HANDLERS = [
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "rescuesite.uploads.LargeUploadHandler",
]
FILE_UPLOAD_MAX_MEMORY_SIZE = 4 << 20
FILE_UPLOAD_PERMISSIONS = 0o600
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000

# Staff reach the admin by https through a front server; RESCUESITE_HTTPS=1 says that they all do.
_HTTPS = environment.flag("RESCUESITE_HTTPS")
SESSION_COOKIE_SECURE = _HTTPS
CSRF_COOKIE_SECURE = _HTTPS
SECURE_SSL_REDIRECT = _HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if _HTTPS else 0
# Subdomains and browsers' preload lists are the domain owner's to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _HTTPS else None
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 12 * 3600
X_FRAME_OPTIONS = "DENY"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "filters": {
        "quiet": {"()": "machines.boot.redaction.QuietStrangers"},
        "tokens": {"()": "machines.boot.redaction.RedactTokens"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["quiet", "tokens"]}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # Django's own console and mail handlers would say everything a second time.
        "django": {"handlers": [], "propagate": True, "level": "INFO"},
        "django.server": {"handlers": ["stderr"], "propagate": False, "level": "INFO"},
    },
}
