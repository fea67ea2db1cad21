"""A template filter for sizes in bytes."""

from django import template

register = template.Library()


@register.filter
def thousands(number: int | None) -> str:
    """The number with separators, as in 65,536."""
    return "" if number is None else f"{number:,}"
