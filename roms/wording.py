"""Jobs, cards, sizes and durations as text for people."""

from __future__ import annotations

from datetime import timedelta

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from roms.models import Card, Job, JobState

#: The CSS class of each state.
CSS_CLASSES = {
    JobState.QUEUED: "local",
    JobState.RUNNING: "booting",
    JobState.SUCCEEDED: "up",
    JobState.FAILED: "refused",
    JobState.SITE_ERROR: "refused",
    JobState.CANCELLED: "local",
    JobState.LOST: "armed",
}
MEANINGS = {
    JobState.QUEUED: "The job waits for a worker.",
    JobState.RUNNING: "A worker runs the job.",
    JobState.SUCCEEDED: "The job succeeded.",
    JobState.FAILED: "The tool reported an error.",
    JobState.SITE_ERROR: "The site made an error.",
    JobState.CANCELLED: "Somebody cancelled the job.",
    JobState.LOST: "The worker stopped while it ran the job.",
}


def badge(state: JobState) -> SafeString:
    return format_html(
        '<span class="state state-{}" title="{}">{}</span>', CSS_CLASSES[state], MEANINGS[state], state.label.lower()
    )


def card_code(card: Card | None) -> SafeString | str:
    """The short form of a card for lists, with its name as a tooltip."""
    return format_html('<code title="{}">{}</code>', card.name, card.slug) if card else "all"


def job_url(job: Job) -> str:
    """The page of a job."""
    return reverse(f"admin:roms_{job._meta.model_name}_change", args=[job.pk])


def seconds_text(seconds: float) -> str:
    """A duration as text: 34 s, 2 min 5 s, 1 h 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def duration_text(duration: timedelta | None) -> str:
    return seconds_text(duration.total_seconds()) if duration is not None else ""


def kib(size: int | None) -> str:
    """A size as text: 64 KiB."""
    return "" if size is None else f"{size // 1024:,} KiB"
