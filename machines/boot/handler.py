"""The way of a boot request: what is known of the machine, the decision, the script, the record of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.db import DatabaseError, Error
from django.utils import timezone

from machines.boot import script
from machines.boot.deadline import Deadline, DeadlineExceededError, run_by
from machines.boot.decide import MachineFacts, decide
from machines.boot.reasons import Outcome, Reason
from machines.boot.recorder import UNKNOWN_CLIENTS, Prepared, recorder
from machines.boot.request import BootRequest
from machines.boot.unknown_clients import UnknownClientLimiter
from machines.models import AuditEntry, LastContact, Machine, Rescue, Sighting
from machines.smbios import is_byte_swapped

logger = logging.getLogger(__name__)
budget = UnknownClientLimiter()

LATE = "the database did not answer in time"

#: How often a decision is made anew because the rescue changed between reading and writing.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Answer:
    """What a NIC is told, and why."""

    reason: Reason
    script: str
    machine: Machine | None = None
    rescue: Rescue | None = None

    @property
    def outcome(self) -> Outcome:
        return self.reason.outcome


class ChangedMeanwhileError(Exception):
    """The rescue is no longer as it was when the decision was made."""


def handle(boot_request: BootRequest) -> Answer:
    """Decide, record and answer within the boot deadline. Never raises: whatever goes wrong, the disk is booted."""
    deadline = Deadline(settings.RESCUESITE_BOOT_DEADLINE)
    return _guarded(lambda: _decide_and_record(boot_request, deadline))


def unrecorded_answer(boot_request: BootRequest) -> Answer:
    """What `handle` would say, with the real token, changing nothing (HEAD). Never raises."""
    deadline = Deadline(settings.RESCUESITE_BOOT_DEADLINE)
    return _guarded(lambda: run_by(deadline, lambda: _decide(boot_request)))


def preview(boot_request: BootRequest) -> Answer:
    """What `handle` would say, for people: no token, and nothing changes. Raises DatabaseError."""
    return _decide(boot_request, token=script.SHOWN_TOKEN)


def _guarded(work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except (Error, DeadlineExceededError) as error:
        logger.error("boot request answered without the database: %s", str(error) or LATE)
        return _fault(Reason.DATABASE_ERROR)
    except Exception:
        logger.exception("boot request answered after an error of the site")
        return _fault(Reason.INTERNAL_ERROR)


def _fault(reason: Reason) -> Answer:
    # Counted here, written with a later answer: writing now may be what failed.
    budget.restore(reason, 1)
    return Answer(reason, script.pass_through(reason))


def _decide(boot_request: BootRequest, token: str | None = None) -> Answer:
    now = timezone.now()
    machine = Machine.objects.asking_as(boot_request.mac) if boot_request.mac else None
    rescue = machine.current_rescue() if machine else None
    facts: MachineFacts | None = machine.facts(rescue, now) if machine else None
    reason = decide(boot_request, facts)
    if reason.outcome is not Outcome.RESCUE:
        return Answer(reason, script.pass_through(reason), machine, rescue)
    assert rescue is not None
    assert boot_request.mac is not None
    try:
        plan = rescue.plan(boot_request.mac, site=boot_request.site or settings.RESCUESITE_BASE_URL, token=token)
        return Answer(reason, script.rescue(plan), machine, rescue)
    except script.UnsafeLineError as error:
        logger.error("rescue of %r cannot be served: its script %s", rescue.machine.name, error)
        return Answer(Reason.IMAGE_UNAVAILABLE, script.pass_through(Reason.IMAGE_UNAVAILABLE), machine, rescue)


def _decide_and_record(boot_request: BootRequest, deadline: Deadline) -> Answer:
    decided, error = recorder.run(lambda: _prepared(boot_request), deadline)
    if isinstance(error, ChangedMeanwhileError) and decided.machine:
        decided = _decide_in_turn(boot_request, decided.machine, deadline)
    elif error:
        if decided.outcome is Outcome.RESCUE or not isinstance(error, Error | DeadlineExceededError):
            raise error
        # A pass-through is right whether or not it can be written down.
        logger.error("answer %s to %s was not recorded: %s", decided.reason, boot_request.mac, str(error) or LATE)
    _record_unwritten(deadline)
    return decided


def _prepared(boot_request: BootRequest) -> Prepared[Answer]:
    """Decide, and say what is to be written down of it."""
    decided = _decide(boot_request)
    if machine := decided.machine:
        return Prepared(decided, partial(_record_known, boot_request, decided, machine), machine.pk)
    count = budget.acquire(decided.reason)
    return Prepared(decided, partial(_record_unknown, boot_request, decided.reason, count) if count else None)


def _decide_in_turn(boot_request: BootRequest, machine: Machine, deadline: Deadline) -> Answer:
    """Decide and record while holding the machine's row: of its cards that ask at once, one goes after the other."""
    decided: list[Answer] = []

    def work() -> None:
        if not machine.lock():
            raise ChangedMeanwhileError
        decided.append(_decide(boot_request))
        if (found := decided[-1].machine) is not None:
            _record_known(boot_request, decided[-1], found)

    for _ in range(_ATTEMPTS):
        try:
            recorder.commit(work, deadline, order=machine.pk)
        except ChangedMeanwhileError:
            # Staff do not hold the machine's row.
            continue
        return decided[-1]
    raise DatabaseError("the rescue changed each time it was read")


