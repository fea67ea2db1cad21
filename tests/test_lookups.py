"""What lists may be asked for in their address: what they offer, nothing secret, and nothing that ends in a fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.test import Client, RequestFactory
from django.urls import reverse

from machines.admin.lookups import OfferedLookups
from machines.models import AuditEntry, Machine
from rescuesite.search import MAX_CHARACTERS, MAX_WORDS
from tests.machines.support import body
from tests.roms.conftest import card, data_dir, station
from tests.test_permissions import world

__all__ = ["card", "data_dir", "station", "world"]

#: A lookup's answer: found, corrected, refused, not there. Never a fault.
HARMLESS = {200, 302, 400, 404}
#: What breaks parsers, types, time zones and the integers of databases.
VALUES = [
    *("x", "", "\0", "99999999999999999999", "2026-03-01", "0001-01-01T00:00:00+14:00", "2026-13-99T00:00:00Z"),
    "a " * 600,
]
#: Django's own parameters of a list.
OWN = ("q", "p", "o", "all", "e", "_facets", "_popup", "_to_field", "_changelist_filters")

SITES = sorted(admin.site._registry.items(), key=lambda item: item[0]._meta.label)
_EACH_LIST = pytest.mark.parametrize("model", [model for model, _ in SITES], ids=lambda model: model._meta.label_lower)


def site_of(model: Any) -> OfferedLookups:
    found = admin.site._registry[model]
    assert isinstance(found, OfferedLookups)
    return found


def list_of(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def lookups_of(field: Any) -> Iterator[str]:
    """Every look-up and transform that a field has, and a transform's look-ups."""
    for name, lookup in field.get_lookups().items():
        yield name
        if issubclass(lookup, models.Transform) and hasattr(lookup, "get_lookups"):
            yield from (f"{name}__{inner}" for inner in lookup.get_lookups())


def every_lookup(model: Any, deep: bool = True) -> Iterator[str]:
    """All that Django can look for in a model, and in those that it refers to or that refer to it."""
    for field in model._meta.get_fields():
        yield field.name
        if hasattr(field, "get_lookups"):
            yield from (f"{field.name}__{lookup}" for lookup in lookups_of(field))
        if field.is_relation and field.related_model and deep:
            yield from (f"{field.name}__{inner}" for inner in every_lookup(field.related_model, deep=False))


@pytest.fixture
def asking(rf: RequestFactory, admin_user: User) -> Any:
    request = rf.get("/")
    request.user = admin_user
    return request


def test_each_list_is_one_of_ours() -> None:
    assert [model._meta.label for model, site in SITES if not isinstance(site, OfferedLookups)] == []


@_EACH_LIST
def test_a_list_offers_what_its_filters_ask_for(model: Any, asking: Any, world: dict[str, Any]) -> None:
    site = site_of(model)
    changes: Any = site.get_changelist_instance(asking)
    asked = {name for spec in changes.filter_specs for name in spec.expected_parameters()}
    assert asked <= site.offered_lookups(asking)


@_EACH_LIST
def test_a_list_offers_nothing_but_equality_and_spans_of_time(model: Any, asking: Any) -> None:
    ends = ("__exact", "__isnull", "__gte", "__lt", "__year", "__month", "__day")
    fields = {path.partition("__")[0] for path in every_lookup(model, deep=False)}
    for name in site_of(model).offered_lookups(asking):
        # A name without an end is compared for equality; one that is no field's is a filter's own.
        assert name.endswith(ends) or "__" not in name or name.rpartition("__")[2] in fields, name


@_EACH_LIST
def test_nothing_else_can_be_looked_for(model: Any, asking: Any) -> None:
    site = site_of(model)
    offered = site.offered_lookups(asking)
    names = {*every_lookup(model), "pk__regex"}
    assert not [name for name in names - offered if site.lookup_allowed(name, "1", asking)]
    assert not [name for name in offered if "regex" in name]


@_EACH_LIST
def test_nothing_secret_can_be_looked_for(model: Any, asking: Any) -> None:
    secrets = ("password", "secret", "digest", "token", "session", "host_keys", "public_key", "hash")
    assert not [name for name in site_of(model).offered_lookups(asking) if any(word in name for word in secrets)]


