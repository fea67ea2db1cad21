"""What vendors write into a machine is compared in one way, and what tells no machine from another verifies none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from machines import smbios
from machines.import_export.exporting import table
from machines.import_export.plan import apply, plan
from machines.import_export.reading import read
from machines.models import Actor, Machine, RescueImage, Sighting
from tests.conftest import MAC
from tests.machines.support import ask, boots, enable, kind

ALICE = Actor("alice")
UUID = "4c4c4544-0044-4810-8031-b4c04f4a4b31"
SWAPPED = "44454c4c-4400-1048-8031-b4c04f4a4b31"
OTHER_MAC = "52:54:00:00:00:01"


def add(name: str, identity: dict[str, str], mac: str = MAC) -> Machine:
    return Machine.objects.add(name, macs=[mac], allowed_networks=[], identity=identity, actor=ALICE)


# Values


@pytest.mark.parametrize(
    "written",
    [
        "{4C4C4544-0044-4810-8031-B4C04F4A4B31}",
        "4c4c45440044481080 31b4c04f4a4b31",
        "4C4C4544004448108031B4C04F4A4B31",
        f"urn:uuid:{UUID}",
        f"  {UUID} ",
    ],
)
def test_a_uuid_has_one_form(written: str) -> None:
    assert smbios.normalise("uuid", written) == UUID


@pytest.mark.parametrize("text", ["Not Settable", "4c4c4544", f"{UUID}0", "4c4c4544-0044-4810-8031-b4c04f4a4b3g"])
def test_what_no_machine_can_send_as_its_uuid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid UUID"):
        smbios.normalise("uuid", text)


@pytest.mark.parametrize(
    ("name", "sent", "expected", "same"),
    [
        ("serial", "CZJ1234567      ", "CZJ1234567", True),
        ("serial", "CZJ1234567", "CZJ1234567      ", True),
        ("serial", "czj1234567", "CZJ1234567", True),
        ("product", "PowerEdge   R620", "PowerEdge R620", True),
        ("product", "PowerEdge+R620", "PowerEdge R620", True),
        ("serial", "A+B", "A+B", True),
        ("serial", "CZJ12345678", "CZJ1234567", False),
        ("serial", "CZJ123456 7", "CZJ1234567", False),
        ("uuid", UUID.upper(), f"{{{UUID}}}", True),
        ("uuid", SWAPPED, UUID, False),
        ("gateway", "2001:db8:0::1", "2001:DB8::1", True),
        ("user_agent", "iPXE/1.21.1+ (g1)", "ipxe/1.21", True),
        ("user_agent", "curl/8", "iPXE", False),
    ],
)
def test_values_are_compared_as_vendors_mean_them(name: str, sent: str, expected: str, same: bool) -> None:
    assert smbios.matches(name, sent, expected) is same


@given(st.text(max_size=40), st.sampled_from(["serial", "uuid", "gateway", "user_agent"]))
def test_a_value_is_itself(text: str, name: str) -> None:
    assert smbios.matches(name, text, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("serial", "To Be Filled By O.E.M."),
        ("serial", "Default string"),
        ("serial", " System Serial Number "),
        ("serial", "0000000000"),
        ("serial", "xxxxxxxx"),
        ("serial", "........"),
        ("serial", "N/A"),
        ("asset", "No Asset Tag"),
        ("uuid", "00000000-0000-0000-0000-000000000000"),
        ("uuid", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
        ("uuid", "03000200-0400-0500-0006-000700080009"),
    ],
)
def test_a_placeholder_is_known(name: str, text: str) -> None:
    assert smbios.is_placeholder(name, text)


@pytest.mark.parametrize(("name", "text"), [("serial", "CZ1"), ("uuid", UUID), ("gateway", "0.0.0.0")])
def test_a_value_is_not_taken_for_a_placeholder(name: str, text: str) -> None:
    assert not smbios.is_placeholder(name, text)


# Machines


@pytest.mark.parametrize("padded", ["CZJ1234567      ", "CZJ1234567", "czj1234567 "])
def test_a_padded_serial_is_the_same_in_an_emergency(client: Client, image: RescueImage, padded: str) -> None:
    machine = add("hp1", {"serial": padded})
    enable(machine)
    asked = f"mac={MAC}&ip=127.0.0.1&serial=CZJ1234567%20%20%20%20%20%20"
    assert kind(ask(client, asked)) == "rescue"


def test_exporting_and_importing_a_padded_serial_changes_nothing(client: Client, image: RescueImage) -> None:
    machine = add("hp1", {"serial": "CZJ1234567"})
    Machine.objects.filter(pk=machine.pk).update(identity={"serial": "CZJ1234567      "})
    again = apply(read("".join(table(Machine.objects.for_lists())).encode()), ALICE)
    assert (again.unchanged, Machine.objects.get().identity) == (1, {"serial": "CZJ1234567      "})


def test_an_identity_is_stored_without_padding_and_shown_so(db: None) -> None:
    machine = add("hp1", {"serial": " CZJ  1234567 ", "uuid": f"{{{UUID.upper()}}}"})
    machine.refresh_from_db()
    assert machine.identity == {"serial": "CZJ 1234567", "uuid": UUID}


def test_an_impossible_uuid_is_refused_at_its_field(db: None) -> None:
    with pytest.raises(ValidationError, match="is not a valid UUID") as refused:
        add("u1", {"uuid": "Not Settable"})
    assert list(refused.value.message_dict) == ["identity"]


@pytest.mark.parametrize(
    "identity", [{"serial": "Default string"}, {"uuid": "0" * 32, "serial": "To Be Filled By O.E.M."}]
)
def test_placeholders_verify_nothing(db: None, identity: dict[str, str]) -> None:
    machine = add("u1", identity)
    assert machine.is_unverified
    assert list(Machine.objects.unverified()) == [machine]
    assert len(machine.identity_remarks()) == len(identity)


def test_a_value_that_another_machine_has_verifies_neither(db: None) -> None:
    first = add("u1", {"serial": "CZ1"})
    assert not first.is_unverified
    second = add("u2", {"serial": "cz1 "}, OTHER_MAC)
    assert (first.is_unverified, second.is_unverified) == (True, True)
    assert set(Machine.objects.unverified()) == {first, second}
    assert first.identity_remarks() == ["serial “CZ1” is also expected of u2. It verifies neither machine."]


def test_one_value_of_its_own_verifies_a_machine(db: None) -> None:
    add("u1", {"serial": "CZ1", "uuid": UUID})
    machine = add("u2", {"serial": "CZ1", "uuid": SWAPPED}, OTHER_MAC)
    assert not machine.is_unverified


def test_what_a_sighting_says_is_only_shown(db: None) -> None:
    Sighting.objects.create(mac=OTHER_MAC, said={"serial": "CZ1"})
    machine = add("u1", {"serial": "CZ1"})
    assert not machine.is_unverified
    assert machine.identity_remarks() == [
        f"{OTHER_MAC} also sent serial “CZ1”. This MAC address does not belong to a machine."
    ]


def test_lists_read_what_is_shared_once(db: None, django_assert_num_queries: object) -> None:
    for number in range(5):
        add(f"u{number}", {"serial": "CZ1"}, f"52:54:00:00:00:0{number}")
    with django_assert_num_queries(5):  # type: ignore[operator]
        assert all(machine.is_unverified for machine in Machine.objects.for_lists())


def test_a_byte_swapped_uuid_is_refused_and_recognised(client: Client, image: RescueImage) -> None:
    machine = add("old1", {"uuid": UUID})
    enable(machine)
    assert kind(ask(client, f"mac={MAC}&ip=127.0.0.1&uuid={SWAPPED}")) == "refused"
    assert "bytes of its first three parts swapped" in boots()[0].details["remark"]


def test_the_page_of_a_machine_tells_what_verifies_nothing(admin_client: Client) -> None:
    machine = add("u1", {"serial": "Default string"})
    page = admin_client.get(f"/admin/machines/machine/{machine.pk}/change/").content.decode()
    assert "serial “Default string” is a placeholder that many machines have. It verifies nothing." in page


# Import


def test_an_import_names_what_verifies_nothing(db: None) -> None:
    lines = [
        "name,macs,uuid",
        "u1,02:00:00:00:01:14,{4C4C4544-0044-4810-8031-B4C04F4A4B31}",
        f"u2,02:00:00:00:01:15,{UUID}",
        "u3,02:00:00:00:01:18,03000200-0400-0500-0006-000700080009",
    ]
    assert [str(remark) for remark in plan(read("\n".join(lines).encode())).remarks] == [
        f"line 2: uuid “{UUID}” also belongs to another machine. It verifies neither machine.",
        f"line 3: uuid “{UUID}” also belongs to another machine. It verifies neither machine.",
        "line 4: uuid “03000200-0400-0500-0006-000700080009” is a placeholder. It verifies nothing.",
    ]


def test_the_command_says_what_it_noticed(db: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table_file = tmp_path / "machines.csv"
    table_file.write_text("name,serial\nu1,Default string\n")
    call_command("import_machines", str(table_file), "--json")
    said = capsys.readouterr()
    assert json.loads(said.out)["remarks"] == [
        {"line": 2, "text": "serial “Default string” is a placeholder. It verifies nothing."}
    ]
