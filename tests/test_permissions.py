"""Who may do what, as one table: everything that the API and the admin answer, and the permissions that open it.

Each line is asked of somebody who is not logged in, of staff without any permission, with each single one, with each
pair that a line asks for, and of a superuser. A page or an endpoint that is added without a line is found below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import yaml
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.test import Client, RequestFactory
from django.urls import resolve

from machines.models import Actor, APIToken, AuditEntry, Machine, NotificationRule, RescueImage, Sighting, SSHKey
from machines.models.rescue import Rescue
from machines.models.rescue_terms import RescueRequest
from roms.models import Card, FlashJob, FlashKind, InstalledROM, JobState, Station
from tests.machines.support import body
from tests.roms.conftest import card, data_dir, station, succeeded

__all__ = ["card", "data_dir", "station"]

#: Instead of permissions.
STAFF, SUPERUSER, NOBODY = "staff", "superuser", "nobody"


def is_open(needs: str, permissions: set[str]) -> bool:
    """Whether `permissions` are enough: those joined by `+` are all needed, of those parted by `|` one does."""
    return needs == STAFF or any(set(one.split("+")) <= permissions for one in needs.split("|"))


class Line(NamedTuple):
    """What is asked, and who may."""

    method: str
    path: str
    needs: str
    data: tuple[tuple[str, str], ...] = ()


# The API


def _lines(text: str) -> list[Line]:
    return [Line(method, path, needs) for method, path, needs in map(str.split, text.strip().splitlines())]


API = _lines("""
    GET     /api/machines/                          view_machine
    HEAD    /api/machines/                          view_machine
    OPTIONS /api/machines/                          view_machine
    POST    /api/machines/                          add_machine
    GET     /api/machines/{machine}/                view_machine
    PUT     /api/machines/{machine}/                change_machine
    PATCH   /api/machines/{machine}/                change_machine
    DELETE  /api/machines/{machine}/                delete_machine
    GET     /api/machines/{machine}/preview/        view_machine
    GET     /api/machines/{machine}/timeline/       view_machine
    GET     /api/machines/{machine}/rescue/         view_machine
    POST    /api/machines/{machine}/rescue/         view_machine+enable_rescue
    DELETE  /api/machines/{machine}/rescue/         view_machine+enable_rescue
    POST    /api/machines/{machine}/rescue/try-again/ view_machine+enable_rescue
    GET     /api/rescues/                           view_machine
    GET     /api/audit/                             view_auditentry
    GET     /api/sightings/                         view_sighting
    GET     /api/images/                            view_rescueimage
    POST    /api/images/                            add_rescueimage
    GET     /api/images/{image}/                    view_rescueimage
    PATCH   /api/images/{image}/                    change_rescueimage
    DELETE  /api/images/{image}/                    delete_rescueimage
    GET     /api/notification-rules/                view_notificationrule
    POST    /api/notification-rules/                add_notificationrule
    GET     /api/notification-rules/{rule}/         view_notificationrule
    PUT     /api/notification-rules/{rule}/         change_notificationrule
    PATCH   /api/notification-rules/{rule}/         change_notificationrule
    DELETE  /api/notification-rules/{rule}/         delete_notificationrule
    POST    /api/notification-rules/{rule}/test/    change_notificationrule
    POST    /api/notification-rules/{rule}/secret/  change_notificationrule
    GET     /api/notifications/                     view_delivery
    GET     /api/notifications/{delivery}/          view_delivery
    POST    /api/notifications/{delivery}/retry/    view_delivery+change_notificationrule
    GET     /api/rom-builds/                        view_build
    OPTIONS /api/rom-builds/                        view_build
    POST    /api/rom-builds/                        build_rom
    GET     /api/rom-builds/{build}/                view_build
    HEAD    /api/rom-builds/{build}/                view_build
    GET     /api/rom-builds/{build}/log/            view_build
    GET     /api/rom-builds/{build}/rom/            view_build
    POST    /api/rom-builds/{build}/cancel/         build_rom
    POST    /api/rom-builds/{build}/retry/          build_rom
    GET     /api/flash-jobs/                        view_flashjob
    POST    /api/flash-jobs/                        flash_rom
    GET     /api/flash-jobs/{flash}/                view_flashjob
    GET     /api/flash-jobs/{flash}/log/            view_flashjob
    GET     /api/flash-jobs/{flash}/backup/         view_flashjob
    POST    /api/flash-jobs/{flash}/cancel/         flash_rom
    POST    /api/flash-jobs/{flash}/retry/          flash_rom
    GET     /api/cards/                             view_card
    GET     /api/cards/{card}/                      view_card
    GET     /api/stations/                          view_station
    GET     /api/stations/{station}/                view_station
    GET     /api/installed-roms/                    view_installedrom
    GET     /api/installed-roms/{ledger}/           view_installedrom
    GET     /api/                                   staff
    GET     /api/schema/                            staff
