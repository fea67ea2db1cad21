"""Many machines at once: import from tables and from an old rescue.php, and export."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from machines.import_export import plan as planning
from machines.import_export.exporting import table
from machines.import_export.plan import Plan, apply, plan
from machines.import_export.reading import MAX_BYTES, read
from machines.import_export.rows import BulkError, Contents
from machines.models import Actor, AuditEntry, Machine, RescueImage, Sighting
from tests.conftest import MAC

ALICE = Actor("alice")
OTHER_MAC = "52:54:00:00:00:01"


def text(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def take(*lines: str) -> Any:
    return apply(read(text(*lines)), ALICE)


def wrong(contents: bytes) -> list[str]:
    """What is said of a file; nothing may have changed."""
    before = [machine.snapshot() for machine in Machine.objects.all()], AuditEntry.objects.count()
    with pytest.raises(BulkError) as raised:
        apply(read(contents), ALICE)
    assert ([machine.snapshot() for machine in Machine.objects.all()], AuditEntry.objects.count()) == before
    return [str(problem) for problem in raised.value.problems]


# Reading


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_tables_are_read_as_spreadsheets_write_them(delimiter: str, start: bytes) -> None:
    lines = ["Name {d} macs{d}notes", "web01{d}00-02-b3-9d-94-8c 52:54:00:00:00:01{d} rack 3 ", "", "db01{d}"]
    rows = read(start + "\r\n".join(lines).replace("{d}", delimiter).encode()).rows
    assert [(row.line, row.values) for row in rows] == [
        (2, {"name": "web01", "macs": "00-02-b3-9d-94-8c 52:54:00:00:00:01", "notes": "rack 3"}),
        (4, {"name": "db01", "macs": "", "notes": ""}),
    ]


def test_a_note_may_have_lines_and_the_next_row_keeps_its_number() -> None:
    rows = read(text("name,notes", 'web01,"one', 'two ""three"""', "db01,x")).rows
    assert [(row.line, row.values["notes"]) for row in rows] == [(2, 'one\ntwo "three"'), (4, "x")]


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"", "line 1: The first line must name the columns"),
        (b"macs\n", "line 1: The first line must name the columns. “name” is required."),
        (b"name,colour\n", "line 1: Unknown column “colour”"),
        (b"name,name\n", "line 1: The column “name” occurs twice."),
        (b"name\nweb01,x\n", "line 2: This row has 2 cells, but the table has 1 columns."),
        (b"name\n\xff\n", "line 2: This is not UTF-8"),
        (b"name\n\0\n", "line 2: There is a zero byte"),
        (b'name\n"web01\n', "This is not a valid table"),
        (b"x" * (MAX_BYTES + 1), "larger than 20 MB"),
        (b"<?php echo 1;", "has no line like: case"),
    ],
)
def test_what_is_no_table_is_said_with_its_line(contents: bytes, said: str, db: None) -> None:
    assert said in wrong(contents)[0]


# Taking over


def test_machines_are_added_with_all_that_the_table_says(image: RescueImage) -> None:
    Sighting.objects.create(mac=OTHER_MAC)
    done = take(
        "name,macs,networks,uuid,serial,image,notes",
        f"db01,{OTHER_MAC.upper()};000000000002,192.0.2.0/24 2001:db8::7,"
        "{4c4c4544-0044-4810-8031-B4C04F4A4B31},CZ1,tiny,rack 3",
    )
    machine = Machine.objects.get()
    assert (len(done.added), len(done.changed), done.unchanged) == (1, 0, 0)
    assert machine.snapshot() == {
        "name": "db01",
        "macs": [OTHER_MAC, "00:00:00:00:00:02"],
        "allowed_networks": ["192.0.2.0/24", "2001:db8::7"],
        "image": "tiny",
        "identity": {"uuid": "4c4c4544-0044-4810-8031-b4c04f4a4b31", "serial": "CZ1"},
        "rescue_network": {"addresses": [], "gateways": [], "dns": []},
        "notes": "rack 3",
    }
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.machine, entry.reason) == ("machine_added", "alice", "db01", "imported")
    assert entry.details == machine.snapshot()
    assert not Sighting.objects.exists()


