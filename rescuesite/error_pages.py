"""The error pages that need more than Django's own views."""

from __future__ import annotations

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import requires_csrf_token


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Explain an invalid Host header. Django never accepts a host name with an underscore (RFC 1034)."""
    host = request.META.get("HTTP_HOST", "") if isinstance(exception, DisallowedHost) else ""
    return render(None, "400.html", {"host": host, "has_underscore": "_" in host}, status=400)


@requires_csrf_token
def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Show the message of the exception. Without one, Django's view would show the name of the exception's class."""
    message = next((text for text in exception.args if isinstance(text, str)), "")
    return render(request, "404.html", {"message": message}, status=404)