""")

# The admin


def _pages(model: str, name: str, **exceptions: str) -> list[Line]:
    """The admin's usual pages of a model: who may see a list, a thing and its history; add, change and delete it."""
    short = model.partition("/")[2]
    usual = {
        "list": f"view_{short}|change_{short}",
        "add": f"add_{short}",
        "see": f"view_{short}|change_{short}",
        "change": f"change_{short}",
        "delete": f"delete_{short}",
    }
    needs = usual | exceptions
    base = f"/admin/{model}/"
    one = f"{base}{{{name}_pk}}/"
    return [
        Line("GET", base, needs["list"]),
        Line("GET", f"{base}add/", needs["add"]),
        Line("POST", f"{base}add/", needs["add"]),
        Line("GET", f"{one}change/", needs["see"]),
        Line("POST", f"{one}change/", needs["change"]),
        Line("GET", f"{one}history/", needs.get("history", needs["see"])),
        Line("GET", f"{one}delete/", needs["delete"]),
        Line("POST", f"{one}delete/", needs["delete"], (("post", "yes"),)),
    ]


_KEPT_BY_ALL = {"list": STAFF, "add": STAFF, "see": STAFF, "change": NOBODY, "delete": STAFF}
_CARDS, _BUILDS = "view_card|change_card|build_rom|flash_rom", "view_build|change_build|build_rom|flash_rom"
_FLASHES = "view_flashjob|change_flashjob|flash_rom"
_READ_ONLY = {"add": NOBODY, "change": NOBODY, "delete": NOBODY}
_MACHINES, _ROMS = "/admin/machines", "/admin/roms"
_SWITCH = "view_machine+enable_rescue"
_ORDER = (("ids", "{machine_pk}"), ("lifetime", "one-boot"))

