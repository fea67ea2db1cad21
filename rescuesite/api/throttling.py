"""How often a program may ask."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from machines.models import APIToken


class TokenThrottle(SimpleRateThrottle):
    """So many requests a minute with one token (RESCUESITE_API_RATE); people at the pages are not counted.

    Each process counts for itself, in memory: counting in the database would take its one writer from NICs that boot.
    """

    scope = "token"

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        token = request.auth
        return f"api-token-{token.pk}" if isinstance(token, APIToken) else None
