"""What people are shown when a request is refused before it reaches a page."""

from __future__ import annotations

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Say what to do; Django takes no name with an underscore, whatever ALLOWED_HOSTS lists (RFC 1034)."""
    host = request.META.get("HTTP_HOST", "") if isinstance(exception, DisallowedHost) else ""
    return render(None, "400.html", {"host": host, "has_underscore": "_" in host}, status=400)
