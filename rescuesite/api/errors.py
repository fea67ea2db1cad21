"""Errors as JSON for all URLs below /api/.

400: `{"field": ["…", …], …}` for each wrong field, and `detail` for errors that do not concern one field.
All others: `{"detail": "…"}`. So `detail` is always a text, and every other key is a list of texts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.signals import got_request_exception
from django.db import OperationalError
from rest_framework import status
from rest_framework.exceptions import ValidationError as APIValidationError
from rest_framework.response import Response
from rest_framework.views import exception_handler, set_rollback

from machines.models.rescue_terms import RescueError
from machines.models.validation import messages_by_field
from rescuesite.api.exceptions import ConflictError

logger = logging.getLogger(__name__)

DETAIL = "detail"
_WHOLE = {DETAIL, NON_FIELD_ERRORS, "non_field_errors"}


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's EXCEPTION_HANDLER."""
    if isinstance(error, ValidationError):
        error = APIValidationError(messages_by_field(error))
    elif isinstance(error, RescueError):
        error = ConflictError(str(error))
    response = exception_handler(error, context)
    if response is None:
        return _fault(error, context)
    if isinstance(error, APIValidationError):
        response.data = flat(response.data)
    return response


def flat(errors: Any) -> dict[str, Any]:
    """Convert DRF's nested errors into the format of this module's docstring."""
    if not isinstance(errors, dict):
        errors = {DETAIL: errors}
    result: dict[str, Any] = {}
    whole: list[str] = []
    for name, value in errors.items():
        texts = list(_texts(value))
        if name in _WHOLE:
            whole += texts
        else:
            result[str(name)] = texts
    return result | ({DETAIL: " ".join(whole)} if whole else {})


def renamed(error: ValidationError, names: dict[str, str]) -> ValidationError:
    """Return the error with the API's names of the model's fields."""
    errors: dict[str, list[str]] = {}
    for name, texts in messages_by_field(error).items():
        errors.setdefault(names.get(name, name), []).extend(texts)
    return ValidationError(errors)


def _texts(value: Any, path: str = "") -> Iterator[str]:
    """Yield the texts of nested errors, each after its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            below = path if name in _WHOLE else ".".join(filter(None, (path, str(name))))
            yield from _texts(inner, below)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, ".".join(filter(None, (path, str(number)))) if isinstance(inner, dict) else path)
    else:
        yield f"{path}: {value}" if path else str(value)


def _fault(error: Exception, context: dict[str, Any]) -> Response:
    """Return the answer to an unexpected error. Only the log contains the details."""
    request = context["request"]._request
    set_rollback()
    if isinstance(error, OperationalError):
        logger.error("Database error at %s %s: %s", request.method, request.path, error)
        return Response({DETAIL: "The database does not respond. Try again."}, status.HTTP_503_SERVICE_UNAVAILABLE)
    logger.error("Internal error at %s %s", request.method, request.path, exc_info=error)
    # Django sends this signal too. Tests and monitoring tools listen to it.
    got_request_exception.send(sender=None, request=request)
    return Response({DETAIL: "Internal error. See the site's log."}, status.HTTP_500_INTERNAL_SERVER_ERROR)