@pytest.mark.parametrize(
    "address",
    [
        "machines/machine/?notes__regex=(a%2B)%2B$",
        "machines/machine/?notes__iregex=x",
        "machines/machine/?rescues__token__startswith=a",
        "machines/machine/?rescues__password_hash__startswith=a",
        "machines/machine/?rescues__enabled_by__password__startswith=pbkdf2",
        "machines/notificationrule/?secret__startswith=whsec_",
        "machines/delivery/?rule__secret__startswith=whsec_",
        "machines/apitoken/?digest__startswith=a",
        "machines/apitoken/?user__password__startswith=pbkdf2",
        "machines/sshkey/?user__password__startswith=pbkdf2",
        "auth/user/?password__startswith=pbkdf2",
        "auth/user/?api_tokens__digest__startswith=a",
        "auth/group/?user__password__startswith=pbkdf2",
        "machines/auditentry/?details__contains=x",
        "machines/auditentry/?details__a__b__regex=x",
        "machines/auditentry/export/?reason__regex=x",
        "machines/machine/export/?notes__regex=x",
        "auth/user/?_to_field=password",
    ],
)
def test_what_a_list_does_not_offer_is_refused(address: str, admin_client: Client, world: dict[str, Any]) -> None:
    assert admin_client.get(f"/admin/{address}").status_code == 400


@_EACH_LIST
def test_no_query_of_a_list_is_a_fault(model: Any, asking: Any, admin_client: Client, world: dict[str, Any]) -> None:
    names = [*sorted(site_of(model).offered_lookups(asking)), *OWN]
    # Of what is refused one of each kind does: that all is refused is tested above.
    names += [f"{field.name}__{lookup}" for field in model._meta.fields[:4] for lookup in ("regex", "contains")]
    for name in names:
        # A filter's value is parsed by its field; Django's own parameters by simpler means.
        for value in VALUES if name not in OWN else ("x", "\0", "99999999999999999999", "a " * 600):
            status = admin_client.get(list_of(model), {name: value}).status_code
            assert status in HARMLESS, (name, value)


@pytest.mark.parametrize("year", ["2026", "9999", "1", "x", "99999999999999999999"])
def test_no_date_of_the_audit_log_is_a_fault(year: str, admin_client: Client, world: dict[str, Any]) -> None:
    for month in (None, "x", "12", "99999999999999999999"):
        for day in (None, "31", "x"):
            asked = {"at__year": year, "at__month": month, "at__day": day}
            query = {name: value for name, value in asked.items() if value is not None}
            for path in ("", "export/"):
                response = admin_client.get(f"/admin/machines/auditentry/{path}", query)
                body(response)
                assert response.status_code in HARMLESS, (path, query)


def test_a_month_of_every_year_is_not_looked_for(admin_client: Client, db: None) -> None:
    assert admin_client.get("/admin/machines/auditentry/?at__month=3").status_code == 302
    assert admin_client.get("/admin/machines/auditentry/?at__year=2026&at__month=3").status_code == 200


@_EACH_LIST
def test_no_choice_of_rows_is_a_fault(model: Any, admin_client: Client, world: dict[str, Any]) -> None:
    for chosen in VALUES:
        order = {"action": "delete_selected", "_selected_action": chosen}
        assert admin_client.post(list_of(model), order).status_code in HARMLESS | {403}, order


AUTOCOMPLETED = [
    *(("machines", "machine", "image"), ("machines", "macaddress", "machine"), ("roms", "build", "card")),
    *(("roms", "flashjob", name) for name in ("build", "restores", "card", "machine", "station")),
    *(("machines", "apitoken", "user"), ("machines", "sshkey", "user"), ("machines", "rescue", "enabled_by")),
    *(("auth", "user", "password"), ("machines", "nothing", "x"), ("machines", "delivery", "rule")),
]