def test_a_second_import_changes_nothing(machine: Machine, image: RescueImage) -> None:
    lines = ["name,macs,networks,serial,image", f"db01,{OTHER_MAC},192.0.2.1,CZ1,tiny", f"WEB01,{MAC},127.0.0.1,,"]
    lines[2] = lines[2].replace("WEB01", "web01")
    take(*lines)
    before = AuditEntry.objects.count()
    again = take(*lines)
    assert (again.added, again.changed, again.unchanged, AuditEntry.objects.count()) == ([], [], 2, before)


def test_a_missing_column_leaves_what_there_is_and_an_empty_cell_empties_it(machine: Machine) -> None:
    machine.revise({"notes": "old", "identity": {"serial": "CZ1", "product": "Server 9"}}, ALICE)
    take("name,serial,networks", "web01,,")
    changed = Machine.objects.get().snapshot()
    assert (changed["notes"], changed["macs"]) == ("old", [MAC])
    assert (changed["identity"], changed["allowed_networks"]) == ({"product": "Server 9"}, [])
    entry = AuditEntry.objects.latest("pk")
    assert entry.details["before"] == {
        "allowed_networks": ["127.0.0.1"],
        "identity": {"serial": "CZ1", "product": "Server 9"},
    }


def test_two_machines_may_change_their_cards(machine: Machine) -> None:
    Machine.objects.add("db01", macs=[OTHER_MAC], allowed_networks=[], actor=ALICE)
    take("name,macs", f"web01,{OTHER_MAC}", f"db01,{MAC}")
    assert {one.name: one.macs.get().address for one in Machine.objects.all()} == {"web01": OTHER_MAC, "db01": MAC}


def test_machines_that_are_not_in_the_file_are_left_alone(machine: Machine) -> None:
    take("name", "db01")
    assert Machine.objects.get(name="web01").snapshot()["macs"] == [MAC]


def test_all_that_is_wrong_is_said_at_once_by_line_and_nothing_is_changed(machine: Machine) -> None:
    said = wrong(
        text(
            "name,macs,networks,image,serial",
            f"db01,{MAC},,,",
            "a b,nonsense,192.0.2.1/24,,",
            f"db02,{OTHER_MAC} {OTHER_MAC},,none,",
            f"DB01,{OTHER_MAC},,,",
            f"db03,{OTHER_MAC},,,{'x' * 300}",
        )
    )
    for expected in (
        f"line 2: {MAC} already belongs to web01.",
        "line 3: name: ",
        "line 3: “nonsense” is not a valid MAC address",
        "line 3: “192.0.2.1/24” is an address inside a network",
        f"line 4: {OTHER_MAC} is listed twice.",
        "line 4: There is no image “none”.",
        "line 5: “DB01” is already in line 2.",
        f"line 6: {OTHER_MAC} is already in line 4.",
        "line 6: ",
    ):
        assert any(one.startswith(expected) for one in said), expected


def test_statements_grow_by_batches_not_by_rows(db: None) -> None:
    def statements(first: int, number: int) -> int:
        lines = [f"n{n},52:54:00:00:{n // 256:02x}:{n % 256:02x},192.0.2.1,CZ{n}" for n in range(first, first + number)]
        with CaptureQueriesContext(connection) as captured:
            take("name,macs,networks,serial", *lines)
        return len(captured)

    few, many = statements(0, 20), statements(1000, 2000)
    # SQLite takes so many values at once; Django makes batches of it.
    assert many - few < 2000 / 20


def test_what_somebody_else_does_meanwhile_makes_it_fail_as_a_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = plan(read(text("name,macs", f"db01,{OTHER_MAC}")))
    Machine.objects.add("db02", macs=[OTHER_MAC], allowed_networks=[], actor=ALICE)
    monkeypatch.setattr(planning, "plan", lambda contents, may_switch: known)
    assert "Somebody else has changed these machines meanwhile" in wrong(text("name,macs", f"db01,{OTHER_MAC}"))[0]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL holds the machines before it plans")
