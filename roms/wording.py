"""How jobs, cards, sizes and times are shown to people."""

from __future__ import annotations

from datetime import timedelta

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from roms.models import Card, Job, JobState

#: How a state looks: the colours of the site's other states.
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
    JobState.QUEUED: "It waits for a worker.",
    JobState.RUNNING: "Running.",
    JobState.SUCCEEDED: "It is done.",
    JobState.FAILED: "The tool reported an error.",
    JobState.SITE_ERROR: "The site made an error.",
    JobState.CANCELLED: "Somebody stopped it.",
    JobState.LOST: "Its worker has gone while it ran.",
}


def badge(state: JobState) -> SafeString:
    return format_html(
        '<span class="state state-{}" title="{}">{}</span>', CSS_CLASSES[state], MEANINGS[state], state.label.lower()
    )


def card_code(card: Card | None) -> SafeString | str:
    """A card in a list: short, its name where the pointer rests."""
    return format_html('<code title="{}">{}</code>', card.name, card.slug) if card else "all"


def job_url(job: Job) -> str:
    """The page of a job."""
    return reverse(f"admin:roms_{job._meta.model_name}_change", args=[job.pk])


def seconds_text(seconds: float) -> str:
    """34 s, 2 min 5 s, 1 h 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def duration_text(duration: timedelta | None) -> str:
    return seconds_text(duration.total_seconds()) if duration is not None else ""


def kib(size: int | None) -> str:
    """A chip's size for people: 64 KiB."""
    return "" if size is None else f"{size // 1024:,} KiB"
