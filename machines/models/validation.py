"""Errors of several fields, told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

Errors = dict[str, list[str]]


@contextmanager
def collecting(errors: Errors) -> Iterator[None]:
    """Add what the block objects to, by field, and go on behind it."""
    try:
        yield
    except ValidationError as error:
        found = error.message_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.messages}
        for name, texts in found.items():
            errors.setdefault(name, []).extend(texts)


def raise_if_errors(errors: Errors) -> None:
    """Raise ValidationError where there are errors."""
    if errors:
        raise ValidationError(errors)
