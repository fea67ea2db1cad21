"""A machine's texts are named once, and every face has them."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import Client

from machines.import_export.exporting import table
from machines.machine_fields import TEXTS
from machines.models import AuditEntry, Machine
from tests.conftest import MAC

TEXT = "rack 7"
FORM = {
    "macs-TOTAL_FORMS": 0, "macs-INITIAL_FORMS": 0,
    "allowed_networks-TOTAL_FORMS": 0, "allowed_networks-INITIAL_FORMS": 0,
    "name": "web01", "identity": "{}",
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("face", ["form", "api", "command", "import"])
def test_every_face_takes_a_text_and_all_tell_it(admin_client: Client, tmp_path: Path, face: str, name: str) -> None:
    if face == "form":
        admin_client.post("/admin/machines/machine/add/", FORM | {name: TEXT})
    elif face == "api":
        admin_client.post("/api/machines/", {"name": "web01", name: TEXT}, "application/json")
    elif face == "command":
        call_command("machine", "add", "web01", "--mac", MAC, f"--{name}", TEXT, stdout=StringIO())
    else:
        (tmp_path / "table.csv").write_text(f"name,{name}\nweb01,{TEXT}\n")
        call_command("import_machines", str(tmp_path / "table.csv"), stdout=StringIO())
    assert getattr(Machine.objects.get(), name) == TEXT
    assert AuditEntry.objects.get(action="machine_added").details[name] == TEXT
    assert admin_client.get("/api/machines/web01/").json()[name] == TEXT
    page = admin_client.get(f"/admin/machines/machine/{Machine.objects.get().pk}/change/")
    assert f'name="{name}"' in page.content.decode()
    assert TEXT in "".join(table(Machine.objects.for_lists()))
    shown = StringIO()
    call_command("machine", "show", "web01", "--json", stdout=shown)
    assert json.loads(shown.getvalue())[name] == TEXT
    assert [machine.name for machine in Machine.objects.all().named(TEXT)] == ["web01"]
