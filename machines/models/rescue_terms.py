"""States, requests, reports and errors of rescues."""

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
#: The rescue system may start this many times without coming up. After that, the machine boots its disk.
MAX_TRIES = 5
#: Requests within this time belong to one power-on and count as one try.
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
    """A rescue cannot be enabled, disabled or tried again. The message says why and what to do."""


class NoUsableImageError(RescueError):
    """There is no image, or it cannot be booted."""


class RescueActiveError(RescueError):
    """The machine already has an active rescue. `rescue` is None if it was deleted meanwhile."""

    def __init__(self, machine: Machine, rescue: Rescue | None) -> None:
        self.rescue = rescue
        enabled = (
            f" It was enabled by {rescue.enabled_by_name or 'somebody'} at "
            f"{timezone.localtime(rescue.enabled_at):%Y-%m-%d %H:%M %Z}."
            if rescue
            else ""
        )
        super().__init__(f"Machine {machine.name} already has an active rescue.{enabled} Disable it first.")


class NotTriedError(RescueError):
    """The machine has not started the rescue system since it was enabled or last up."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(f"Machine {machine.name} has not started this rescue system since it was enabled or last up.")


class NoActiveRescueError(RescueError):
    """The machine has no active rescue."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(f"Machine {machine.name} has no active rescue.")


@dataclass(frozen=True)
class UpReport:
    """The report of a rescue system that accepts logins. The values are parsed, but not trusted."""

    boot_id: str = ""
    address: IPAddress | None = None
    hostname: str = ""
    host_keys: Sequence[str] = ()
    #: The values that could not be parsed. The audit log shows them, to help the author of a rescue system.
    not_understood: Sequence[str] = ()


class ReportResult(Enum):
    """How the site handled a report."""

    FIRST = auto()
    AGAIN = auto()
    TOO_EARLY = auto()
    OTHER_BOOT = auto()
    CHANGED_MEANWHILE = auto()


@dataclass(frozen=True)
class Status:
    """The effective state of a rescue at one moment."""

    state: str
    up_at: datetime | None = None
    ended_at: datetime | None = None
    end_cause: str = ""

    @property
    def is_ended(self) -> bool:
        return self.state == State.ENDED


def tidy_reason(reason: str) -> str:
    """Return `reason` as one line with plain spaces. Raises ValidationError if it is too long.

    Removes invisible characters: people paste reasons from chats and tickets.
    """
    line = "".join(c for c in " ".join(reason.split()) if c.isprintable())
    if len(line) > MAX_REASON:
        raise ValidationError({"reason": f"Enter at most {MAX_REASON} characters. This text has {len(line)}."})
    return line


@dataclass(frozen=True)
class RescueRequest:
    """The options of a rescue that staff enable."""

    #: If empty: `until` if `expires_at` is given, otherwise `one-boot`.
    lifetime: str = ""
    expires_at: datetime | None = None
    image: RescueImage | None = None
    reason: str = ""
    #: Whether to make a password for logins, in addition to the SSH keys.
    password: bool = False

    def checked(self, now: datetime) -> RescueRequest:
        """Return the request with its lifetime and a tidy reason.

        Raises ValidationError, by field, for values that are not valid at `now`.
        """
        if not self.lifetime:
            lifetime = Lifetime.UNTIL if self.expires_at else Lifetime.ONE_BOOT
            return replace(self, lifetime=lifetime).checked(now)
        if self.lifetime not in Lifetime.values:
            raise ValidationError({"lifetime": f"Choose one of: {', '.join(Lifetime.values)}."})
        if self.lifetime == Lifetime.UNTIL and not self.expires_at:
            raise ValidationError({"expires_at": "Enter the time when the rescue ends."})
        if self.lifetime == Lifetime.PERSISTENT and self.expires_at:
            raise ValidationError({"expires_at": "A persistent rescue has no end. Choose “until” to set one."})
        if self.expires_at and self.expires_at <= now:
            passed = f"This time is in the past. It is now {timezone.localtime(now):%Y-%m-%d %H:%M %Z}."
            raise ValidationError({"expires_at": passed})
        return replace(self, reason=tidy_reason(self.reason))
