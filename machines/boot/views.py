"""What network cards ask: the boot address; and whether the site is well. No session, no login, any Host."""

from __future__ import annotations

import logging

from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse

from machines.boot import handler, script
from machines.boot.deadline import DeadlineExceededError, run_by
from machines.boot.http import as_utf8, base_url, boot_deadline, method_not_allowed, text
from machines.boot.reasons import Reason
from machines.boot.request import BootRequest
from rescuesite.client_address import source_of

logger = logging.getLogger(__name__)


def boot(request: HttpRequest) -> HttpResponse:
    """The boot address: always a valid iPXE script."""
    try:
        return _answered(request)
    except Exception:
        # The last net: whatever we did wrong, the machine boots its disk.
        logger.exception("a boot request could not even be read")
        return text(script.pass_through(Reason.INTERNAL_ERROR))


def _answered(request: HttpRequest) -> HttpResponse:
    boot_request = BootRequest.parse(
        as_utf8(request.META.get("QUERY_STRING", "")),
        source=source_of(request),
        user_agent=as_utf8(request.META.get("HTTP_USER_AGENT", "")),
        site=base_url(request),
    )
    if request.method == "GET":
        return text(handler.handle(boot_request).script)
    if request.method == "HEAD":
        return text(handler.unrecorded_answer(boot_request).script)
    return method_not_allowed("GET, HEAD", body=script.pass_through(Reason.NO_RESCUE))


def dhcp_script(request: HttpRequest) -> HttpResponse:
    """What DHCP names as boot file: the same for everybody, without a look at the database."""
    if request.method not in {"GET", "HEAD"}:
        return method_not_allowed("GET, HEAD", body=script.pass_through(Reason.NO_RESCUE))
    return text(script.for_dhcp())


def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return text("ok\n")


def readyz(request: HttpRequest) -> HttpResponse:
    """The database answers too, and has every migration."""
    try:
        pending = run_by(boot_deadline(), _pending_migrations)
    except (Error, DeadlineExceededError):
        return text("database: does not answer\n", status=503)
    if pending:
        return text("database: migrations are missing; run manage.py migrate\n", status=503)
    return text("ok\n")


def _pending_migrations() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
