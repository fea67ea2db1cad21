"""Plan the import of a file and apply it, completely or not at all.

The number of statements does not depend on the number of rows: all machines are read once and written in batches.
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
from machines.models.machine import ENABLE_RESCUE, IDENTITY_IN_RESCUE, MachineLockedError
from machines.models.validation import messages_by_field

_BATCH = 500
#: Columns that are parts of an identity.
_IDENTITY = ("uuid", "serial")


@dataclass
class Change:
    """One machine before and after the import. `before` is None for a new machine."""

    row: Row
    machine: Machine
    before: dict[str, Any] | None
    after: dict[str, Any]

    @property
    def is_new(self) -> bool:
        return self.before is None

    @property
    def differing(self) -> list[str]:
        """The names of the fields that change."""
        return [name for name in self.after if self.before is None or self.after[name] != self.before[name]]

    @property
    def differences(self) -> list[dict[str, Any]]:
        """The changes as text for people."""
        before = self.before or {}
        return [
            {"name": name.replace("_", " "), "before": _as_text(before.get(name)), "after": _as_text(self.after[name])}
            for name in self.differing
        ]


@dataclass
class Plan:
    """The changes of an import."""

    added: list[Change] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    unchanged: int = 0
    #: Remarks about parts of the file that are not imported, and about values that verify nothing.
    remarks: Sequence[Problem] = ()

    @property
    def changes(self) -> list[Change]:
        """All changes in the order of the file."""
        return sorted([*self.added, *self.changed], key=lambda change: change.row.line)

    @property
    def done(self) -> str:
        """A message for people after the import."""
        machines = "1 machine" if len(self.added) == 1 else f"{len(self.added)} machines"
        return f"{machines} added, {len(self.changed)} changed, {self.unchanged} unchanged."

    def __str__(self) -> str:
        return f"{len(self.added)} to add, {len(self.changed)} to change, {self.unchanged} unchanged"


def plan(contents: Contents, *, may_switch: bool = True) -> Plan:
    """Compare a file with the stored machines. This changes nothing. Raises BulkError with all problems.

    Without `may_switch`, only the notes of a machine with an active rescue may change.
    """
    return _Planner(contents, may_switch).plan()


def apply(contents: Contents, actor: Actor) -> Plan:
    """Import a file, with an audit entry for each machine. Raises BulkError; then nothing was changed.

    On SQLite, a transaction blocks boot answers. So the plan is made before the transaction, and made again only if
    something was changed since.
    """
    seen = AuditEntry.objects.newest()
    early = _prepared(contents, actor) if connection.vendor == "sqlite" else None
    try:
        with transaction.atomic():
            if early is None or AuditEntry.objects.changed_since(seen):
                _lock_machines(contents)
                early = _prepared(contents, actor)
            planned, statements = early
            statements.run()
    except IntegrityError as error:
        raise BulkError([Problem(1, "Somebody else has changed these machines meanwhile. Try again.")]) from error
    return planned


def _prepared(contents: Contents, actor: Actor) -> tuple[Plan, Statements]:
    planned = plan(contents, may_switch=actor.may(ENABLE_RESCUE))
    return planned, _statements(planned, actor)


def _lock_machines(contents: Contents) -> None:
    """Lock the machines in the file until this transaction ends."""
    names = [row.values.get("name", "").lower() for row in contents.rows]
    for start in range(0, len(names), _BATCH):
        part = Machine.objects.named_exactly(names[start : start + _BATCH])
        list(part.select_for_update(no_key=True, of=("self",)).order_by("pk").values_list("pk"))


def _lines(text: str) -> list[str]:
    """Return the lines of a text for comparison: browsers and spreadsheets write different line breaks."""
    return text.strip().splitlines()


def _as_text(value: Any) -> str:
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
                self._wrong(row, f"“{name}” is already in line {first}.")
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
            values = smbios.distinctive(change.after["identity"]) if "identity" in change.differing else ()
            if any(held.get(value, change.machine.pk) != change.machine.pk for value in values):
                self._wrong(change.row, IDENTITY_IN_RESCUE)
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
        """Return the identity after the import. A value that is equal to the stored one keeps its stored form."""
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
            for field_, texts in messages_by_field(error).items():
                self._wrong(row, *(f"{field_}: {text}" for text in texts))

    def _check_macs(self, changes: list[Change]) -> None:
        """Check that each MAC address belongs to one machine after the import."""
        moving = {change.machine.pk for change in changes if change.before}
        taken: dict[str, Change] = {}
        for change in changes:
            for mac in change.after["macs"]:
                owner = self.owners.get(mac)
                if mac in taken and taken[mac] is not change:
                    self._wrong(change.row, f"{mac} is already in line {taken[mac].row.line}.")
                elif owner and owner.pk not in moving:
                    self._wrong(change.row, f"{mac} already belongs to {owner.name}.")
                taken.setdefault(mac, change)

    def _weak_values(self, changes: list[Change]) -> Iterator[Problem]:
        """Yield remarks about changed identity values that do not identify one machine."""
        identities = {machine.pk: machine.identity for machine in self.there.values()}
        identities |= {change.machine.pk or -change.row.line: change.after["identity"] for change in changes}
        owners = Counter(value for identity in identities.values() for value in smbios.distinctive(identity))
        for change in changes:
            for name, text in change.after["identity"].items() if "identity" in change.differing else ():
                if smbios.is_placeholder(name, text):
                    yield Problem(change.row.line, f"{name} “{text}” is a placeholder. It verifies nothing.")
                elif owners[name, smbios.comparable(name, text)] > 1:
                    text = f"{name} “{text}” also belongs to another machine. It verifies neither machine."
                    yield Problem(change.row.line, text)

    def _wrong(self, row: Row, *texts: str) -> None:
        self.problems += [Problem(row.line, text) for text in texts]


def _machines() -> Iterator[Machine]:
    yield from Machine.objects.select_related("image").prefetch_related("macs", "allowed_networks")


def _statements(planned: Plan, actor: Actor) -> Statements:
    """Compute all statements, before the database is locked."""
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
    """Delete and insert MAC addresses or networks. Deletes come first, because another machine may get an address."""
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