def _record_unwritten(deadline: Deadline) -> None:
    """Count what could not be written earlier; whoever asked now does not depend on it."""
    for waiting in budget.unwritten():
        try:
            if count := budget.flush(waiting):
                recorder.commit(partial(_record_unknown, None, Reason(waiting), count), deadline, order=UNKNOWN_CLIENTS)
        except (Error, DeadlineExceededError) as error:
            logger.error("%s answers were not counted: %s", waiting, str(error) or LATE)


def _record_known(boot_request: BootRequest, decided: Answer, machine: Machine) -> None:
    now = timezone.now()
    # Requests of one machine are written down one after the other, so that like answers find each other.
    if not machine.lock():
        raise ChangedMeanwhileError
    rescue = decided.rescue
    if decided.outcome is Outcome.RESCUE:
        assert rescue is not None
        assert boot_request.mac is not None
        if not rescue.serve(now, boot_request.source, boot_request.mac):
            raise ChangedMeanwhileError
    elif decided.reason is Reason.RESCUE_USED:
        assert rescue is not None
        if not rescue.use_up(now):
            raise ChangedMeanwhileError
    elif decided.reason is Reason.RESCUE_FAILED:
        assert rescue is not None
        if not rescue.fail(now):
            raise ChangedMeanwhileError
    if machine.believes(boot_request):
        LastContact.record(machine, boot_request, now)
    columns = _columns(boot_request, decided.reason)
    if is_byte_swapped(boot_request.value("uuid"), machine.identity.get("uuid", "")):
        columns["details"]["remark"] = _SWAPPED
    AuditEntry.objects.record_answer("boot", machine=machine, rescue=rescue, at=now, **columns)


_SWAPPED = (
    "The UUID is the expected one with the bytes of its first three parts swapped, as old firmware sends it. "
    "If this is the machine, expect the UUID that it sent."
)


def _record_unknown(boot_request: BootRequest | None, reason: Reason, count: int) -> None:
    """Count `count` answers for `reason`, of which `boot_request` is the latest, where it is known."""
    now = timezone.now()
    try:
        if boot_request and boot_request.mac:
            Sighting.objects.record(boot_request, now)
        columns = _columns(boot_request, reason) if boot_request else {"reason": reason, "outcome": reason.outcome}
        AuditEntry.objects.record_unknown("boot", at=now, count=count, **columns)
    except Error:
        budget.restore(reason, count)
        raise


def _columns(boot_request: BootRequest, reason: Reason) -> dict[str, Any]:
    details: dict[str, Any] = {
        "ip": str(boot_request.ip) if boot_request.ip else None,
        "user_agent": boot_request.user_agent,
    }
    if boot_request.mac is None:
        details["mac"] = boot_request.raw_mac
    details |= {name: dict(values) for name in ("params", "extra") if (values := getattr(boot_request, name))}
    return {
        "mac": boot_request.mac or "",
        "source": str(boot_request.source) if boot_request.source else None,
        "outcome": reason.outcome,
        "reason": reason,
        "details": details,
    }