PAGES = [
    *_pages("machines/machine", "machine"),
    *(
        Line(method, f"{_MACHINES}/machine/rescue/{switch}/?ids={{machine_pk}}", _SWITCH, _ORDER)
        for switch in ("enable", "disable")
        for method in ("GET", "POST")
    ),
    Line("POST", f"{_MACHINES}/machine/rescue/try-again/", _SWITCH, _ORDER),
    Line("GET", f"{_MACHINES}/machine/import/", "add_machine+change_machine"),
    Line("POST", f"{_MACHINES}/machine/import/", "add_machine+change_machine"),
    Line("GET", f"{_MACHINES}/machine/export/", "view_machine|change_machine"),
    Line("GET", f"{_MACHINES}/machine/{{machine_pk}}/panel/", "view_machine|change_machine"),
    Line("GET", f"{_MACHINES}/machine/{{machine_pk}}/preview/", "view_machine|change_machine"),
    *_pages("machines/rescueimage", "image"),
    *_pages("machines/sighting", "sighting", add=NOBODY),
    *(
        Line(
            method,
            f"{_MACHINES}/sighting/{{sighting_pk}}/attach/",
            "change_machine+view_sighting|change_machine+change_sighting",
        )
        for method in ("GET", "POST")
    ),
    *_pages("machines/auditentry", "entry", list="view_auditentry", see="view_auditentry", **_READ_ONLY),
    Line("GET", f"{_MACHINES}/auditentry/export/", "view_auditentry"),
    *_pages("machines/notificationrule", "rule"),
    *_pages("machines/delivery", "delivery", list="view_delivery", see="view_delivery", **_READ_ONLY),
    # Everybody on the staff keeps their own.
    *_pages("machines/sshkey", "key", **_KEPT_BY_ALL),
    *_pages("machines/apitoken", "token", **_KEPT_BY_ALL),
    *_pages("auth/user", "user", add="add_user+change_user"),
    *(Line(method, "/admin/auth/user/{user_pk}/password/", "change_user") for method in ("GET", "POST")),
    *_pages(
        "auth/group", "group", list="view_group", see="view_group", add=SUPERUSER, change=SUPERUSER, delete=SUPERUSER
    ),
    *_pages("roms/card", "card", list=_CARDS, see=_CARDS),
    *(Line(method, f"{_ROMS}/card/lspci/", _CARDS) for method in ("GET", "POST")),
    *_pages("roms/station", "station"),
    *_pages("roms/installedrom", "ledger", add=NOBODY),
    # The page of a job shows it, whatever is posted.
    *_pages("roms/build", "build", list=_BUILDS, see=_BUILDS, add="build_rom", change=_BUILDS, delete=NOBODY),
    *(
        Line("GET", f"{_ROMS}/build/{{build_pk}}/{page}/", _BUILDS)
        for page in ("panel", "log", "rom", "rom/padded")
    ),
    Line("POST", f"{_ROMS}/build/preview/", "build_rom"),
    Line("POST", f"{_ROMS}/build/{{build_pk}}/cancel/", "build_rom"),
    Line("POST", f"{_ROMS}/build/{{build_pk}}/retry/", "build_rom"),
    *_pages("roms/flashjob", "flash", list=_FLASHES, see=_FLASHES, add="flash_rom", change=_FLASHES, delete=NOBODY),
    *(Line("GET", f"{_ROMS}/flashjob/{{flash_pk}}/{page}/", _FLASHES) for page in ("panel", "log", "backup")),
    Line("POST", f"{_ROMS}/flashjob/{{flash_pk}}/cancel/", "flash_rom"),
    Line("GET", "/admin/machines/", STAFF),
    Line("GET", "/admin/", STAFF),
]  # fmt: skip


class Action(NamedTuple):
    """An action of a list, by Django's name for it, and who is offered it."""

    model: str
    thing: str
    name: str
    needs: str


ACTIONS = [
    Action("machines/machine", "machine", "enable_rescue", _SWITCH),
    Action("machines/machine", "machine", "disable_rescue", _SWITCH),
    Action("machines/notificationrule", "rule", "send_test", "change_notificationrule"),
    Action("machines/notificationrule", "rule", "renew_secret", "change_notificationrule"),
    Action("machines/delivery", "delivery", "send_again", "view_delivery+change_notificationrule"),
    Action("machines/sighting", "sighting", "ignore", "change_sighting"),
    Action("machines/sighting", "sighting", "notice", "change_sighting"),
]
#: Pages that are everybody's or nobody's, and Django's own.
_ELSEWHERE = {
    *("login", "logout", "password_change", "password_change_done", "autocomplete", "jsi18n", "view_on_site"),
    *("app_list", None),
}


# Asking


