"""The append-only audit log: the actions of staff, the requests of network cards, and the reasons of the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Never

from django.db import IntegrityError, models, transaction
from django.db.models import Count, F
from django.utils import timezone

from machines.models.turns import portions
from machines.signals import audit_recorded

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

    from machines.models.machine import Machine
    from machines.models.rescue import Rescue

#: Equal answers to one machine within this time share an entry.
REPEAT = timedelta(minutes=1)
#: The number of entries of one kind that a machine may add in a day. Later answers only increase a count.
DAILY_ENTRIES = 100
#: The actions of machines and rescue systems. They change nothing that staff edit.
ANSWERS = ("boot", "file_sent", "file_refused", "ready", "up", "up_refused")


@dataclass(frozen=True)
class Actor:
    """The one who acts: a user of the site, a person at the command line, or nobody (a network card)."""

    name: str = ""
    user_pk: int | None = None
    source: str | None = None
    #: The user whose permissions apply. None means all permissions, as at the command line.
    user: AbstractBaseUser | AnonymousUser | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_user(cls, user: AbstractBaseUser | AnonymousUser, source: str | None = None) -> Actor:
        return cls(user.get_username(), user.pk, source, user)

    @property
    def is_superuser(self) -> bool:
        """Whether the actor is a superuser or works at the command line."""
        return self.user is None or bool(getattr(self.user, "is_superuser", False))

    def may(self, permission: str) -> bool:
        """Whether the actor has a permission, such as `machines.enable_rescue`."""
        return self.user is None or self.user.has_perm(permission)  # type: ignore[union-attr]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the changed values as the details of an audit entry; empty if nothing changed."""
    changed = [name for name in after if after[name] != before.get(name)]
    if not changed:
        return {}
    return {"before": {n: before.get(n) for n in changed}, "after": {n: after[n] for n in changed}}


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    """Adds entries and counts equal ones. It does not edit or delete entries, except in `prune`."""

    def record(self, action: str, *, rescue: Rescue | None = None, **fields: Any) -> AuditEntry:
        """Add one entry and queue the notifications about it. `fields` are those of `entry`."""
        entry = self.entry(action, rescue=rescue, **fields)
        entry.save(force_insert=True)
        audit_recorded.send(AuditEntry, entry=entry, rescue=rescue)
        return entry

    def newest(self) -> int:
        """Return the primary key of the newest entry; 0 if there is none."""
        return self.order_by("-pk").values_list("pk", flat=True).first() or 0

    def changed_since(self, number: int) -> bool:
        """Whether anything was changed since the entry `number`. Requests of machines do not count as changes."""
        return self.filter(pk__gt=number).exclude(action__in=ANSWERS).exists()

    def record_answer(
        self, action: str, *, machine: Machine, at: datetime, rescue: Rescue | None = None, **fields: Any
    ) -> None:
        """Record an answer to a machine. Equal answers within a minute share an entry; a daily limit applies.

        Only a new entry causes notifications. Call it in a transaction that locks the machine's row. Otherwise equal
        answers at the same moment would each add an entry.
        """
        self.record_answers([(self.entry(action, machine=machine, rescue=rescue, at=at, **fields), rescue)], at)

    def record_answers(self, answers: Sequence[tuple[AuditEntry, Rescue | None]], at: datetime) -> None:
        """Do what `record_answer` does for the entries of many machines, in a constant number of SQL statements."""
        if not answers:
            return
        recent = self.filter(machine_pk__in={entry.machine_pk for entry, _ in answers}, at__gt=at - REPEAT)
        latest = {tuple(values): pk for pk, *values in recent.order_by("at", "pk").values_list("pk", *_SHARED)}
        repeated: Counter[int] = Counter()
        fresh: dict[tuple[Any, ...], tuple[AuditEntry, Rescue | None]] = {}
        for entry, rescue in answers:
            key = _shared_values(entry)
            if earlier := latest.get(key):
                repeated[earlier] += 1
            elif key in fresh:
                fresh[key][0].count += 1
                fresh[key][0].repeated_at = at
            else:
                fresh[key] = entry, rescue
        for number in set(repeated.values()):
            self._count(self.filter(pk__in=[pk for pk, times in repeated.items() if times == number]), at, number)
        full = self._full({entry.machine_pk for entry, _ in fresh.values()}, at) if fresh else set()
        stored = [
            (entry, rescue)
            for entry, rescue in fresh.values()
            if (entry.machine_pk, entry.action, entry.outcome) not in full or not self._count_today(entry)
        ]
        self.bulk_create([entry for entry, _ in stored])
        for entry, rescue in stored:
            audit_recorded.send(AuditEntry, entry=entry, rescue=rescue)

    def record_unknown(self, action: str, *, at: datetime, count: int = 1, **fields: Any) -> None:
        """Record answers to unknown clients: one entry for each reason and minute, for all clients together."""
        key = f"{fields['reason']} {at:%Y-%m-%dT%H:%M}"
        if self._count(self.filter(shared_key=key), at, count):
            return
        try:
            with transaction.atomic():
                self.entry(action, at=at, shared_key=key, count=count, **fields).save(force_insert=True)
        except IntegrityError:
            # Another process added this minute's entry between our two statements.
            self._count(self.filter(shared_key=key), at, count)

    def prune(self, before: datetime, actor: Actor) -> int:
        """Delete the entries before a time and record that in one entry. Return the number of deleted entries.

        It uses several short transactions, so that boot answers need not wait. Each updates the entry.
        """
        removed, summary = 0, None
        for portion in portions(self.filter(at__lt=before)):
            with transaction.atomic():
                removed += models.QuerySet.delete(self.filter(pk__in=portion))[0]
                details = {"before": before.isoformat(), "entries": removed}
                summary = summary or self.record("audit_pruned", actor=actor, details=details)
                models.QuerySet.update(self.filter(pk=summary.pk), details=details)
        return removed

    def delete(self) -> Never:
        raise AuditIsAppendOnlyError

    def update(self, **kwargs: Any) -> Never:
        raise AuditIsAppendOnlyError

    def entry(
        self,
        action: str,
        *,
        actor: Actor | None = None,
        machine: Machine | None = None,
        rescue: Rescue | None = None,
        at: datetime | None = None,
        **fields: Any,
    ) -> AuditEntry:
        """Return an entry that is not stored yet. `fields` are further columns."""
        actor = actor or Actor()
        fields.setdefault("source", actor.source)
        if machine:
            fields |= {"machine_pk": machine.pk, "machine": machine.name}
        return AuditEntry(
            action=action,
            actor=actor.name,
            rescue_pk=rescue.pk if rescue else None,
            at=at or timezone.now(),
            **fields,
        )

    def _full(self, machines: Collection[int | None], at: datetime) -> set[tuple[Any, ...]]:
        """Return (machine, action, outcome) where the entries of the last day have reached the daily limit."""
        today = self.filter(machine_pk__in=machines, at__gt=at - timedelta(days=1)).order_by()
        numbers = today.values_list("machine_pk", "action", "outcome").annotate(number=Count("pk"))
        return {tuple(kind) for *kind, number in numbers.filter(number__gte=DAILY_ENTRIES)}

    def _count_today(self, entry: AuditEntry) -> bool:
        """Count `entry` in the latest equal entry of the last day, from any source. Return False if there is none."""
        shared = {name: getattr(entry, name) for name in _SHARED if name != "source"}
        latest = self.filter(**shared, at__gt=entry.at - timedelta(days=1)).order_by("-at").values("pk")[:1]
        return self._count(self.filter(pk=models.Subquery(latest)), entry.at, entry.count)

    def _count(self, entries: models.QuerySet[AuditEntry], at: datetime, by: int = 1) -> bool:
        return models.QuerySet.update(entries, count=F("count") + by, repeated_at=at) > 0


