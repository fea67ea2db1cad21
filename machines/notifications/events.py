"""What others can be told of, and what of the audit log that is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    from machines.models.audit import AuditEntry


class Event(models.TextChoices):
    """What a rule can be about; the values are the `type` of what is sent."""

    ENABLED = "rescue.enabled", "rescue enabled"
    UP = "rescue.up", "rescue system is up"
    ENDED = "rescue.ended", "rescue ended"
    FAILED = "rescue.failed", "a machine boots its disk though in rescue: image damaged, or the system never came up"
    OVERDUE = "rescue.overdue", "rescue system is not up after so many minutes"
    REFUSED = "rescue.refused", "a request for a machine in rescue was refused"
    DAMAGED = "image.damaged", "a stored file, of a rescue image or a ROM, is damaged"
    JOB_FINISHED = "job.finished", "a build or flash job has succeeded"
    JOB_FAILED = "job.failed", "a build or flash job has failed, or lost its worker"


#: Sent by hand, to see whether it arrives; no rule has to name it.
TEST = "test"

_ACTIONS = {
    "rescue_enabled": Event.ENABLED,
    "up": Event.UP,
    "rescue_disabled": Event.ENDED,
    "rescue_ended": Event.ENDED,
    "rescue_failed": Event.FAILED,
    "rescue_file_damaged": Event.FAILED,
    "file_damaged": Event.DAMAGED,
    "file_refused": Event.REFUSED,
    # A second system with the token of a rescue that is up.
    "up_refused": Event.REFUSED,
}
_JOB_OUTCOMES = {
    "succeeded": Event.JOB_FINISHED,
    "failed": Event.JOB_FAILED,
    "errored": Event.JOB_FAILED,
    "lost": Event.JOB_FAILED,
}
#: Reasons of an answer that staff would not expect of a machine in rescue.
_BROKEN = {"image_unavailable", "image_damaged"}
#: What lets a person see builds and flash jobs, by the audit entry's action; one of them is enough.
JOB_RIGHTS = {
    "build_finished": ("roms.view_build", "roms.build_rom"),
    "flash_finished": ("roms.view_flashjob", "roms.flash_rom"),
}
JOB_EVENTS = (Event.JOB_FINISHED, Event.JOB_FAILED)
_RESCUE_RIGHTS = ("machines.view_machine",)
_IMAGE_RIGHTS = ("machines.view_rescueimage",)
#: Without it, an event comes without its audit entry.
AUDIT_RIGHT = "machines.view_auditentry"
_END_CAUSES = {
    "next_boot": "it has booted again",
    "expired": "its time is over",
}


def event_of(entry: AuditEntry) -> Event | None:
    """What an audit entry is to others; None for most."""
    if entry.action == "boot":
        return _boot_event(entry) if entry.rescue_pk else None
    if entry.action in {"build_finished", "flash_finished"}:
        return _JOB_OUTCOMES.get(entry.outcome)
    return _ACTIONS.get(entry.action)


def _boot_event(entry: AuditEntry) -> Event | None:
    if entry.outcome == "refused":
        return Event.REFUSED
    return Event.FAILED if entry.reason in _BROKEN else None


def needed_rights(event: str, action: str = "") -> tuple[str, ...]:
    """The permissions of which one lets a person be told of `event`; none for a test. `action`: the audit entry's."""
    if event in JOB_EVENTS:
        return JOB_RIGHTS.get(action, ())
    if event == Event.DAMAGED:
        return _IMAGE_RIGHTS
    return () if event == TEST else _RESCUE_RIGHTS


def key_of(event: Event, entry: AuditEntry) -> str:
    """What makes this event this one; a rule tells of it once. A rescue ends once, whoever notices it first."""
    if event is Event.ENDED:
        return ended_key(entry.rescue_pk)
    if event is Event.FAILED and entry.action != "rescue_failed":
        # Found by the worker, or met by the machine, at each of its power-ons.
        return f"{event}:{entry.rescue_pk}:image"
    return f"{event}:{entry.pk}"


def ended_key(rescue_pk: int | None) -> str:
    return f"{Event.ENDED}:{rescue_pk}"


def sentence(event: str, machine: str, rescue: Mapping[str, Any] | None, audit: Mapping[str, Any] | None) -> str:
    """The event in one line, for a mail's subject and for chats. The arguments are as the API shows them."""
    rescue, audit = rescue or {}, audit or {}
    by = f" by {audit['actor']}" if audit.get("actor") else ""
    reason = f": {audit['reason']}" if audit.get("reason") else ""
    match event:
        case Event.ENABLED:
            return f"{machine}: rescue enabled{by}{reason}"
        case Event.UP:
            where = f", ssh root@{rescue['address']}" if rescue.get("address") else ""
            return f"{machine}: rescue system is up{where}"
        case Event.ENDED:
            cause = _END_CAUSES.get(str(rescue.get("end_cause")))
            return f"{machine}: rescue ended, {cause}" if cause else f"{machine}: rescue disabled{by}{reason}"
        case Event.FAILED:
            never_up = audit.get("action") == "rescue_failed"
            why = "its system never came up" if never_up else "a file of its image is damaged or lost"
            return f"{machine}: the rescue has failed, {why}"
        case Event.DAMAGED:
            return f"A stored file is damaged: {audit.get('details', {}).get('subject')}"
        case Event.OVERDUE:
            return f"{machine}: the rescue system is not up yet ({rescue.get('state')})"
        case Event.REFUSED:
            source = f" from {audit['source']}" if audit.get("source") else ""
            return f"{machine}: a request{source} was refused{reason}"
        case Event.JOB_FINISHED | Event.JOB_FAILED:
            subject = str(audit.get("details", {}).get("subject", "job"))
            about = f"{machine}: " if machine else ""
            return f"{about}{subject} {audit.get('outcome')}{reason}"
        case _:
            return "This is a test of a notification"
