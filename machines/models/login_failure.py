"""Limit failed logins for each address, against guessing of passwords.

The counts are in the database, because several processes answer. The site counts a try before it checks the password
and subtracts it after a successful login. So parallel tries have the same limit as sequential ones.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_network

from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.utils import timezone

from machines.addresses import IPAddress
from machines.models.audit import AuditEntry

#: The number of failed logins that one address may have within the window. The window begins with the first one.
ALLOWED = 10
WINDOW = timedelta(minutes=10)
#: The number of addresses in the table. The oldest are dropped.
MAX_ADDRESSES = 10_000


def block_of(source: IPAddress | None) -> str:
    """Return the address block to count. For IPv6 this is the /64 network, which belongs to one customer."""
    if isinstance(source, IPv6Address):
        return str(ip_network((source, 64), strict=False))
    return str(source) if source else "unknown"


class LoginFailureQuerySet(models.QuerySet["LoginFailure"]):
    def wait(self, source: IPAddress | None, now: datetime | None = None) -> timedelta | None:
        """Return how long logins from the address are blocked; None if they are not."""
        now = now or timezone.now()
        since = self.filter(address=block_of(source), since__gt=now - WINDOW, count__gte=ALLOWED).values_list("since")
        first = since.first()
        return first[0] + WINDOW - now if first else None

    def reserve(self, source: IPAddress | None, now: datetime | None = None) -> timedelta | None:
        """Count a try before the password is checked. Return None if the try is allowed, otherwise how long to wait.

        One statement checks and counts, so parallel tries cannot exceed the limit.
        """
        now, address = now or timezone.now(), block_of(source)
        left = self.filter(address=address, since__gt=now - WINDOW, count__lt=ALLOWED)
        if left.update(count=F("count") + 1):
            return None
        try:
            with transaction.atomic():
                self._make_room(now)
                self.create(address=address, since=now, count=1)
        except IntegrityError:
            # The limit is reached, or another process added the row first.
            return None if left.update(count=F("count") + 1) else self.wait(source, now) or WINDOW
        return None

    def give_back(self, source: IPAddress | None) -> None:
        """Subtract a try that was counted: the login succeeded."""
        self.filter(address=block_of(source), count__gt=0).update(count=F("count") - 1)

    def failed(self, source: IPAddress | None, now: datetime | None = None) -> None:
        """Handle a failed try. If the limit is reached, add one audit entry."""
        now, address = now or timezone.now(), block_of(source)
        full = self.filter(address=address, since__gt=now - WINDOW, count__gte=ALLOWED).first()
        if full is None:
            return
        with contextlib.suppress(IntegrityError), transaction.atomic():
            AuditEntry.objects.record(
                "logins_blocked",
                at=now,
                source=str(source) if source else None,
                subject=address,
                details={"failures": ALLOWED, "minutes": WINDOW // timedelta(minutes=1)},
                # Parallel tries would each add an entry without this key.
                shared_key=f"{address} {full.since.timestamp():.0f}",
            )

    def _make_room(self, now: datetime) -> None:
        self.filter(since__lte=now - WINDOW).delete()
        surplus = self.order_by("-since").values_list("pk", flat=True)[MAX_ADDRESSES - 1 :]
        self.filter(pk__in=list(surplus)).delete()


class LoginFailure(models.Model):
    """The number of failed logins from one address since a time."""

    address = models.CharField(max_length=43, unique=True)
    since = models.DateTimeField(db_index=True)
    count = models.PositiveIntegerField()

    objects = LoginFailureQuerySet.as_manager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.count} from {self.address}"
