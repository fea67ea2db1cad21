"""What taking over a file would do, and doing it: all of it, or nothing.

Few statements, whatever the number of rows: everything there is is read once, and written in batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from machines import machine_fields, smbios
from machines.addresses import AddressError, normalise_mac, normalise_network
from machines.import_export.rows import BulkError, Contents, Problem, Row
from machines.import_export.statements import Statements, next_numbers
from machines.machine_fields import ALWAYS_EDITABLE, NETWORK_FIELDS, TEXTS
from machines.models import Actor, AllowedNetwork, AuditEntry, MACAddress, Machine, Rescue, RescueImage, Sighting
from machines.models.audit import differences
from machines.models.identity import check_identity
from machines.models.machine import ENABLE_RESCUE, MachineLockedError

_BATCH = 500
#: Columns that are parts of an identity.
_IDENTITY = ("uuid", "serial")


@dataclass
class Change:
    """One machine as it is, if it is there, and as it shall be."""

    row: Row
    machine: Machine
    before: dict[str, Any] | None
    after: dict[str, Any]

    @property
    def is_new(self) -> bool:
        return self.before is None

    @property
    def differing(self) -> list[str]:
        """The names of what changes."""
        return [name for name in self.after if self.before is None or self.after[name] != self.before[name]]

    @property
    def differences(self) -> list[dict[str, Any]]:
        """For people: what changes, from what to what."""
        before = self.before or {}
        return [
            {"name": name.replace("_", " "), "before": _told(before.get(name)), "after": _told(self.after[name])}
            for name in self.differing
        ]


@dataclass
class Plan:
    """What would be done."""

    added: list[Change] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    unchanged: int = 0
    #: What of the file was not taken, or is not worth what it seems to be.
    remarks: Sequence[Problem] = ()

    @property
    def changes(self) -> list[Change]:
        """What would be done, in the file's order."""
        return sorted([*self.added, *self.changed], key=lambda change: change.row.line)

    @property
    def done(self) -> str:
        """For people, once it is done."""
        machines = "1 machine" if len(self.added) == 1 else f"{len(self.added)} machines"
        return f"{machines} added, {len(self.changed)} changed, {self.unchanged} as before."

    def __str__(self) -> str:
        return f"{len(self.added)} to add, {len(self.changed)} to change, {self.unchanged} as they are"


def plan(contents: Contents, *, may_switch: bool = True) -> Plan:
    """Compare a file with what there is; changes nothing. Raises BulkError with all that is wrong.

    Whoever may not switch rescue may change nothing but notes of a machine whose rescue is active.
    """
    return _Planner(contents, may_switch).plan()


def apply(contents: Contents, actor: Actor) -> Plan:
    """Do what `plan` tells, with an audit entry for each machine. Raises BulkError; then nothing was changed.

    SQLite has one writer, and machines that boot wait for it: there the plan is made before, and made again only where
    somebody has changed something since.
    """
    seen = AuditEntry.objects.newest()
    early = _prepared(contents, actor) if connection.vendor == "sqlite" else None
    try:
        with transaction.atomic():
            if early is None or AuditEntry.objects.changed_since(seen):
                _hold(contents)
                early = _prepared(contents, actor)
            planned, statements = early
            statements.run()
    except IntegrityError as error:
        raise BulkError([Problem(1, "Somebody else changed these machines meanwhile. Try again.")]) from error
    return planned


def _prepared(contents: Contents, actor: Actor) -> tuple[Plan, Statements]:
    planned = plan(contents, may_switch=actor.may(ENABLE_RESCUE))
    return planned, _statements(planned, actor)


def _hold(contents: Contents) -> None:
    """Let nobody else change the machines that the file names until this transaction ends."""
    names = [row.values.get("name", "").lower() for row in contents.rows]
    for start in range(0, len(names), _BATCH):
        part = Machine.objects.named_exactly(names[start : start + _BATCH])
        list(part.select_for_update(no_key=True, of=("self",)).order_by("pk").values_list("pk"))