#: The columns that are equal in answers that share an entry.
_SHARED = ("machine_pk", "rescue_pk", "action", "reason", "subject", "source")
_shared_values = attrgetter(*_SHARED)


class AuditIsAppendOnlyError(TypeError):
    """Code tried to change or delete an audit entry."""

    def __init__(self) -> None:
        super().__init__("Audit entries cannot be changed or deleted. Use manage.py prune_audit to remove old ones.")


class AuditEntry(models.Model):
    """One entry of the audit log. Names are stored as text, because the objects may be deleted later."""

    at = models.DateTimeField(default=timezone.now)
    repeated_at = models.DateTimeField(null=True, blank=True)
    count = models.PositiveIntegerField(default=1)
    actor = models.CharField(max_length=150, blank=True)
    source = models.GenericIPAddressField(null=True, blank=True)
    machine_pk = models.BigIntegerField(null=True, blank=True)
    machine = models.CharField(max_length=63, blank=True)
    mac = models.CharField("MAC", max_length=17, blank=True)
    rescue_pk = models.BigIntegerField(null=True, blank=True)
    action = models.CharField(max_length=40)
    outcome = models.CharField(max_length=10, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    #: The name of the object, such as an image, a key or a file.
    subject = models.CharField(max_length=150, blank=True)
    details: models.JSONField[Mapping[str, Any], Mapping[str, Any]] = models.JSONField(default=dict, blank=True)
    #: The key of an entry that unknown clients share.
    shared_key = models.CharField(max_length=60, null=True, unique=True, editable=False)  # noqa: DJ001 - unique

    objects = AuditQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        ordering = ("-at", "-pk")
        verbose_name_plural = "audit log"
        indexes = [
            models.Index(fields=["-at"], name="audit_newest_first"),
            models.Index(fields=["machine_pk", "action", "-at"], name="audit_machine_action"),
            models.Index(fields=["machine_pk", "-at"], name="audit_machine_timeline"),
            models.Index(fields=["action", "-at"], name="audit_action"),
            models.Index(fields=["mac", "-at"], name="audit_mac"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.action} {self.machine or self.mac}".rstrip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AuditIsAppendOnlyError
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Never:
        raise AuditIsAppendOnlyError
