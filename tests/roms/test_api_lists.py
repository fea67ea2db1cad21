"""The ROMs' API: flash jobs, cards, stations, the ledger; what lists cost; errors and the description."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from pytest_django import DjangoAssertNumQueries
from rest_framework.serializers import BaseSerializer

from machines.models import AuditEntry, Machine, StoredFile
from rescuesite.api.errors import flat
from rescuesite.api.negotiation import MAX_JSON
from roms.api import serializers
from roms.models import Build, Card, FlashJob, FlashKind, InstalledROM, JobState, Station
from roms.toolchain.ipxe.script.spec import from_json
from tests.machines.support import body
from tests.roms.api_requests import ALICE, BUILDS, FLASHES, ORDER, ROM, build, built, ended, may, post
from tests.roms.conftest import SCRIPT, succeeded

__all__ = ["build", "built"]


LISTS = ("rom-builds", "flash-jobs", "cards", "stations", "installed-roms")


@pytest.fixture
def saved(card: Card, station: Station, data_dir: Path) -> FlashJob:
    """A flash job that has saved what was in a chip."""
    job = FlashJob(action=FlashKind.SAVE, card=card, station=station, slot="0000:03:00.0").submit(ALICE)
    ended(job, backup=StoredFile.objects.store([b"old contents"]), backup_sha256="ab" * 32)
    return job


# Flash jobs


@pytest.fixture
def flash_order(built: Build, station: Station, machine: Machine) -> dict[str, Any]:
    return {"build": built.pk, "station": "local", "slot": "", "machine": "web01", "confirm": "web01"}


def test_a_flash_is_ordered(admin_client: Client, flash_order: dict[str, Any]) -> None:
    response = post(admin_client, FLASHES, flash_order | {"slot": "03:00.0", "chip": "AT29C512"})
    job = FlashJob.objects.get()
    assert response.status_code == 201
    assert response.json() == serializers.FlashJobSerializer(job).data
    assert (job.card.slug, job.machine_name, job.slot, job.chip_name) == (
        "8086:1229",
        "web01",
        "0000:03:00.0",
        "AT29C512",
    )
    assert AuditEntry.objects.get(action="flash_requested").machine == "web01"


def test_a_card_of_the_cupboard_is_confirmed_by_the_stations_name(
    admin_client: Client, flash_order: dict[str, Any]
) -> None:
    response = post(admin_client, FLASHES, flash_order | {"machine": None, "confirm": "local"})
    assert (response.status_code, response.json()["machine"]) == (201, None)


def test_another_card_of_the_same_kind_may_be_named(
    admin_client: Client, flash_order: dict[str, Any], practice: Card
) -> None:
    assert post(admin_client, FLASHES, flash_order | {"card": "practice"}).json()["card"] == "practice"


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"confirm": "web02"}, "confirm", "Type the machine's name, web01"),
        ({"machine": None}, "confirm", "Type the station's name, local"),
        ({"confirm": None}, "confirm", ""),
        ({"build": 99}, "build", "does not exist"),
        ({"build": 10**30}, "build", "does not exist"),
        ({"build": None}, "build", "required"),
        ({"build": [1]}, "build", ""),
        ({"station": "mars"}, "station", "does not exist"),
        ({"machine": "web02"}, "machine", "does not exist"),
        ({"slot": "somewhere"}, "slot", ""),
        ({"card": "10ec:8139"}, "card", "cannot write"),
        ({"chip": "x" * 101}, "chip", "100"),
        ({"action": "erase"}, "action", "not a valid choice"),
        ({"action": "save"}, "build", "only"),
        ({"slott": ""}, "slott", "There is no such field"),
    ],
)
def test_what_is_wrong_with_a_flash_is_told_by_field(
    change: dict[str, Any], field: str, text: str, admin_client: Client, flash_order: dict[str, Any]
) -> None:
    Card.objects.create(slug="10ec:8139", pci_id="10ec:8139", name="Realtek")
    response = post(admin_client, FLASHES, flash_order | change)
    assert response.status_code == 400
    assert field in response.json()
    assert any(text in one for one in response.json()[field])
    assert not FlashJob.objects.exists()


@pytest.mark.parametrize("missing", ["build", "station", "confirm"])
def test_what_a_flash_lacks_is_told(missing: str, admin_client: Client, flash_order: dict[str, Any]) -> None:
    del flash_order[missing]
    response = post(admin_client, FLASHES, flash_order)
    assert (response.status_code, list(response.json())) == (400, [missing])


def test_what_has_no_rom_is_not_flashed(admin_client: Client, flash_order: dict[str, Any], build: Build) -> None:
    response = post(admin_client, FLASHES, flash_order | {"build": build.pk})
    assert (response.status_code, list(response.json())) == (400, ["build"])


def test_a_medium_for_all_cards_is_not_flashed(admin_client: Client, flash_order: dict[str, Any]) -> None:
    iso = Build.of(from_json(SCRIPT), target="iso").submit(ALICE)
    assert post(admin_client, FLASHES, flash_order | {"build": iso.pk}).status_code == 400


def test_what_is_in_a_chip_is_only_saved(admin_client: Client, card: Card, station: Station, data_dir: Path) -> None:
    order = {"action": "save", "card": "8086:1229", "station": "local", "confirm": "local"}
    response = post(admin_client, FLASHES, order)
    assert (response.status_code, response.json()["action"]) == (201, "save")


def test_saving_needs_a_card(admin_client: Client, station: Station) -> None:
    response = post(admin_client, FLASHES, {"action": "save", "station": "local", "confirm": "local"})
    assert (response.status_code, list(response.json())) == (400, ["card"])


def test_what_was_saved_is_restored_where_it_was(admin_client: Client, saved: FlashJob) -> None:
    response = post(admin_client, FLASHES, {"action": "restore", "restores": saved.pk, "confirm": "local"})
    shown = response.json()
    assert response.status_code == 201
    assert (shown["action"], shown["restores"], shown["slot"], shown["build"]) == (
        "restore",
        saved.pk,
        "0000:03:00.0",
        None,
    )


def test_what_was_not_saved_is_not_restored(admin_client: Client, saved: FlashJob) -> None:
    FlashJob.objects.update(backup=None)
    response = post(admin_client, FLASHES, {"action": "restore", "restores": saved.pk, "confirm": "local"})
    assert (response.status_code, list(response.json())) == (400, ["restores"])


def test_what_was_saved_is_downloaded(admin_client: Client, saved: FlashJob) -> None:
    response = admin_client.get(f"{FLASHES}{saved.pk}/backup/")
    assert body(response) == b"old contents"
    assert response["Content-Disposition"] == f'attachment; filename="chip-80861229-{saved.pk}.bin"'


def test_a_job_that_saved_nothing_has_no_backup(admin_client: Client, saved: FlashJob) -> None:
    FlashJob.objects.update(backup=None)
    assert admin_client.get(f"{FLASHES}{saved.pk}/backup/").status_code == 404


def test_a_flash_is_done_once_more_only_confirmed(admin_client: Client, saved: FlashJob) -> None:
    path = f"{FLASHES}{saved.pk}/retry/"
    assert [list(post(admin_client, path, data).json()) for data in ({}, {"confirm": "x"})] == [["confirm"]] * 2
    response = post(admin_client, path, {"confirm": "local"})
    assert (response.status_code, response.json()["slot"]) == (201, "0000:03:00.0")


def test_a_flash_of_a_machine_that_is_gone_is_not_done_once_more(
    admin_client: Client, flash_order: dict[str, Any], machine: Machine
) -> None:
    job = FlashJob.objects.get(pk=post(admin_client, FLASHES, flash_order).json()["id"])
    ended(job, JobState.FAILED, "No.")
    machine.delete()
    response = post(admin_client, f"{FLASHES}{job.pk}/retry/", {"confirm": "local"})
    assert response.status_code == 409
    assert "web01 is gone" in response.json()["detail"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("action=save", 1),
        ("action=flash", 0),
        ("station=local", 1),
        ("machine=web01", 0),
        ("build=1", 0),
        ("state=succeeded", 1),
        ("card=8086:1229", 1),
    ],
)
def test_flash_jobs_are_found_by(query: str, count: int, admin_client: Client, saved: FlashJob) -> None:
    assert admin_client.get(f"{FLASHES}?{query}").json()["count"] == count


# Cards, stations, the ledger


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["8086:1229", "practice", "10ec:8139"]),
        ("q=intel 100", ["8086:1229"]),
        ("q=10ec", ["10ec:8139"]),
        ("flashable=true", ["8086:1229", "practice"]),
        ("flashable=false", ["10ec:8139"]),
        ("q=nothing", []),
    ],
)
def test_cards_are_found_by(query: str, found: list[str], admin_client: Client, card: Card, practice: Card) -> None:
    Card.objects.create(slug="10ec:8139", pci_id="10ec:8139", name="Realtek")
    results = admin_client.get(f"/api/cards/?{query}").json()["results"]
    assert [one["key"] for one in results] == found
    assert [one["practice"] for one in results] == [key == "practice" for key in found]


def test_a_card_is_read_by_its_key(admin_client: Client, card: Card) -> None:
    assert admin_client.get("/api/cards/8086:1229/").json() == serializers.CardSerializer(card).data
    assert admin_client.get("/api/cards/8086:1228/").status_code == 404


def test_a_station_says_whether_it_has_a_worker(admin_client: Client, station: Station) -> None:
    assert admin_client.get("/api/stations/local/").json()["has_worker"] is False
    Station.objects.seen("local")
    assert admin_client.get("/api/stations/").json()["results"][0]["has_worker"] is True


def test_the_ledger_says_what_is_outdated(
    admin_client: Client, card: Card, built: Build, machine: Machine, add_machine: Callable[[int], Machine]
) -> None:
    now = timezone.now()
    Build.objects.filter(pk=built.pk).update(finished_at=now - timedelta(days=1))
    newer = succeeded(card, ROM + ROM)
    Build.objects.filter(pk=newer.pk).update(finished_at=now, script_sha256="0" * 64)
    InstalledROM.objects.create(machine=machine, card=card, build=built)
    InstalledROM.objects.create(machine=add_machine(1), card=card, build=newer)
    shown = {
        query: {
            one["machine"]: one["outdated"]
            for one in admin_client.get(f"/api/installed-roms/?{query}").json()["results"]
        }
        for query in ("", "outdated=true", "outdated=false", "machine=node1", f"build={built.pk}")
    }
    assert shown == {
        "": {"web01": True, "node1": False},
        "outdated=true": {"web01": True},
        "outdated=false": {"node1": False},
        "machine=node1": {"node1": False},
        f"build={built.pk}": {"web01": True},
    }


@pytest.mark.parametrize("path", ["/api/cards/", "/api/stations/", "/api/installed-roms/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_is_only_read_refuses_other_methods(path: str, method: str, admin_client: Client) -> None:
    response = admin_client.generic(method, path, "{}", content_type="application/json")
    assert (response.status_code, list(response.json())) == (405, ["detail"])


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_jobs_are_neither_changed_nor_deleted(method: str, admin_client: Client, build: Build) -> None:
    assert admin_client.generic(method, f"{BUILDS}{build.pk}/", "{}").status_code == 405


# What lists cost


def furnish(card: Card, station: Station, machines: list[Machine]) -> None:
    for machine in machines:
        build = succeeded(card, ROM)
        job = FlashJob(card=card, station=station, build=build, machine=machine).submit(ALICE)
        InstalledROM.objects.create(machine=machine, card=card, build=build, flash_job=job)
        Card.objects.create(slug=f"card-{machine.pk}", pci_id="8086:1000", name="A card")
        Station.objects.create(name=f"station-{machine.pk}")


@pytest.mark.parametrize("name", LISTS)
def test_a_list_costs_as_many_queries_for_many_rows(
    name: str,
    admin_client: Client,
    card: Card,
    station: Station,
    data_dir: Path,
    add_machine: Callable[[int], Machine],
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    furnish(card, station, [add_machine(0)])
    with CaptureQueriesContext(connection) as few:
        assert admin_client.get(f"/api/{name}/").json()["count"] < 3
    furnish(card, station, [add_machine(n) for n in range(1, 20)])
    with django_assert_num_queries(len(few)):
        assert len(admin_client.get(f"/api/{name}/").json()["results"]) >= 20


# Errors are JSON


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("{", 400),
        ("[]", 400),
        ('"x"', 400),
        ("NaN", 400),
        ('{"banner": NaN}', 400),
        ("\ud800".encode("utf-8", "surrogatepass"), 400),
        ('{"card": "\\ud800"}', 400),
        ('{"\\ud800": 1}', 400),
        ('{"card": "a\\u0000"}', 400),
        ("[" * 100_000, 400),
        ('{"script":' * 900 + "1" + "}" * 900, 400),
        ("1" * 10_000, 400),
        (" " * MAX_JSON + "{}", 413),
        ("", 400),
    ],
)
def test_a_body_that_is_no_order_is_answered_in_json(
    text: str | bytes, status: int, admin_client: Client, card: Card
) -> None:
    response = admin_client.post(BUILDS, text, content_type="application/json")
    assert response.status_code == status
    assert response["Content-Type"] == "application/json"
    assert all(isinstance(value, str if name == "detail" else list) for name, value in response.json().items())


def test_a_body_of_another_kind_is_answered_in_json(admin_client: Client, card: Card) -> None:
    response = admin_client.post(BUILDS, {"card": "8086:1229"})
    assert (response.status_code, list(response.json())) == (415, ["detail"])


@pytest.mark.parametrize("accept", ["text/html", "application/octet-stream", "image/png"])
def test_an_error_is_json_whatever_is_accepted(accept: str, admin_client: Client, card: Card) -> None:
    response = admin_client.get(f"{BUILDS}99/", headers={"accept": accept})
    assert (response.status_code, response["Content-Type"]) == (404, "application/json")


@pytest.mark.parametrize("path", ["/api/nothing/", "/api/rom-builds/x/", "/api/rom-builds/1/nothing/", "/api//"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_that_names_nothing_is_answered_in_json(path: str, method: str, client: Client) -> None:
    response = client.generic(method, path)
    assert (response.status_code, response["Content-Type"]) == (404, "application/json")


def test_a_missing_slash_is_told_and_not_redirected(admin_client: Client, card: Card) -> None:
    response = post(admin_client, "/api/rom-builds", ORDER)
    assert response.status_code == 404
    assert "Add the slash at the end: /api/rom-builds/" in response.json()["detail"]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("s3cret"), 500), (OperationalError("s3cret"), 503)])
def test_a_fault_of_ours_tells_nothing_of_the_inside(
    error: Exception, status: int, admin_client: Client, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(Build, "submit", fail)
    admin_client.raise_request_exception = False
    response = post(admin_client, BUILDS, ORDER)
    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert "s3cret" not in response.content.decode()


def test_answers_are_kept_by_nobody(admin_client: Client, built: Build) -> None:
    for path in ("", "rom/", "log/"):
        response = admin_client.get(f"{BUILDS}{built.pk}/{path}")
        body(response)
        assert response["Cache-Control"] == "no-store"


def test_nested_errors_are_told_with_their_places() -> None:
    nested = {"a": {"b": ["x"], "non_field_errors": ["y"]}, "c": [{}, {"d": ["z"]}], "non_field_errors": ["v", "w"]}
    assert flat(nested) == {"a": ["b: x", "y"], "c": ["1.d: z"], "detail": "v w"}


# What describes it


def _schema() -> str:
    out = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    return out.getvalue()


def test_the_schema_is_openapi_3_1_and_valid() -> None:
    assert yaml.safe_load(_schema())["openapi"].startswith("3.1")


def test_the_schema_is_served(client: Client, db: None) -> None:
    response = may(client).get("/api/schema/", {"format": "json"})
    assert response.json()["info"]["title"] == "Rescue"


def test_the_pages_need_nothing_of_the_internet(client: Client, db: None) -> None:
    page = may(client).get("/api/docs/").content.decode()
    assert "swagger-ui-bundle.js" in page
    assert "//cdn" not in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_who_opens_the_pages_is_asked_to_log_in(client: Client) -> None:
    assert client.get("/api/docs/")["Location"].startswith("/admin/login/")


def test_the_root_names_all_lists(client: Client, db: None) -> None:
    names = may(client).get("/api/").json()
    assert set(LISTS) <= set(names)
    assert names["rom-builds"] == "http://testserver/api/rom-builds/"


def test_each_answer_is_as_the_schema_tells(
    built: Build, build: Build, saved: FlashJob, station: Station, admin_client: Client
) -> None:
    assert built.card
    facts = {
        "commands": ["make -j2 bin/80861229.rom"],
        "tool_versions": {"gcc": "gcc 12"},
        "isolation": "In namespaces.",
    }
    Build.objects.filter(pk=built.pk).update(**facts, ipxe_commit="ab" * 20)
    written = Build.of("#!ipxe\nprompt\nexit 1\n", card=built.card).submit(ALICE)
    FlashJob.objects.filter(pk=saved.pk).update(choices={"chips": ["A", "B"]}, machine_name="web01", wrote=False)
    InstalledROM.objects.create(card=built.card, build=built, by="alice")
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    for name in LISTS:
        page = schema["paths"][f"/api/{name}/"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        told = schema["components"]["schemas"][page["$ref"].rpartition("/")[2]]["properties"]["results"]["items"]
        results = admin_client.get(f"/api/{name}/").json()["results"]
        assert results
        for one in results:
            jsonschema.validate(one, {**told, "components": schema["components"]})
    assert admin_client.get(f"{BUILDS}{written.pk}/").json()["warnings"]
    assert admin_client.get(f"{BUILDS}{built.pk}/").json()["commands"] == facts["commands"]


def test_no_answer_of_ours_is_made_beside_its_description() -> None:
    """What a serializer declares is what it sends, as long as none sends something else."""
    ours = [one for one in vars(serializers).values() if isinstance(one, type) and issubclass(one, BaseSerializer)]
    assert ours
    assert not [one for one in ours if "to_representation" in vars(one)]
