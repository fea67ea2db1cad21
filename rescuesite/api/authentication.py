"""Tokens in the header `Authorization: Token rs_…`; `Bearer` does too."""

from __future__ import annotations

from django.contrib.auth.models import User
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from machines.models import APIToken

_KEYWORDS = {b"token", b"bearer"}


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
            # One answer for all that does not work: nobody learns from it which tokens were once good.
            raise AuthenticationFailed("This token does not work: it is not known, has expired, or was deleted.")
        token.note_use()
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Token realm="api"'
