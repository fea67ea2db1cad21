"""The events of notification rules, and the audit entries that cause them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    from machines.models.audit import AuditEntry


class Event(models.TextChoices):
    """The events. Their values are the `type` of the messages."""

    ENABLED = "rescue.enabled", "rescue enabled"
    UP = "rescue.up", "rescue system is up"
    ENDED = "rescue.ended", "rescue ended"
    FAILED = "rescue.failed", "rescue failed: the image is damaged, or the rescue system never came up"
    OVERDUE = "rescue.overdue", "rescue system is not up in time"
    REFUSED = "rescue.refused", "a request for a machine in rescue was refused"
    DAMAGED = "image.damaged", "a stored file of a rescue image or a ROM is damaged"
    JOB_FINISHED = "job.finished", "a build or flash job has succeeded"
    JOB_FAILED = "job.failed", "a build or flash job has failed or lost its worker"


#: The event of a test message. A rule need not select it.
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
    # A second system uses the token of a rescue that is up.
    "up_refused": Event.REFUSED,
}
_JOB_OUTCOMES = {
    "succeeded": Event.JOB_FINISHED,
    "failed": Event.JOB_FAILED,
    "errored": Event.JOB_FAILED,
    "lost": Event.JOB_FAILED,
}
#: The reasons for which a machine in rescue boots its disk because of its image.
_BROKEN = {"image_unavailable", "image_damaged"}
#: The permissions to see builds and flash jobs, by the action of the audit entry. One of them is enough.
JOB_RIGHTS = {
    "build_finished": ("roms.view_build", "roms.build_rom"),
    "flash_finished": ("roms.view_flashjob", "roms.flash_rom"),
}
JOB_EVENTS = (Event.JOB_FINISHED, Event.JOB_FAILED)
_RESCUE_RIGHTS = ("machines.view_machine",)
_IMAGE_RIGHTS = ("machines.view_rescueimage",)
#: Without this permission, a message does not contain the audit entry.
AUDIT_RIGHT = "machines.view_auditentry"
_END_CAUSES = {
    "next_boot": "it has booted again",
    "expired": "its time is over",
}


def event_of(entry: AuditEntry) -> Event | None:
    """Return the event of an audit entry; None for most entries."""
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
    """Return the permissions to see `event`. One of them is enough. A test needs none.

    `action` is the action of the audit entry.
    """
    if event in JOB_EVENTS:
        return JOB_RIGHTS.get(action, ())
    if event == Event.DAMAGED:
        return _IMAGE_RIGHTS
    return () if event == TEST else _RESCUE_RIGHTS


def key_of(event: Event, entry: AuditEntry) -> str:
    """Return the key of an event. A rule reports each key once, so the end of a rescue has one key."""
    if event is Event.ENDED:
        return ended_key(entry.rescue_pk)
    if event is Event.FAILED and entry.action != "rescue_failed":
        # The worker and each power-on of the machine may find the same damaged image.
        return f"{event}:{entry.rescue_pk}:image"
    return f"{event}:{entry.pk}"


def ended_key(rescue_pk: int | None) -> str:
    return f"{Event.ENDED}:{rescue_pk}"


def sentence(event: str, machine: str, rescue: Mapping[str, Any] | None, audit: Mapping[str, Any] | None) -> str:
    """Describe the event in one line, for the subject of an email and for chats. The arguments are the API's JSON."""
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
            return "This is a test notification"
