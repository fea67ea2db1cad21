"""Template filters for the words of reasons, states and actions."""

from django import template

from machines import wording
from machines.boot import reasons
from machines.models import AuditEntry

register = template.Library()


@register.filter
def reason_text(reason: str) -> str:
    return reasons.reason_text(reason)


@register.filter
def source_text(entry: AuditEntry) -> str:
    return wording.source_text(entry)


@register.filter
def state_text(state: str) -> str:
    return wording.STATES.get(state, state)


@register.filter
def action_text(action: str) -> str:
    return wording.action_text(action)