@pytest.mark.parametrize(("app", "model", "field"), AUTOCOMPLETED)
def test_no_term_is_a_fault(app: str, model: str, field: str, admin_client: Client, world: dict[str, Any]) -> None:
    for name in ("term", "page"):
        for value in VALUES:
            query = {"app_label": app, "model_name": model, "field_name": field, name: value}
            assert admin_client.get("/admin/autocomplete/", query).status_code in HARMLESS | {403}, query


def test_what_a_list_only_computes_is_no_lookup(admin_client: Client, world: dict[str, Any]) -> None:
    for address in ("roms/station/?waiting_jobs__regex=x", "machines/notificationrule/?given_up_number__gt=0"):
        assert admin_client.get(f"/admin/{address}")["Location"].endswith("/?e=1")


def test_a_search_is_bounded_and_says_so(admin_client: Client, machine: Machine) -> None:
    for text in ("w " * (MAX_WORDS + 1), "w" * (MAX_CHARACTERS + 1)):
        page = admin_client.get("/admin/machines/machine/", {"q": text}).content.decode()
        assert f"Enter at most {MAX_WORDS} words" in page
        assert "web01" not in page
        assert admin_client.get("/api/machines/", {"q": text}).status_code == 400


def test_pages_lead_only_to_what_is_offered(admin_client: Client, machine: Machine, world: dict[str, Any]) -> None:
    front = admin_client.get("/admin/").content.decode()
    page = admin_client.get(f"/admin/machines/machine/{machine.pk}/change/").content.decode()
    assert f"auditentry/?machine_pk={machine.pk}" in page
    entries = admin_client.get(f"/admin/machines/auditentry/?machine_pk={machine.pk}").context["cl"].queryset
    assert set(entries) == set(AuditEntry.objects.filter(machine_pk=machine.pk))
    links = [part.partition('"')[0].replace("&amp;", "&") for part in front.split('href="')[1:]]
    for link in {link for link in links if "?" in link and link.startswith("/admin/")}:
        assert admin_client.get(link).status_code == 200, link


# The API

API_LISTS = [
    *("machines", "images", "rescues", "audit", "sightings", "notification-rules", "notifications"),
    *("rom-builds", "flash-jobs", "cards", "stations", "installed-roms"),
]


@pytest.mark.parametrize("name", API_LISTS)
def test_no_query_of_an_api_list_is_a_fault(name: str, admin_client: Client, world: dict[str, Any]) -> None:
    view: Any = admin_client.get(f"/api/{name}/").renderer_context["view"]  # type: ignore[attr-defined]
    filters = getattr(view, "filterset_class", None)
    names = [*(filters.base_filters if filters else ()), "ordering", "page", "page_size", "format", "search"]
    for field in names:
        for value in VALUES:
            response = admin_client.get(f"/api/{name}/", {field: value})
            assert response.status_code in HARMLESS, (field, value)


@pytest.mark.parametrize("name", API_LISTS)
def test_an_api_list_has_no_other_lookups(name: str, admin_client: Client, world: dict[str, Any]) -> None:
    """What is not declared is not asked of the database: the answer is that of a list without it."""
    view: Any = admin_client.get(f"/api/{name}/").renderer_context["view"]  # type: ignore[attr-defined]
    whole = admin_client.get(f"/api/{name}/").json()["results"]
    for field in view.queryset.model._meta.fields:
        query = {f"{field.name}__{lookup}": "zz" for lookup in ("regex", "startswith", "contains", "gt")}
        assert admin_client.get(f"/api/{name}/", query).json()["results"] == whole


@pytest.mark.parametrize("name", API_LISTS)
def test_an_api_list_is_filtered_and_ordered_by_nothing_secret(
    name: str, admin_client: Client, world: dict[str, Any]
) -> None:
    view: Any = admin_client.get(f"/api/{name}/").renderer_context["view"]  # type: ignore[attr-defined]
    filters = getattr(view, "filterset_class", None)
    used = [str(one.field_name) + str(one.lookup_expr) for one in (filters.base_filters.values() if filters else ())]
    ordered = [one if isinstance(one, str) else one[0] for one in getattr(view, "ordering_fields", ())]
    secrets = ("password", "secret", "digest", "token", "regex")
    assert not [one for one in (*used, *ordered) if any(word in one for word in secrets)]
