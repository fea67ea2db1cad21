"""What a machine in rescue asks: the files of its rescue, and to be heard when its system is up."""

from __future__ import annotations

import json
import logging
from functools import partial

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.http.multipartparser import MultiPartParserError
from django.utils import timezone

from machines.addresses import IPAddress
from machines.boot import script
from machines.boot.deadline import DeadlineExceededError, run_by
from machines.boot.delivery import authorized_keys, rescue_archive
from machines.boot.handler import LATE, recorder
from machines.boot.http import base_url, boot_deadline, method_not_allowed, not_found, octets, text
from machines.boot.reasons import Reason
from machines.boot.reports import MAX_BODY, ReportError, read_report
from machines.boot.sending import send
from machines.integrity import Condition
from machines.models import Rescue, StoredFile
from machines.models.rescue_terms import ReportResult, UpReport
from rescuesite.client_address import source_of

logger = logging.getLogger(__name__)


def rescue_file(request: HttpRequest, token: str, name: str) -> HttpResponseBase:
    """A file of an active rescue, for the address that was served its script."""
    if request.method not in {"GET", "HEAD"}:
        return method_not_allowed("GET, HEAD")
    counts = request.method == "GET" and "Range" not in request.headers
    try:
        found = _find(request, token, name, counts=counts)
        response = send(request, found) if isinstance(found, StoredFile) else found
    except (Error, DeadlineExceededError) as error:
        logger.error("a rescue file was not sent: %s", str(error) or LATE)
        return text("The site cannot read its database.\n", status=503)
    except OSError as error:
        logger.error("a rescue file cannot be read: %s", error)
        return not_found()
    return response or not_found()


def _find(request: HttpRequest, token: str, name: str, *, counts: bool) -> StoredFile | HttpResponse | None:
    """What to send for `name`, None for nothing; `counts` says whether the request may change anything."""
    deadline, now, source = boot_deadline(), timezone.now(), source_of(request)

    def look() -> tuple[Rescue | None, Reason | None, StoredFile | HttpResponse | None]:
        rescue = Rescue.objects.of_token(token, now)
        objection = rescue.address_objection(source) if rescue else None
        return rescue, objection, None if objection or not rescue else _content(request, rescue, name)

    rescue, objection, found = run_by(deadline, look)
    if rescue is None or not counts:
        return found
    if objection:
        note, needed = partial(rescue.record_refused, name, source, now, objection), False
    else:
        note, needed = partial(rescue.record_sent, name, source, now), rescue.arrives_with(name)
    try:
        if objection or found is not None:
            recorder.commit(note, deadline, machine=rescue.machine_id)
    except (Error, DeadlineExceededError) as error:
        if needed:
            raise
        # A busy database must not cost the machine a file.
        logger.error("that %s was asked for was not recorded: %s", name, str(error) or LATE)
    return found


def _content(request: HttpRequest, rescue: Rescue, name: str) -> StoredFile | HttpResponse | None:
    if name == script.READY:
        return text("All files have arrived.\n")
    if name == script.ARCHIVE:
        return octets(rescue_archive(rescue, base_url(request)), "application/octet-stream")
    if name == script.KEYS:
        return text(authorized_keys(rescue))
    if name == script.CHAIN and rescue.chain_script:
        return text(rescue.chain_script)
    stored = next((file.stored for file in rescue.files.all() if file.name == name), None)
    if stored and (condition := stored.condition()) is not Condition.WHOLE:
        # The script goes on to the disk; a damaged kernel would die without a word.
        logger.error(
            "a rescue file cannot be read as it was stored: %s of %r is %s", name, rescue.machine.name, condition
        )
        return None
    return stored


def report_up(request: HttpRequest, token: str) -> HttpResponse:
    """A rescue system reports that it can be logged in to."""
    if request.method != "POST":
        return method_not_allowed("POST")
    length = request.META.get("CONTENT_LENGTH") or "0"
    if "HTTP_TRANSFER_ENCODING" in request.META:
        # Django would read no body, and what it says would be lost.
        return text("Send the report with a Content-Length.\n", status=411)
    if not (length.isascii() and length.isdigit()) or int(length) > MAX_BODY:
        return text(f"A report has at most {MAX_BODY} bytes.\n", status=413)
    try:
        report = read_report(request)
    except (ReportError, BadRequest, SuspiciousOperation, MultiPartParserError) as error:
        return text(f"{error}\n", status=400)
    try:
        result = run_by(boot_deadline(), lambda: _record_report(token, report, source_of(request)))
    except (Error, DeadlineExceededError) as error:
        logger.error("a report was not heard: %s", str(error) or LATE)
        return text("The site cannot read its database; report again.\n", status=503)
    return _response(result, report)


def _record_report(token: str, report: UpReport, source: IPAddress | None) -> ReportResult | None:
    """What comes of a report; None where no active rescue has the token, or it is not for `source` to report.

    Unlike the files, a report may come from another address than the script was served to: the rescue system may
    have got one of its own. The networks that the machine lists bind it, and an unknown source is nobody's.
    """
    now = timezone.now()
    while rescue := Rescue.objects.of_token(token, now):
        objection = rescue.address_objection(source)
        if objection and (source is None or objection is Reason.ADDRESS_NOT_ALLOWED):
            rescue.record_refused(script.UP, source, now, objection)
            return None
        result = rescue.record_report(report, now, source)
        if result is not ReportResult.CHANGED_MEANWHILE:
            return result
    return None


def _response(result: ReportResult | None, report: UpReport) -> HttpResponse:
    match result:
        case None:
            return not_found()
        case ReportResult.TOO_EARLY:
            return text("Not all files have been fetched yet; report again.\n", status=409)
        case ReportResult.OTHER_BOOT:
            return text("Another boot of this rescue has reported already.\n", status=409)
        case _:
            said = {"not_understood": report.not_understood} if report.not_understood else {}
            return octets(json.dumps({"state": "up", **said}).encode(), "application/json")
