"""The timeline of a machine, for people and programs: its audit entries, and the changes that time alone caused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.utils import timezone

from machines.boot.reasons import Outcome, reason_text
from machines.models import AuditEntry, Machine, Rescue
from machines.wording import action_text, source_text

_LIMIT = 200
_END_CAUSES = {
    "next_boot": "The machine booted again.",
    "disabled": "Staff disabled it.",
    "expired": "Its time was over.",
}


@dataclass(frozen=True)
class Event:
    """One event. `kind` selects the style, `facts` are pairs of label and value, `copy` is text for the clipboard."""

    at: datetime
    kind: str
    title: str
    text: str = ""
    actor: str = ""
    source: str = ""
    count: int = 1
    repeated_at: datetime | None = None
    facts: tuple[tuple[str, str], ...] = ()
    copy: str = ""
    files: tuple[str, ...] = field(default=(), compare=False)


def machine_timeline(machine: Machine, now: datetime | None = None) -> list[Event]:
    """Return the latest events of a machine, newest first. This needs two queries."""
    now = now or timezone.now()
    entries = AuditEntry.objects.filter(machine_pk=machine.pk)[:_LIMIT]
    events = [_event(entry) for entry in entries]
    latest = machine.rescues.first()
    events += _events_without_entry(latest, now) if latest else []
    return _merge_files(sorted(events, key=lambda event: event.at, reverse=True))


def _events_without_entry(rescue: Rescue, now: datetime) -> Iterable[Event]:
    """Yield the changes that time alone caused and that are not stored yet."""
    status = rescue.status_at(now)
    if status.up_at and not rescue.up_at:
        text = "The image does not report. Its files arrived two minutes before."
        yield Event(status.up_at, "up", "Counts as up", text)
    if status.is_ended and rescue.state != Rescue.State.ENDED and status.ended_at:
        yield Event(status.ended_at, "ended", "Rescue ended", _END_CAUSES[status.end_cause])


def _merge_files(events: list[Event]) -> list[Event]:
    """Merge successive file events into one event with the time of the first."""
    merged: list[Event] = []
    for event in events:
        later = merged[-1] if merged else None
        if later and event.files and later.files:
            files = (*event.files, *(name for name in later.files if name not in event.files))
            merged[-1] = replace(event, files=files, text=", ".join(files))
        else:
            merged.append(event)
    return merged


def _event(entry: AuditEntry) -> Event:
    describe = _DESCRIPTIONS.get(entry.action, _other)
    event = describe(entry)
    unknown = () if entry.source or not source_text(entry) else (("source", source_text(entry)),)
    return replace(
        event,
        facts=event.facts + unknown,
        actor=entry.actor,
        source=entry.source or "",
        count=entry.count,
        repeated_at=entry.repeated_at,
    )


def _boot(entry: AuditEntry) -> Event:
    titles = {
        Outcome.RESCUE: ("served", "Rescue script served"),
        Outcome.REFUSED: ("refused", "Refused"),
        Outcome.LOCAL: ("local", "Told to boot its disk"),
    }
    kind, title = titles[Outcome(entry.outcome)]
    claimed = entry.details.get("ip")
    facts = [("MAC", entry.mac)] if entry.mac else []
    if claimed and claimed != entry.source:
        facts.append(("claimed address", claimed))
    if remark := entry.details.get("remark"):
        facts.append(("remark", remark))
    return Event(entry.at, kind, title, reason_text(entry.reason), facts=tuple(facts))


def _enabled(entry: AuditEntry) -> Event:
    facts = [("image", entry.subject), ("lifetime", entry.details.get("lifetime", ""))]
    if entry.details.get("expires_at"):
        until = timezone.localtime(datetime.fromisoformat(entry.details["expires_at"]))
        facts.append(("until", f"{until:%Y-%m-%d %H:%M %Z}"))
    return Event(entry.at, "armed", "Rescue enabled", entry.reason, facts=tuple(facts))


def _failed(entry: AuditEntry) -> Event:
    tries = entry.details.get("tries")
    text = f"The rescue system was started {tries} times and never came up. The machine boots its disk."
    return Event(entry.at, "refused", "Rescue failed", text)


def _tried_again(entry: AuditEntry) -> Event:
    text = "The machine boots the rescue system from the next power-on. The tries start again from 0."
    return Event(entry.at, "armed", "Rescue is tried again", text)


def _file_damaged(entry: AuditEntry) -> Event:
    text = f"The contents of {entry.subject} are damaged. The machine boots its disk until you upload the file again."
    return Event(entry.at, "refused", "A file of the rescue is damaged", text)


def _file_repaired(entry: AuditEntry) -> Event:
    return Event(entry.at, "ready", "A file of the rescue is intact again", entry.subject)


def _disabled(entry: AuditEntry) -> Event:
    return Event(entry.at, "ended", "Rescue disabled", entry.reason)


def _ended(entry: AuditEntry) -> Event:
    ended_at = datetime.fromisoformat(entry.details["ended_at"])
    return Event(ended_at, "ended", "Rescue ended", _END_CAUSES.get(entry.details["end_cause"], ""))


def _file(entry: AuditEntry) -> Event:
    return Event(entry.at, "file", "Files requested", entry.subject, files=(entry.subject,))


def _file_refused(entry: AuditEntry) -> Event:
    return Event(entry.at, "refused", f"File {entry.subject} refused", reason_text(entry.reason))


def _ready(entry: AuditEntry) -> Event:
    return Event(entry.at, "ready", "Ready", "All files have arrived.")


def _up(entry: AuditEntry) -> Event:
    return Event(entry.at, "up", "Rescue system is up", facts=_up_facts(entry), copy=_ssh_line(entry))


def _up_refused(entry: AuditEntry) -> Event:
    text = (
        "Another system reported with the token of this rescue while one is up. If you did not start it, find out who "
        "did."
    )
    return Event(entry.at, "refused", "A second report was refused", text, facts=_up_facts(entry))


def _up_facts(entry: AuditEntry) -> tuple[tuple[str, str], ...]:
    details = entry.details
    facts = [(name, details[name]) for name in ("address", "hostname") if details.get(name)]
    if details.get("address") and details.get("served_to") and details["address"] != details["served_to"]:
        facts.append(("address of the firmware", details["served_to"]))
    facts += [("not understood", told) for told in details.get("not_understood", [])]
    facts += [("host key", fingerprint) for fingerprint in details.get("host_keys", [])]
    return tuple(facts)


def _ssh_line(entry: AuditEntry) -> str:
    address: str | None = entry.details.get("address") or entry.source
    return f"ssh root@{address}" if address else ""


def _rom_job(entry: AuditEntry) -> Event:
    """Describe a job on one of the machine's network cards."""
    step = entry.action.partition("_")[2]
    title = f"{entry.subject.capitalize()} {step.replace('_', ' ')}"
    looks = {"succeeded": "ready", "failed": "refused", "errored": "refused", "lost": "refused"}
    order = {name: entry.details.get(name) for name in ("action", "card", "station", "build")}
    facts = tuple((name, str(value)) for name, value in order.items() if value)
    title += f": {entry.outcome}" if entry.outcome else ""
    return Event(entry.at, looks.get(entry.outcome, "change"), title, entry.reason, facts=facts)


def _other(entry: AuditEntry) -> Event:
    title = action_text(entry.action)
    changes: dict[str, Any] = entry.details.get("after", {}) if "before" in entry.details else {}
    facts = tuple((name, f"{entry.details['before'].get(name)} → {value}") for name, value in changes.items())
    return Event(entry.at, "change", title, entry.reason, facts=facts)


_DESCRIPTIONS = {
    "boot": _boot,
    "rescue_enabled": _enabled,
    "rescue_failed": _failed,
    "rescue_tried_again": _tried_again,
    "rescue_file_damaged": _file_damaged,
    "rescue_file_repaired": _file_repaired,
    "rescue_disabled": _disabled,
    "rescue_ended": _ended,
    "file_sent": _file,
    "file_refused": _file_refused,
    "ready": _ready,
    "up": _up,
    "up_refused": _up_refused,
    "flash_requested": _rom_job,
    "flash_cancel_requested": _rom_job,
    "flash_finished": _rom_job,
}