def test_what_somebody_changed_since_the_plan_was_made_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says what the machine says already, until somebody changes it: then the file changes it back."""
    asked: list[Plan] = []

    def planned(contents: Contents, may_switch: bool) -> Plan:
        made = plan(contents, may_switch=may_switch)
        if not asked:
            machine.revise({"notes": "changed meanwhile"}, ALICE)
        asked.append(made)
        return made

    monkeypatch.setattr(planning, "plan", planned)
    done = take("name,notes", "web01,")
    assert Machine.objects.get().notes == ""
    assert len(done.changed) == 1


# Export


def test_what_is_exported_changes_nothing_when_imported(machine: Machine, image: RescueImage) -> None:
    machine.revise({"image": image, "identity": {"serial": "CZ1"}, "notes": '=1+1, "x";\n- two'}, ALICE)
    lines = "".join(table(Machine.objects.for_lists()))
    assert "'=1+1" in lines
    again = apply(read(lines.encode()), ALICE)
    assert (again.added, again.changed, again.unchanged) == ([], [], 1)


def test_line_breaks_of_browsers_are_no_change(machine: Machine) -> None:
    machine.revise({"notes": "one\r\ntwo"}, ALICE)
    assert take("name,notes", 'web01,"one', 'two"').unchanged == 1


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
PRINTABLE = TEXTS.filter(lambda text: text.isprintable() and text.strip())


class TestRoundTrip(TestCase):
    @given(
        notes=TEXTS,
        identity=st.dictionaries(st.sampled_from(["serial", "asset"]), PRINTABLE, max_size=2),
        uuid=st.none() | st.uuids().map(str) | st.uuids().map(lambda uuid: f"{{{uuid}}}".upper()),
    )
    def test_whatever_is_stored_is_as_before(self, notes: str, identity: dict[str, str], uuid: str | None) -> None:
        if uuid:
            identity["uuid"] = uuid
        # As it may stand in the database since before values had one form.
        Machine.objects.create(name="web01", notes=notes, identity=identity)
        again = apply(read("".join(table(Machine.objects.for_lists())).encode()), ALICE)
        machine = Machine.objects.get()
        assert (again.unchanged, machine.notes, machine.identity) == (1, notes, identity)


# The commands


def manage(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, no_color=True)
    return out.getvalue()


def test_a_dry_run_tells_and_does_nothing(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "machines.csv"
    path.write_bytes(text("name,notes", "web01,new", "db01,"))
    assert manage("import_machines", str(path), "--dry-run").splitlines() == [
        "line 2: change notes of web01",
        "line 3: add db01",
        "1 to add, 1 to change, 0 unchanged. Nothing was changed, because this was a dry run.",
    ]
    assert Machine.objects.count() == 1
    assert manage("import_machines", str(path)) == "1 machine added, 1 changed, 0 unchanged.\n"
    assert json.loads(manage("import_machines", str(path), "--json")) == {
        "added": [],
        "changed": {},
        "unchanged": 2,
        "remarks": [],
    }


def test_errors_are_told_with_their_lines(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "machines.csv"
    path.write_bytes(text("name,macs", "a b,x"))
    with pytest.raises(CommandError, match=r"(?s)line 2: .*line 2: .*Nothing was changed. There are 2 problems."):
        manage("import_machines", str(path))


def test_a_file_that_is_not_there_is_named(db: None) -> None:
    with pytest.raises(CommandError, match="Cannot read /nonexistent: No such file"):
        manage("import_machines", "/nonexistent")


def test_exporting_to_a_file_and_to_the_terminal_is_the_same(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "machines.csv"
    manage("export_machines", str(path))
    assert path.read_text() == manage("export_machines")
    assert path.read_text().splitlines()[1] == f"web01,{MAC},127.0.0.1,,,,"
