"""Exceptions that DRF does not have. They have their own module, because DRF's views import the parsers."""

from rest_framework import status
from rest_framework.exceptions import APIException


class ConflictError(APIException):
    """The request conflicts with the current state."""

    status_code = status.HTTP_409_CONFLICT
    default_detail = "This is not possible in the current state."
    default_code = "conflict"


class TooLargeError(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The request is too large."
    default_code = "too_large"
