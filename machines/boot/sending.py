"""Sending a stored file: streamed, in whole or in part, or handed over to the web server in front."""

import re
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from machines.models import StoredFile

_CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)


class RangeError(ValueError):
    """The asked-for part lies outside the file."""


def send(request: HttpRequest, stored: StoredFile) -> HttpResponseBase:
    """Respond with the file; with a part of it where the request names one range (RFC 9110 section 14)."""
    if settings.RESCUESITE_ACCEL_PREFIX:
        response: HttpResponseBase = HttpResponse()
        response["X-Accel-Redirect"] = f"{settings.RESCUESITE_ACCEL_PREFIX.rstrip('/')}/{stored.relative_path}"
        return _described(response, stored)
    try:
        part = _asked_part(_range(request, stored), stored.size)
    except RangeError:
        response = HttpResponse(status=416)
        response["Content-Range"] = f"bytes */{stored.size}"
        return response
    if part is None:
        response = FileResponse(stored.path.open("rb"))
        response["Content-Length"] = str(stored.size)
    else:
        start, end = part
        response = StreamingHttpResponse(_read(stored.path, start, end), status=206)
        response["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
        response["Content-Length"] = str(end - start)
    return _described(response, stored)


def _range(request: HttpRequest, stored: StoredFile) -> str:
    """The request's Range header, where it counts: in a GET, and for this version of the file."""
    wanted = request.headers.get("If-Range", _etag(stored))
    return request.headers.get("Range", "") if request.method == "GET" and wanted == _etag(stored) else ""


def _etag(stored: StoredFile) -> str:
    return f'"{stored.sha256}"'


def _described(response: HttpResponseBase, stored: StoredFile) -> HttpResponseBase:
    if "X-Accel-Redirect" not in response:
        response["Accept-Ranges"] = "bytes"
        response["ETag"] = _etag(stored)
    response["Content-Type"] = "application/octet-stream"
    response["Cache-Control"] = "no-store"
    return response


def _asked_part(header: str, size: int) -> tuple[int, int] | None:
    """Return the part (start, end) that `header` asks for, None for the whole file.

    A header that is no single byte range is ignored, as the RFC lets a server do. Raises RangeError.
    """
    match = _RANGE.fullmatch(header.strip())
    if not match or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeError
    return start, end


def _read(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(_CHUNK, end - start))):
            start += len(chunk)
            yield chunk