@pytest.fixture
def world(
    machine: Machine, image: RescueImage, card: Card, station: Station, data_dir: Any, admin_user: User
) -> dict[str, Any]:
    """One of everything, by the names in the table. (Files are in `data_dir`, so images come after it.)"""
    actor = Actor("alice")
    for kind, content in (("kernel", b"k"), ("initrd", b"i")):
        image.files.filter(kind=kind).delete()
        image.attach(kind, [content])
    # Over: while one is active, who may switch rescue alone touches the machine's addresses (see the machines' tests).
    Rescue.objects.enable(machine, RescueRequest(), actor).disable(actor)
    card.origin = Card.Origin.OWN
    card.save()
    build = succeeded(card, b"\x55\xaa" + bytes(1022))
    build.log_path.write_text("log")
    flash = FlashJob(action=FlashKind.SAVE, card=card, station=station, slot="0000:03:00.0").submit(actor)
    flash.claim("worker")
    backup = image.files.get(kind="kernel").stored
    flash.finish(JobState.SUCCEEDED, backup=backup, backup_sha256="ab" * 32)
    rule = NotificationRule(name="chat", url="http://chat.example.net/", events=["rescue.up"])
    rule.issue([], actor)
    things = {
        "machine": machine, "image": image, "build": build, "flash": flash, "card": card, "station": station,
        "ledger": InstalledROM.objects.create(card=card, build=build), "rule": rule,
        "delivery": rule.send_test(actor), "sighting": Sighting.objects.create(mac="52:54:00:00:00:01"),
        "entry": AuditEntry.objects.earliest("pk"), "group": Group.objects.create(name="staff"),
        "user": User.objects.create_user("somebody"),
    }  # fmt: skip
    names: dict[str, Any] = {f"{name}_pk": thing.pk for name, thing in things.items()}
    names |= {name: names[f"{name}_pk"] for name in ("rule", "delivery", "build", "flash", "ledger")}
    return names | {"machine": machine.name, "image": image.name, "card": card.slug, "station": station.name}


def log_in(client: Client, world: dict[str, Any], *permissions: str) -> dict[str, Any]:
    """As staff with just these permissions; returns the names, with the user's own things."""
    user = User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return world | own(user)


def own(user: User) -> dict[str, Any]:
    key = SSHKey(
        user=user, public_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILwla1iPsItEMDWjUn2TnKKsZpcCFQq57GnlzzKAjX0"
    )
    key.full_clean(exclude=["fingerprint"])
    key.save()
    token, _ = APIToken.objects.make(user, "program")
    return {"key_pk": key.pk, "token_pk": token.pk}


