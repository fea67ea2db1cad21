"""The way of a boot request: what is known of the machine, the decision, the script, the record of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from django.conf import settings
from django.db import Error, transaction
from django.utils import timezone

from machines.boot import script
from machines.boot.deadline import Deadline, DeadlineExceededError, run_by
from machines.boot.decide import MachineFacts, decide
from machines.boot.reasons import Outcome, Reason
from machines.boot.recorder import Asked, Recorder
from machines.boot.request import BootRequest
from machines.boot.unknown_clients import UnknownClientLimiter
from machines.models import AuditEntry, LastContact, Machine, Rescue, Sighting
from machines.smbios import is_byte_swapped

logger = logging.getLogger(__name__)
limiter = UnknownClientLimiter()

LATE = "the database did not answer in time"


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


def handle(boot_request: BootRequest) -> Answer:
    """Decide, record and answer within the boot deadline. Never raises: whatever goes wrong, the disk is booted."""
    asked = Asked(boot_request, Deadline(settings.RESCUESITE_BOOT_DEADLINE))
    return _guarded(lambda: _recorded(asked))


def unrecorded_answer(boot_request: BootRequest) -> Answer:
    """What `handle` would say, with the real token, changing nothing (HEAD). Never raises."""
    deadline = Deadline(settings.RESCUESITE_BOOT_DEADLINE)
    return _guarded(lambda: run_by(deadline, lambda: _looked_up(boot_request)))


def preview(boot_request: BootRequest) -> Answer:
    """What `handle` would say, for people: no token, and nothing changes. Raises DatabaseError."""
    return _looked_up(boot_request, token=script.SHOWN_TOKEN)


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
    limiter.restore(reason, 1)
    return Answer(reason, script.pass_through(reason))


def _looked_up(boot_request: BootRequest, token: str | None = None) -> Answer:
    found = Machine.objects.asking_as([boot_request.mac] if boot_request.mac else [])
    return _decide(boot_request, found.get(boot_request.mac or ""), timezone.now(), token)


def _decide(boot_request: BootRequest, machine: Machine | None, now: datetime, token: str | None = None) -> Answer:
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


def _recorded(asked: Asked) -> Answer:
    """The answer, once it is recorded. Raises why it cannot be given."""
    recorder.run(asked)
    answer, error = asked.answer, asked.error
    if answer is None:
        raise error or DeadlineExceededError
    if error:
        if asked.count and asked.done.is_set():
            limiter.restore(answer.reason, asked.count)
        if answer.outcome is Outcome.RESCUE or not isinstance(error, Error | DeadlineExceededError):
            raise error
        # A pass-through is right whether or not it can be written down.
        logger.error("answer %s to %s was not recorded: %s", answer.reason, asked.request.mac, str(error) or LATE)
    return answer


def _decide_all(asked: Sequence[Asked]) -> None:
    """Answer requests, with what is known now of all their machines."""
    now = timezone.now()
    machines = Machine.objects.asking_as({one.request.mac for one in asked if one.request.mac})
    for one in asked:
        try:
            answer = _decide(one.request, machines.get(one.request.mac or ""), now)
        except Exception as error:
            one.finish(error)
            continue
        one.answer = answer
        one.machine = answer.machine.pk if answer.machine else None
        one.version = answer.rescue.version if answer.rescue else None
        if answer.machine is None and one.count is None:
            one.count = limiter.acquire(answer.reason)
            if not one.count:
                one.finish()


def _record_all(asked: Sequence[Asked], there: set[int]) -> None:
    """Write down what was answered, of all machines together; `there` are those whose rows are held."""
    now = timezone.now()
    _record_known([one for one in asked if one.machine is not None], there, now)
    # In one order, as these rows are everybody's.
    unknown = [(one.answer.reason, one.count, one.request) for one in asked if one.count and one.answer]
    for reason, count, boot_request in sorted(unknown, key=itemgetter(0)):
        _record_unknown(boot_request, reason, count)
    for waiting in sorted(limiter.unwritten()):
        if count := limiter.flush(waiting):
            _record_unknown(None, Reason(waiting), count)


def _record_known(asked: Sequence[Asked], there: set[int], now: datetime) -> None:
    entries: list[tuple[AuditEntry, Rescue | None]] = []
    contacts: dict[int, BootRequest] = {}
    for one in asked:
        assert one.answer
        assert one.answer.machine
        machine, rescue = one.answer.machine, one.answer.rescue
        if rescue and rescue.version != one.version:
            # Another card of the machine has just changed it.
            one.answer = _decide(one.request, machine, now)
            rescue = one.answer.rescue
        if machine.pk not in there or not _change_rescue(one.answer, one.request, now):
            one.has_changed = True
            continue
        if machine.believes(one.request):
            contacts[machine.pk] = one.request
        entries.append((_entry(one.request, one.answer, machine, now), rescue))
    LastContact.record(contacts, now)
    AuditEntry.objects.record_answers(entries, now)


def _change_rescue(answer: Answer, boot_request: BootRequest, now: datetime) -> bool:
    """Do to the rescue what the answer means; False where somebody has changed it since it was read."""
    rescue = answer.rescue
    if rescue is None:
        return True
    if answer.outcome is Outcome.RESCUE:
        return rescue.serve(now, boot_request.source, boot_request.mac or "")
    if answer.reason is Reason.RESCUE_USED:
        return rescue.use_up(now)
    return answer.reason is not Reason.RESCUE_FAILED or rescue.fail(now)


def _entry(boot_request: BootRequest, answer: Answer, machine: Machine, now: datetime) -> AuditEntry:
    columns = _columns(boot_request, answer.reason)
    if is_byte_swapped(boot_request.value("uuid"), machine.identity.get("uuid", "")):
        columns["details"]["remark"] = _SWAPPED
    return AuditEntry.objects.entry("boot", machine=machine, rescue=answer.rescue, at=now, **columns)


_SWAPPED = (
    "The UUID is the expected one with the bytes of its first three parts swapped, as old firmware sends it. "
    "If this is the machine, expect the UUID that it sent."
)


def _record_unknown(boot_request: BootRequest | None, reason: Reason, count: int) -> None:
    """Count `count` answers for `reason`, of which `boot_request` is the latest, where it is known.

    What fails is counted by a later one: no machine's answer depends on it.
    """
    now = timezone.now()
    columns = _columns(boot_request, reason) if boot_request else {"reason": reason, "outcome": reason.outcome}
    try:
        with transaction.atomic():
            if boot_request and boot_request.mac:
                Sighting.objects.record(boot_request, now)
            AuditEntry.objects.record_unknown("boot", at=now, count=count, **columns)
    except Error as error:
        limiter.restore(reason, count)
        logger.error("%s answers were not counted: %s", reason, str(error) or LATE)


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


recorder = Recorder(_decide_all, _record_all)
