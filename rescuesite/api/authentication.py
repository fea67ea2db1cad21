"""Authentication with the header `Authorization: Token rs_…` or `Authorization: Bearer rs_…`."""

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
    """Return the user of the request's token; None without a valid token."""
    keyword, *rest = get_authorization_header(request).split() or [b""]  # type: ignore[arg-type]
    if keyword.lower() not in _KEYWORDS or len(rest) != 1:
        return None
    token = APIToken.objects.find(rest[0].decode("latin-1"))
    return token.user if token else None


class TokenAuthentication(BaseAuthentication):
    """Authenticates a request by its token."""

    def authenticate(self, request: Request) -> tuple[User, APIToken] | None:
        keyword, *rest = get_authorization_header(request).split() or [b""]
        if keyword.lower() not in _KEYWORDS:
            return None
        if len(rest) != 1:
            raise AuthenticationFailed("Write the header like “Authorization: Token rs_…”.")
        token = APIToken.objects.find(rest[0].decode("latin-1"))
        if token is None:
            self._count_failure(request)
            # The same message for all causes, so that it does not reveal former tokens.
            raise AuthenticationFailed("This token is not valid. It is unknown, has expired, or was deleted.")
        token.record_use()
        return token.user, token

    @staticmethod
    def _count_failure(request: Request) -> None:
        """Raises Throttled after too many failed tries. Valid tokens are not limited, because nobody can guess one.

        So a program with an old token does not block other programs at the same address.
        """
        source = source_of(request._request)
        if wait := LoginFailure.objects.reserve(source):
            raise Throttled(wait.total_seconds(), "Too many failed logins from this address.")
        LoginFailure.objects.failed(source)

    def authenticate_header(self, request: Request) -> str:
        return 'Token realm="api"'