@contextmanager
def undone() -> Iterator[None]:
    """What is done within it never was: the lines of the table do not see each other."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def answer(client: Client, line: Line, names: dict[str, Any]) -> str:
    """What becomes of it: open, closed, or asked to log in."""
    path = line.path.format(**names)
    with undone():
        if path.startswith("/api/"):
            response = client.generic(line.method, path, "{}", content_type="application/json")
        else:
            data = {name: value.format(**names) for name, value in line.data}
            response = getattr(client, line.method.lower())(path, data)
        body(response)
    status = response.status_code
    if status == 401 or (status == 302 and response["Location"].startswith("/admin/login/")):
        return "log in"
    assert status < 500, (line, status)
    # 404 would mean that the table is wrong.
    assert status != 404, line
    return "closed" if status == 403 else "open"


def offered(client: Client, action: Action, names: dict[str, Any]) -> bool:
    """Whether the list has the action; where it has not, asking for it does nothing."""
    path = f"/admin/{action.model}/"
    response = client.get(path)
    form: Any = response.context.get("action_form") if response.status_code == 200 else None
    there = bool(form) and action.name in [name for name, _ in form.fields["action"].choices]
    if not there:
        before = AuditEntry.objects.count(), Rescue.objects.active().count()
        with undone():
            chosen = {"action": action.name, "_selected_action": names[f"{action.thing}_pk"]}
            refused = client.post(path, chosen)
            assert (AuditEntry.objects.count(), Rescue.objects.active().count()) == before
            # Closed, or the list as before.
            assert refused.status_code == 403 or refused.get("Location", path) == path
    return there


_TABLE = [*API, *PAGES]
_NEEDS = {
    one for gate in (*(line.needs for line in _TABLE), *(action.needs for action in ACTIONS)) for one in gate.split("|")
}
_PAIRS = sorted(one for one in _NEEDS if "+" in one)
_EACH = sorted({name for one in _NEEDS for name in one.split("+")} - {STAFF, SUPERUSER, NOBODY})
#: Permissions that open nothing by themselves.
_OTHERS = ["login_rescue", "add_build", "delete_build", "add_flashjob", "delete_auditentry"]


def outcomes(client: Client, names: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(line.method, line.path): answer(client, line, names) for line in _TABLE}


def actions(client: Client, names: dict[str, Any]) -> dict[str, bool]:
    return {action.name: offered(client, action, names) for action in ACTIONS}


def wanted(permissions: set[str]) -> dict[tuple[str, str], str]:
    return {(line.method, line.path): "open" if is_open(line.needs, permissions) else "closed" for line in _TABLE}


def test_strangers_are_asked_to_log_in_everywhere(client: Client, world: dict[str, Any], admin_user: User) -> None:
    assert set(outcomes(client, world | own(admin_user)).values()) == {"log in"}


def test_who_is_not_of_the_staff_has_no_admin(client: Client, world: dict[str, Any], admin_user: User) -> None:
    user = User.objects.create_user("program")
    user.user_permissions.set(Permission.objects.all())
    client.force_login(user)
    names = world | own(admin_user)
    assert {answer(client, line, names) for line in PAGES} == {"log in"}
    assert {answer(client, line, names) for line in API} == {"open"}


@pytest.mark.parametrize("named", ["", *_EACH, *_PAIRS, *_OTHERS])
def test_permissions_open_what_the_table_says_and_nothing_else(
    named: str, client: Client, world: dict[str, Any]
) -> None:
    permissions = set(filter(None, named.split("+")))
    names = log_in(client, world, *permissions)
    assert outcomes(client, names) == wanted(permissions)
    assert actions(client, names) == {action.name: is_open(action.needs, permissions) for action in ACTIONS}


def test_a_superuser_may_do_all_that_anybody_may(client: Client, world: dict[str, Any], admin_user: User) -> None:
    client.force_login(admin_user)
    names = world | own(admin_user)
    assert outcomes(client, names) == {
        (line.method, line.path): "closed" if line.needs == NOBODY else "open" for line in _TABLE
    }
    assert all(actions(client, names).values())


# Nothing is forgotten


def test_each_operation_of_the_api_is_in_the_table(admin_client: Client) -> None:
    described = yaml.safe_load(admin_client.get("/api/schema/").content)["paths"]
    there = {(method.upper(), re.sub(r"{\w+}", "{}", path)) for path in described for method in described[path]}
    table = {(line.method, re.sub(r"{\w+}", "{}", line.path)) for line in API}
    table -= {("GET", "/api/"), ("GET", "/api/schema/")}
    assert there - {("GET", "/api/schema/")} == {line for line in table if line[0] not in {"HEAD", "OPTIONS"}}


def test_each_page_of_the_admin_is_in_the_table(world: dict[str, Any], admin_user: User) -> None:
    names = world | own(admin_user)
    asked = {resolve(line.path.format(**names).partition("?")[0]).url_name for line in PAGES}
    there = set()
    for pattern in admin.site.get_urls():
        there |= {one.name for one in getattr(pattern, "url_patterns", [pattern])}
    assert there - _ELSEWHERE == asked - _ELSEWHERE


def test_each_action_of_a_list_is_in_the_table(rf: RequestFactory, admin_user: User) -> None:
    request = rf.get("/")
    request.user = admin_user
    there = {
        (f"{model._meta.app_label}/{model._meta.model_name}", name)
        for model, site in admin.site._registry.items()
        for name in site.get_actions(request)
    }
    # Deleting several asks for the permission to delete one.
    there = {(model, name) for model, name in there if name != "delete_selected"}
    assert there == {(action.model, action.name) for action in ACTIONS}
