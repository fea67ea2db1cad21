"""Tokens in the header `Authorization: Token rs_…`; `Bearer` does too."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from machines.models import APIToken, LoginFailure
from rescuesite.client_address import source_of

_KEYWORDS = {b"token", b"bearer"}


def user_of_token(request: HttpRequest) -> User | None:
    """The user whose token the request carries; None where it carries none that works."""
    keyword, *rest = get_authorization_header(request).split() or [b""]  # type: ignore[arg-type]
    if keyword.lower() not in _KEYWORDS or len(rest) != 1:
        return None
    token = APIToken.objects.find(rest[0].decode("latin-1"))
    return token.user if token else None


class TokenAuthentication(BaseAuthentication):
    """The user whose token the request carries."""

    def authenticate(self, request: Request) -> tuple[User, APIToken] | None:
        keyword, *rest = get_authorization_header(request).split() or [b""]
        if keyword.lower() not in _KEYWORDS:
            return None
        if len(rest) != 1:
            raise AuthenticationFailed("Write the header like “Authorization: Token rs_…”.")
        token = APIToken.objects.find(rest[0].decode("latin-1"))
        if token is None:
            self._count_failure(request)
            # One answer for all that does not work: nobody learns from it which tokens were once good.
            raise AuthenticationFailed("This token does not work: it is not known, has expired, or was deleted.")
        token.record_use()
        return token.user, token

    @staticmethod
    def _count_failure(request: Request) -> None:
        """Raises Throttled once too many have failed. A token that works always does: nobody guesses one.

        So a program that was forgotten with an old token locks nobody out who shares its address.
        """
        source = source_of(request._request)
        if wait := LoginFailure.objects.reserve(source):
            raise Throttled(wait.total_seconds(), "Too many log-ins from this address failed.")
        LoginFailure.objects.failed(source)

    def authenticate_header(self, request: Request) -> str:
        return 'Token realm="api"'
