"""The terms in which rescues are spoken of: states, orders, reports, and why something cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from machines.addresses import IPAddress

if TYPE_CHECKING:
    from machines.models.image import RescueImage
    from machines.models.machine import Machine
    from machines.models.rescue import Rescue

MAX_REASON = 500
#: So often its system is started without coming up; from then on the machine boots its disk.
MAX_TRIES = 5
#: Scripts that a machine asks for within this time belong to one power-on, and count as one try.
SAME_POWER_ON = timedelta(minutes=1)


class State(models.TextChoices):
    ARMED = "armed"
    BOOTING = "booting"
    UP = "up"
    ENDED = "ended"


class Lifetime(models.TextChoices):
    ONE_BOOT = "one-boot", "one boot"
    UNTIL = "until", "until a time"
    PERSISTENT = "persistent", "until disabled"


class EndCause(models.TextChoices):
    NEXT_BOOT = "next_boot", "next boot"
    DISABLED = "disabled"
    EXPIRED = "expired"


class RescueError(Exception):
    """A rescue cannot be enabled or disabled; the message says why and what to do."""


class NoUsableImageError(RescueError):
    """There is no image, or it cannot be booted."""


class RescueActiveError(RescueError):
    """The machine has a rescue already; `rescue` is it, where it could still be read."""

    def __init__(self, machine: Machine, rescue: Rescue | None) -> None:
        self.rescue = rescue
        whose = (
            f", enabled by {rescue.enabled_by_name or 'somebody'} at "
            f"{timezone.localtime(rescue.enabled_at):%Y-%m-%d %H:%M %Z}"
            if rescue
            else ""
        )
        super().__init__(f"A rescue of {machine.name} is active already{whose}. Disable it first.")


class NotTriedError(RescueError):
    """There is no try that could be forgotten."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(f"The rescue of {machine.name} has not been tried since it was enabled, or last up.")


class NoActiveRescueError(RescueError):
    """There is nothing to disable."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(f"No rescue of {machine.name} is active.")


@dataclass(frozen=True)
class UpReport:
    """What a rescue system says once it can be logged in to; all of it parsed, none of it trusted."""

    boot_id: str = ""
    address: IPAddress | None = None
    hostname: str = ""
    host_keys: Sequence[str] = ()
    #: What of it made no sense, for whoever wrote the rescue system.
    not_understood: Sequence[str] = ()


class ReportResult(Enum):
    """What came of a report."""

    FIRST = auto()
    AGAIN = auto()
    TOO_EARLY = auto()
    OTHER_BOOT = auto()
    CHANGED_MEANWHILE = auto()


@dataclass(frozen=True)
class Status:
    """How a rescue stands at one moment, with what time has done to it."""

    state: str
    up_at: datetime | None = None
    ended_at: datetime | None = None
    end_cause: str = ""

    @property
    def is_ended(self) -> bool:
        return self.state == State.ENDED


def tidy_reason(reason: str) -> str:
    """Return `reason` as one line, with plain spaces. Raises ValidationError where it is too long to keep.

    People paste reasons from chats and tickets: characters that cannot be seen are dropped.
    """
    line = "".join(c for c in " ".join(reason.split()) if c.isprintable())
    if len(line) > MAX_REASON:
        raise ValidationError({"reason": f"Write at most {MAX_REASON} characters; these are {len(line)}."})
    return line


@dataclass(frozen=True)
class RescueRequest:
    """What staff choose when they enable a rescue."""

    #: Empty: one boot, or until `expires_at` where that is given.
    lifetime: str = ""
    expires_at: datetime | None = None
    image: RescueImage | None = None
    reason: str = ""
    #: Whether the system can also be logged in to by a password, made when it is enabled.
    password: bool = False

    def checked(self, now: datetime) -> RescueRequest:
        """Return the request with its lifetime, and its reason tidied.

        Raises ValidationError, by field, for what makes no sense at `now`.
        """
        if not self.lifetime:
            lifetime = Lifetime.UNTIL if self.expires_at else Lifetime.ONE_BOOT
            return replace(self, lifetime=lifetime).checked(now)
        if self.lifetime not in Lifetime.values:
            raise ValidationError({"lifetime": f"Choose one of: {', '.join(Lifetime.values)}."})
        if self.lifetime == Lifetime.UNTIL and not self.expires_at:
            raise ValidationError({"expires_at": "Say until when."})
        if self.lifetime == Lifetime.PERSISTENT and self.expires_at:
            raise ValidationError({"expires_at": "A persistent rescue has no end; choose “until” for one that has."})
        if self.expires_at and self.expires_at <= now:
            passed = f"This time has passed: here it is {timezone.localtime(now):%Y-%m-%d %H:%M %Z}."
            raise ValidationError({"expires_at": passed})
        return replace(self, reason=tidy_reason(self.reason))
