"""What network cards and rescue systems ask of the site. No session, no login, any Host."""

from __future__ import annotations

import logging
from functools import partial

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation, TooManyFieldsSent
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils import timezone

from machines.addresses import IPAddress
from machines.boot import answering, script
from machines.boot.deadline import Deadline, DeadlineExceededError, run_by
from machines.boot.decide import Reason
from machines.boot.delivery import base_url, rescue_archive
from machines.boot.recorder import recorder
from machines.boot.reports import MAX_BODY, ReportError, read_report
from machines.boot.request import BootRequest
from machines.boot.sending import send
from machines.boot.source import source_address
from machines.models import Rescue, StoredFile
from machines.models.rescue import Heard, UpReport

logger = logging.getLogger(__name__)

#: The one answer to whatever names no file of an active rescue: nobody learns from it which tokens exist.
NOT_FOUND = "Not found.\n"


def boot(request: HttpRequest) -> HttpResponse:
    """The boot address: always a valid iPXE script."""
    try:
        return _answered(request)
    except Exception:
        # The last net: whatever we did wrong, the machine boots its disk.
        logger.exception("a boot request could not even be read")
        return _text(script.pass_through(Reason.INTERNAL_ERROR))


def _answered(request: HttpRequest) -> HttpResponse:
    asked = BootRequest.parse(
        _as_utf8(request.META.get("QUERY_STRING", "")),
        source=source_of(request),
        user_agent=_as_utf8(request.META.get("HTTP_USER_AGENT", "")),
    )
    if request.method == "GET":
        return _text(answering.answer(asked).script)
    if request.method == "HEAD":
        return _text(answering.unrecorded_answer(asked).script)
    return _method_not_allowed("GET, HEAD", body=script.pass_through(Reason.NO_RESCUE))


def rescue_file(request: HttpRequest, token: str, name: str) -> HttpResponseBase:
    """A file of an active rescue, for the address that was served its script."""
    if name == script.UP:
        return _up(request, token)
    if request.method not in {"GET", "HEAD"}:
        return _method_not_allowed("GET, HEAD")
    counts = request.method == "GET" and "Range" not in request.headers
    try:
        found = _find(request, token, name, counts=counts)
        response = send(request, found) if isinstance(found, StoredFile) else found
    except (Error, DeadlineExceededError) as error:
        logger.error("a rescue file was not sent: %s", str(error) or answering.LATE)
        return _text("The site cannot read its database.\n", status=503)
    except OSError as error:
        logger.error("a rescue file cannot be read: %s", error)
        return not_found()
    return response or not_found()


def not_found() -> HttpResponse:
    return _text(NOT_FOUND, status=404)


def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return _text("ok\n")


def readyz(request: HttpRequest) -> HttpResponse:
    """The database answers too, and has every migration."""
    try:
        pending = run_by(_deadline(), _pending_migrations)
    except (Error, DeadlineExceededError):
        return _text("database: does not answer\n", status=503)
    if pending:
        return _text("database: migrations are missing; run manage.py migrate\n", status=503)
    return _text("ok\n")


def source_of(request: HttpRequest) -> IPAddress | None:
    """The address that a request comes from, behind the proxies that the site trusts."""
    return source_address(
        request.META.get("REMOTE_ADDR", ""),
        request.META.get("HTTP_X_FORWARDED_FOR", ""),
        trusted=settings.RESCUESITE_TRUSTED_PROXIES,
        trust_unix_peer=settings.RESCUESITE_TRUST_UNIX_PEER,
    )


def _deadline() -> Deadline:
    return Deadline(settings.RESCUESITE_BOOT_DEADLINE)


def _as_utf8(raw: str) -> str:
    """WSGI hands bytes over as Latin-1 characters (PEP 3333)."""
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


def _text(body: str, status: int = 200) -> HttpResponse:
    return _bytes(body.encode(), "text/plain; charset=utf-8", status)


def _bytes(body: bytes, content_type: str, status: int = 200) -> HttpResponse:
    return HttpResponse(
        body,
        status=status,
        content_type=content_type,
        headers={"Cache-Control": "no-store", "Content-Length": str(len(body))},
    )


def _method_not_allowed(allowed: str, body: str = "") -> HttpResponse:
    response = _text(body or f"Use one of: {allowed}.\n", status=405)
    response["Allow"] = allowed
    return response


def _pending_migrations() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _find(request: HttpRequest, token: str, name: str, *, counts: bool) -> StoredFile | HttpResponse | None:
    """What to send for `name`, None for nothing; `counts` says whether the request may change anything."""
    deadline, now, source = _deadline(), timezone.now(), source_of(request)

    def look() -> tuple[Rescue | None, Reason | None, StoredFile | HttpResponse | None]:
        rescue = Rescue.objects.of_token(token, now)
        objection = rescue.address_objection(source) if rescue else None
        return rescue, objection, None if objection or not rescue else _content(request, rescue, name)

    rescue, objection, found = run_by(deadline, look)
    if rescue and counts and objection:
        recorder.commit(partial(rescue.note_refused, name, source, now, objection), deadline, order=rescue.machine_id)
    elif rescue and counts and found is not None:
        recorder.commit(partial(rescue.note_sent, name, source, now), deadline, order=rescue.machine_id)
    return found


def _content(request: HttpRequest, rescue: Rescue, name: str) -> StoredFile | HttpResponse | None:
    if name == script.READY:
        return _text("All files have arrived.\n")
    if name == script.ARCHIVE:
        return _bytes(rescue_archive(rescue, base_url(request)), "application/octet-stream")
    if name == script.CHAIN and rescue.chain_script:
        return _text(rescue.chain_script)
    return next((file.stored for file in rescue.files.all() if file.name == name), None)


def _up(request: HttpRequest, token: str) -> HttpResponse:
    """A rescue system reports that it can be logged in to."""
    if request.method != "POST":
        return _method_not_allowed("POST")
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > MAX_BODY:
        return _text(f"A report has at most {MAX_BODY} bytes.\n", status=413)
    try:
        report = read_report(request)
    except (ReportError, SuspiciousOperation, RequestDataTooBig, TooManyFieldsSent) as error:
        return _text(f"{error}\n", status=400)
    try:
        heard = run_by(_deadline(), lambda: _hear(token, report, source_of(request)))
    except (Error, DeadlineExceededError) as error:
        logger.error("a report was not heard: %s", str(error) or answering.LATE)
        return _text("The site cannot read its database; report again.\n", status=503)
    return _heard(heard)


def _hear(token: str, report: UpReport, source: IPAddress | None) -> Heard | None:
    """What comes of a report; None where no active rescue has the token, or its machine's networks exclude `source`.

    Unlike the files, a report may come from another address than the script was served to: the rescue system may
    have got one of its own.
    """
    now = timezone.now()
    while rescue := Rescue.objects.of_token(token, now):
        objection = rescue.address_objection(source)
        if objection is Reason.ADDRESS_NOT_ALLOWED:
            rescue.note_refused(script.UP, source, now, objection)
            return None
        heard = rescue.hear(report, now, source)
        if heard is not Heard.CHANGED_MEANWHILE:
            return heard
    return None


def _heard(heard: Heard | None) -> HttpResponse:
    match heard:
        case None:
            return not_found()
        case Heard.TOO_EARLY:
            return _text("Not all files have been fetched yet; report again.\n", status=409)
        case Heard.OTHER_BOOT:
            return _text("Another boot of this rescue has reported already.\n", status=409)
        case _:
            return JsonResponse({"state": "up"})