def _lines(text: str) -> list[str]:
    """A text as it is compared: browsers and spreadsheets write line breaks in their own way."""
    return text.strip().splitlines()


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return ", ".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else str(value or "")


class _Planner:
    def __init__(self, contents: Contents, may_switch: bool) -> None:
        self.contents = contents
        self.locked = set() if may_switch else set(Rescue.objects.active().values_list("machine", flat=True))
        self.problems: list[Problem] = []
        self.there = {machine.name.lower(): machine for machine in _machines()}
        self.images = {image.name: image for image in RescueImage.objects.all()}
        self.owners = {mac.address: machine for machine in self.there.values() for mac in machine.macs.all()}

    def plan(self) -> Plan:
        seen: dict[str, int] = {}
        changes = []
        for row in self.contents.rows:
            name = row.values.get("name", "")
            if first := seen.get(name.lower()):
                self._wrong(row, f"“{name}” is in line {first} already.")
                continue
            seen[name.lower()] = row.line
            changes.append(self._change(row, name))
        self._check_macs(changes)
        held = {
            value: machine.pk
            for machine in self.there.values()
            if machine.pk in self.locked
            for value in smbios.distinctive(machine.identity)
        }
        for change in changes:
            told = smbios.distinctive(change.after["identity"]) if "identity" in change.differing else ()
            if any(held.get(value, change.machine.pk) != change.machine.pk for value in told):
                self._wrong(change.row, "A machine whose rescue is active is told from others by this.")
            if change.machine.pk in self.locked and {*change.differing} - ALWAYS_EDITABLE:
                self._wrong(change.row, str(MachineLockedError(change.machine.name)))
        if self.problems:
            raise BulkError(self.problems)
        remarks = [*self.contents.remarks, *self._weak_values(changes)]
        planned = Plan(remarks=sorted(remarks, key=lambda remark: remark.line))
        for change in changes:
            if change.is_new:
                planned.added.append(change)
            elif change.differing:
                planned.changed.append(change)
            else:
                planned.unchanged += 1
        return planned

    def _change(self, row: Row, name: str) -> Change:
        machine = self.there.get(name.lower())
        before = machine.snapshot() if machine else None
        after = dict(before or machine_fields.empty())
        after["name"] = name
        after |= self._addresses(row, "macs", "macs", normalise_mac)
        after |= self._addresses(row, "networks", "allowed_networks", normalise_network)
        for text in TEXTS:
            if _lines(row.values.get(text, after[text])) != _lines(after[text]):
                after[text] = row.values[text]
        if "image" in row.values:
            after["image"] = row.values["image"] or None
            if after["image"] and after["image"] not in self.images:
                self._wrong(row, f"There is no image “{after['image']}”.")
        after["identity"] = self._identity(row, after["identity"])
        self._check(row, Machine(name=name, **{text: after[text] for text in TEXTS}))
        return Change(row, machine or Machine(), before, after)

    def _identity(self, row: Row, stored: dict[str, str]) -> dict[str, str]:
        """The identity once the row is taken; a value that means the stored one stays as it is stored."""
        identity = dict(stored)
        for column in _IDENTITY:
            value = row.values.get(column, "")
            if column in row.values and not value:
                identity.pop(column, None)
            elif value and smbios.comparable(column, value) != smbios.comparable(column, stored.get(column, "")):
                try:
                    check_identity({column: value})
                    identity[column] = smbios.normalise(column, value)
                except ValidationError as error:
                    self._wrong(row, *error.messages)
        return identity

    def _addresses(self, row: Row, column: str, name: str, normalise: Any) -> dict[str, list[str]]:
        texts = row.several(column)
        if texts is None:
            return {}
        found: list[str] = []
        for text in texts:
            try:
                address = normalise(text)
            except AddressError as error:
                self._wrong(row, str(error))
                continue
            if address in found:
                self._wrong(row, f"{address} is listed twice.")
            found.append(address)
        return {name: found}

    def _check(self, row: Row, machine: Machine) -> None:
        try:
            machine.clean_fields(exclude=["image", "identity", *NETWORK_FIELDS])
        except ValidationError as error:
            texts = error.message_dict.items() if hasattr(error, "error_dict") else [("", error.messages)]
            for field_, messages in texts:
                for text in messages:
                    self._wrong(row, f"{field_}: {text}" if field_ else text)

    def _check_macs(self, changes: list[Change]) -> None:
        """Each MAC address is one machine's, once all is done."""
        moving = {change.machine.pk for change in changes if change.before}
        taken: dict[str, Change] = {}
        for change in changes:
            for mac in change.after["macs"]:
                owner = self.owners.get(mac)
                if mac in taken and taken[mac] is not change:
                    self._wrong(change.row, f"{mac} is in line {taken[mac].row.line} already.")
                elif owner and owner.pk not in moving:
                    self._wrong(change.row, f"{mac} belongs to {owner.name} already.")
                taken.setdefault(mac, change)

    def _weak_values(self, changes: list[Change]) -> Iterator[Problem]:
        """What of the identities that would change tells no machine from another."""
        identities = {machine.pk: machine.identity for machine in self.there.values()}
        identities |= {change.machine.pk or -change.row.line: change.after["identity"] for change in changes}
        owners = Counter(value for identity in identities.values() for value in smbios.distinctive(identity))
        for change in changes:
            for name, text in change.after["identity"].items() if "identity" in change.differing else ():
                if smbios.is_placeholder(name, text):
                    yield Problem(change.row.line, f"{name} “{text}” is a placeholder: it verifies nothing.")
                elif owners[name, smbios.comparable(name, text)] > 1:
                    yield Problem(change.row.line, f"{name} “{text}” is another machine's too: it verifies neither.")

    def _wrong(self, row: Row, *texts: str) -> None:
        self.problems += [Problem(row.line, text) for text in texts]


