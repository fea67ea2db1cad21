"""Log-ins that failed, counted by address, so that passwords cannot be guessed at leisure.

In the database, as several processes answer. A try is counted before the password is looked at, and given back where it
was right: who tries many at once gets no further than who tries one after the other.
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

#: So many may fail from one address within the time; then it waits until the time since the first is over.
ALLOWED = 10
WINDOW = timedelta(minutes=10)
#: So many addresses are remembered; the oldest make room.
MAX_ADDRESSES = 10_000


def block_of(source: IPAddress | None) -> str:
    """What counts as one address: of IPv6 the /64, which is one customer's."""
    if isinstance(source, IPv6Address):
        return str(ip_network((source, 64), strict=False))
    return str(source) if source else "unknown"


class LoginFailureQuerySet(models.QuerySet["LoginFailure"]):
    def wait(self, source: IPAddress | None, now: datetime | None = None) -> timedelta | None:
        """How long nobody may log in from there; None where they may."""
        now = now or timezone.now()
        since = self.filter(address=block_of(source), since__gt=now - WINDOW, count__gte=ALLOWED).values_list("since")
        first = since.first()
        return first[0] + WINDOW - now if first else None

    def reserve(self, source: IPAddress | None, now: datetime | None = None) -> timedelta | None:
        """Count a try before it is made; None where it may be. Otherwise how long to wait, and nothing is counted.

        Counting and looking are one statement: of many tries at one moment no more pass than are left.
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
            # None is left, or another process was faster.
            return None if left.update(count=F("count") + 1) else self.wait(source, now) or WINDOW
        return None

    def give_back(self, source: IPAddress | None) -> None:
        """The try that was counted was no failure."""
        self.filter(address=block_of(source), count__gt=0).update(count=F("count") - 1)

    def failed(self, source: IPAddress | None, now: datetime | None = None) -> None:
        """The try that was counted has failed; where it was the last, the audit log is told, once."""
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
                # Tries that failed at one moment would each tell.
                shared_key=f"{address} {full.since.timestamp():.0f}",
            )

    def _make_room(self, now: datetime) -> None:
        self.filter(since__lte=now - WINDOW).delete()
        surplus = self.order_by("-since").values_list("pk", flat=True)[MAX_ADDRESSES - 1 :]
        self.filter(pk__in=list(surplus)).delete()


class LoginFailure(models.Model):
    """An address from which log-ins failed, since when, and how many."""

    address = models.CharField(max_length=43, unique=True)
    since = models.DateTimeField(db_index=True)
    count = models.PositiveIntegerField()

    objects = LoginFailureQuerySet.as_manager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.count} from {self.address}"
