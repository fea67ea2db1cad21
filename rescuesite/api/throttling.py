"""Limit the requests of programs."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from machines.models import APIToken


class TokenThrottle(SimpleRateThrottle):
    """Limits the requests per minute of one token (RESCUESITE_API_RATE). Sessions are not limited.

    Each process counts in its own memory. Counting in the database would delay boot answers.
    """

    scope = "token"

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        token = request.auth
        return f"api-token-{token.pk}" if isinstance(token, APIToken) else None