def _machines() -> Iterator[Machine]:
    yield from Machine.objects.select_related("image").prefetch_related("macs", "allowed_networks")


def _statements(planned: Plan, actor: Actor) -> Statements:
    """All that is to be written, worked out before the database is held for it."""
    images = {image.name: image for image in RescueImage.objects.all()}
    changes = [*planned.added, *planned.changed]
    for change in changes:
        for name in ("name", "identity", *TEXTS):
            setattr(change.machine, name, change.after[name])
        change.machine.image = images.get(change.after["image"] or "")
    for change, number in zip(planned.added, next_numbers(Machine, len(planned.added)), strict=True):
        change.machine.pk = number
    statements = Statements()
    statements.insert([change.machine for change in planned.added])
    statements.update([change.machine for change in planned.changed], ["name", "image", "identity", *TEXTS])
    _parts(statements, planned, MACAddress, "address", "macs")
    _parts(statements, planned, AllowedNetwork, "network", "allowed_networks")
    statements.delete(Sighting, "mac", [mac for change in changes for mac in change.after["macs"]])
    entries = [
        AuditEntry.objects.entry(
            "machine_added" if change.is_new else "machine_changed",
            actor=actor,
            machine=change.machine,
            subject=change.machine.name,
            reason="imported",
            details=change.after if change.before is None else differences(change.before, change.after),
        )
        for change in changes
    ]
    statements.insert(entries)
    return statements


def _parts(statements: Statements, planned: Plan, model: Any, column: str, name: str) -> None:
    """MAC addresses or networks: those that go first, as another machine may take them."""
    gone = [
        part.pk
        for change in planned.changed
        for part in (change.machine.macs if model is MACAddress else change.machine.allowed_networks).all()
        if getattr(part, column) not in change.after[name]
    ]
    statements.delete(model, "id", gone)
    statements.insert(
        model(machine=change.machine, **{column: value})
        for change in (*planned.added, *planned.changed)
        for value in change.after[name]
        if change.before is None or value not in change.before[name]
    )
