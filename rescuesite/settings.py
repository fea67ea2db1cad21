"""Django settings. The environment variables of the site are listed in docs/deployment.md."""

import os
import socket
from pathlib import Path
from typing import Any

import django_stubs_ext
import environ

from rescuesite import environment

# Allows annotations such as QuerySet[Machine] at runtime.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent

RESCUESITE_DATA_DIR = environment.data_dir(BASE_DIR / "var")
RESCUESITE_BIND = environment.bind()
RESCUESITE_BASE_URL = environment.base_url(RESCUESITE_BIND)
#: Whether the base URL is configured. Otherwise the site takes it from each request.
RESCUESITE_BASE_URL_GIVEN = bool(os.environ.get("RESCUESITE_BASE_URL"))
RESCUESITE_TRUSTED_PROXIES = environment.networks("RESCUESITE_TRUSTED_PROXIES")
#: A peer on a Unix socket has no address. The word `unix` makes it a trusted proxy.
RESCUESITE_TRUST_UNIX_PEER = "unix" in environment.words("RESCUESITE_TRUSTED_PROXIES")
#: The internal location of nginx for the data directory's `files/`, such as `/rescue-files/`. If empty, the site sends
#: the files itself.
RESCUESITE_ACCEL_PREFIX = os.environ.get("RESCUESITE_ACCEL_PREFIX", "")
#: A boot request is answered within this many seconds, even if the database does not respond. The contract allows 2.
RESCUESITE_BOOT_DEADLINE: float | None = 1.7
#: The seconds in which a client must send the head of a request and a small body.
RESCUESITE_REQUEST_TIMEOUT = environment.seconds("RESCUESITE_REQUEST_TIMEOUT", default=10)

#: Non-public networks that webhooks may use.
RESCUESITE_WEBHOOK_NETWORKS = environment.networks("RESCUESITE_WEBHOOK_NETWORKS")

#: The source of iPXE, as a Git URL or a directory, and its version.
RESCUESITE_IPXE_SOURCE = os.environ.get("RESCUESITE_IPXE_SOURCE") or "https://github.com/ipxe/ipxe.git"
RESCUESITE_IPXE_REF = os.environ.get("RESCUESITE_IPXE_REF") or "v2.0.0"
#: The account for builds if the site's worker runs as root.
RESCUESITE_BUILD_USER = os.environ.get("RESCUESITE_BUILD_USER") or "nobody"

SECRET_KEY = environment.secret_key(RESCUESITE_DATA_DIR)
DEBUG = False
ALLOWED_HOSTS = [
    *environment.words("RESCUESITE_ALLOWED_HOSTS", "localhost 127.0.0.1 [::1]"),
    # The hosts of the bind address and the base URL are always allowed.
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
    # First, so that no other middleware can redirect or refuse a boot request.
    "machines.boot.middleware.BootFaceMiddleware",
    "rescuesite.security_headers.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Before the CSRF check of a view reads the body.
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
        # A persistent connection would continue to use the old file after somebody replaces the database.
        database["CONN_MAX_AGE"] = 0
        options |= {
            # Transactions take the write lock at their start. SQLite cannot wait for it in the middle of a transaction.
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            # FULL: a rescue that staff ended must not be active again after a power cut.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-8000;",
        }
        database["TEST"] = {"NAME": RESCUESITE_DATA_DIR / "test.sqlite3"}
    else:
        options |= {
            # The threads share a pool, because a site has many threads and a server has few connections.
            "pool": {"min_size": 1, "max_size": 16, "timeout": 1.5},
            "connect_timeout": 2,
            "tcp_user_timeout": 2000,
            "application_name": "rescuesite",
        }
    return database


DATABASES = {"default": _database()}
#: The file of SQLite; None for another database.
RESCUESITE_DATABASE_FILE = Path(DATABASES["default"]["NAME"]) if "sqlite3" in DATABASES["default"]["ENGINE"] else None
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"

# The mail server. Without it, the site cannot send email.
RESCUESITE_EMAIL_GIVEN = bool(os.environ.get("RESCUESITE_EMAIL_URL"))
_mail = environment.email()
EMAIL_BACKEND = _mail["EMAIL_BACKEND"]
EMAIL_HOST, EMAIL_PORT = _mail["EMAIL_HOST"], _mail["EMAIL_PORT"]
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail["EMAIL_HOST_USER"], _mail["EMAIL_HOST_PASSWORD"]
EMAIL_USE_TLS, EMAIL_USE_SSL = _mail["EMAIL_USE_TLS"], _mail["EMAIL_USE_SSL"]
DEFAULT_FROM_EMAIL = os.environ.get("RESCUESITE_EMAIL_FROM") or f"rescuesite@{socket.gethostname()}"
EMAIL_TIMEOUT = 20


REST_FRAMEWORK = {
    # The first class defines the WWW-Authenticate header, so anonymous requests get 401. Session requests that change
    # something need a CSRF token.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rescuesite.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    # A view without permissions refuses all requests.
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
    # Serve Swagger UI from the site, so that the pages work without the internet.
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

# An initrd may be larger than /tmp. Uploads of users who may not upload images are small and stay in memory.
FILE_UPLOAD_TEMP_DIR = RESCUESITE_DATA_DIR / "tmp"
FILE_UPLOAD_HANDLERS = [
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "rescuesite.uploads.LargeUploadHandler",
]
FILE_UPLOAD_MAX_MEMORY_SIZE = 4 << 20
FILE_UPLOAD_PERMISSIONS = 0o600
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000

# RESCUESITE_HTTPS=1 means that all staff use https, through a web server in front.
_HTTPS = environment.flag("RESCUESITE_HTTPS")
SESSION_COOKIE_SECURE = _HTTPS
CSRF_COOKIE_SECURE = _HTTPS
SECURE_SSL_REDIRECT = _HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if _HTTPS else 0
# The owner of the domain decides about subdomains and preload lists.
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
        # Without Django's own handlers, which would log everything twice.
        "django": {"handlers": [], "propagate": True, "level": "INFO"},
        "django.server": {"handlers": ["stderr"], "propagate": False, "level": "INFO"},
    },
}
