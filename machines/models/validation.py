"""Collect the errors of several fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

Errors = dict[str, list[str]]


def messages_by_field(error: ValidationError) -> Mapping[str, list[str]]:
    """Return the messages of an error by field. Messages about no field are under NON_FIELD_ERRORS."""
    return error.message_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.messages}


@contextmanager
def collecting(errors: Errors) -> Iterator[None]:
    """Add the messages of a ValidationError in the block to `errors`, and continue after the block."""
    try:
        yield
    except ValidationError as error:
        for name, texts in messages_by_field(error).items():
            errors.setdefault(name, []).extend(texts)


def raise_if_errors(errors: Errors) -> None:
    """Raise ValidationError if there are errors."""
    if errors:
        raise ValidationError(errors)
