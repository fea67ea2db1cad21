"""Errors that DRF has not. A module of their own: DRF's views import what its settings name, parsers among it."""

from rest_framework import status
from rest_framework.exceptions import APIException


class ConflictError(APIException):
    """It cannot be done as things stand."""

    status_code = status.HTTP_409_CONFLICT
    default_detail = "This is not possible as things stand."
    default_code = "conflict"


class TooLargeError(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The request is too large."
    default_code = "too_large"
