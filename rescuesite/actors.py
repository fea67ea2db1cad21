"""The actor of a request, for audit entries."""

from __future__ import annotations

from django.http import HttpRequest
from rest_framework.request import Request

from machines.models import Actor
from rescuesite.client_address import source_of


def actor_of(request: HttpRequest | Request) -> Actor:
    """Return the user of the request with the source address."""
    source = source_of(request._request if isinstance(request, Request) else request)
    return Actor.of_user(request.user, str(source) if source else None)
