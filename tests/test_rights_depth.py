"""Where rights end, also indirectly: the lines of docs/rights.md that another test does not show already."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import LazySettings
from django.contrib.auth.models import Group, Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import models
from django.test import Client
from django.utils import timezone

from machines.models import (
    Actor,
    APIToken,
    AuditEntry,
    Delivery,
    MACAddress,
    Machine,
    NotificationRule,
    Rescue,
    RescueImage,
    SSHKey,
    StoredFile,
)
from machines.models.rescue_terms import RescueRequest
from machines.notifications.channels.webhook import Webhook
from machines.notifications.delivery import deliver_due
from machines.notifications.events import Event
from machines.notifications.timed_events import queue_timed_events
from roms.models import Build, Card, FlashJob, FlashKind, JobState, Station
from roms.toolchain.ipxe.script.spec import from_json
from tests.machines.support import HOST_KEY, OTHER_KEY, at, noon
from tests.roms.conftest import SCRIPT, card, data_dir, station
from tests.test_permissions import world

__all__ = ["card", "data_dir", "station", "world"]

NEW = "a-long-new-pass-phrase"
TABLE = Path(__file__).parents[1] / "docs" / "rights.md"


def user(name: str, *permissions: str, **values: Any) -> User:
    made = User.objects.create_user(name, password="password", is_staff=True, **values)
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return made


@pytest.fixture
def log_in(client: Client, db: None) -> Callable[..., Client]:
    def log_in(*permissions: str) -> Client:
        client.force_login(user("bob", *permissions))
        return client

    return log_in


def key_of(owner: User, line: str = HOST_KEY) -> SSHKey:
    key = SSHKey(user=owner, public_key=line)
    key.full_clean(exclude=["fingerprint"])
    key.save()
    return key


# The table


def test_each_right_that_the_site_asks_for_stands_in_the_table(db: None) -> None:
    named = set(re.findall(r"`(\w+)`", TABLE.read_text()))
    ours = Permission.objects.filter(content_type__app_label__in=["machines", "roms"])
    accounts = Permission.objects.filter(content_type__app_label="auth", content_type__model__in=["user", "group"])
    assert {one.codename for one in (*ours, *accounts)} - named == set()


# Accounts


@pytest.mark.parametrize("name", ["alice", "carol"])
@pytest.mark.parametrize("active", [True, False])
def test_nobody_touches_an_account_with_a_right_that_they_lack(
    name: str, active: bool, log_in: Callable[..., Client]
) -> None:
    group = Group.objects.create(name="rescuers")
    group.permissions.set(Permission.objects.filter(codename="enable_rescue"))
    alice, carol = user("alice", "enable_rescue", is_active=active), user("carol", is_active=active)
    carol.groups.add(group)
    client = log_in("view_user", "change_user", "delete_user")
    target = User.objects.get(username=name)
    before = User.objects.filter(pk=target.pk).values().get()
    base = f"/admin/auth/user/{target.pk}/"
    assert client.post(f"{base}password/", {"password1": NEW, "password2": NEW}).status_code == 403
    assert client.get(f"{base}password/").status_code == 403
    form = {"username": "other", "is_active": "on", "email": "bob@example.net", "date_joined_0": "2026-01-01"}
    assert client.post(f"{base}change/", form | {"date_joined_1": "00:00"}).status_code == 403
    assert client.post(f"{base}delete/", {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": target.pk, "post": "yes"}
    assert client.post("/admin/auth/user/", chosen).status_code == 403
    assert User.objects.filter(pk=target.pk).values().get() == before
    assert "has a permission that you do not have" in client.get(f"{base}change/").content.decode()
    assert alice.pk != carol.pk


def test_who_has_all_rights_of_an_account_may_edit_it(log_in: Callable[..., Client]) -> None:
    alice = user("alice", "view_machine")
    client = log_in("view_user", "change_user", "view_machine")
    page = client.post(f"/admin/auth/user/{alice.pk}/password/", {"password1": NEW, "password2": NEW})
    assert page.status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(NEW)


@pytest.mark.parametrize("whose", ["own", "new"])
def test_who_edits_accounts_gives_no_right_and_no_group(whose: str, log_in: Callable[..., Client]) -> None:
    group = Group.objects.create(name="rescuers")
    right = Permission.objects.get(codename="enable_rescue")
    client = log_in("view_user", "change_user", "add_user", "change_group", "add_group", "view_machine")
    target = User.objects.get(username="bob") if whose == "own" else user("dave")
    before = target.get_all_permissions()
    client.post(
        f"/admin/auth/user/{target.pk}/change/",
        {"username": target.username, "is_active": "on", "is_staff": "on", "is_superuser": "on", "groups": group.pk,
         "user_permissions": right.pk, "date_joined_0": "2026-01-01", "date_joined_1": "00:00"},
    )  # fmt: skip
    page = client.post(f"/admin/auth/group/{group.pk}/change/", {"name": "rescuers", "permissions": right.pk})
    assert page.status_code == 403
    again = User.objects.get(pk=target.pk)
    assert not again.is_superuser
    assert not again.groups.exists()
    assert again.get_all_permissions() == before


def test_who_edits_accounts_deletes_none_with_keys(log_in: Callable[..., Client]) -> None:
    key_of(dave := user("dave"))
    client = log_in("view_user", "delete_user")
    assert client.post(f"/admin/auth/user/{dave.pk}/delete/", {"post": "yes"}).status_code == 403
    assert User.objects.filter(pk=dave.pk).exists()


def test_who_sees_accounts_sees_no_hash_and_no_superuser(log_in: Callable[..., Client], admin_user: User) -> None:
    alice = user("alice")
    client = log_in("view_user")
    page = client.get(f"/admin/auth/user/{alice.pk}/change/").content.decode()
    assert alice.password.rpartition("$")[2] not in page
    assert "admin@" not in client.get("/admin/auth/user/").content.decode()


# Passwords, sessions, tokens


def test_a_password_set_by_somebody_else_ends_sessions_and_tokens(log_in: Callable[..., Client]) -> None:
    alice = user("alice")
    hers = Client()
    hers.force_login(alice)
    _, clear = APIToken.objects.make(alice, "program")
    _, kept = APIToken.objects.make(user("dave"), "program")
    client = log_in("view_user", "change_user")
    path = f"/admin/auth/user/{alice.pk}/password/"
    assert "It also deletes the API tokens of this account" in client.get(path).content.decode().replace("&#x27;", "'")
    told = client.post(path, {"password1": NEW, "password2": NEW}, follow=True).content.decode()
    assert "The new password also deleted 1 API token" in told
    assert hers.get("/admin/").status_code == 302
    assert [APIToken.objects.find(one) is not None for one in (clear, kept)] == [False, True]
    assert AuditEntry.objects.filter(action="token_deleted", actor="bob").count() == 1


def test_a_password_that_is_refused_ends_nothing(log_in: Callable[..., Client]) -> None:
    _, clear = APIToken.objects.make(alice := user("alice"), "program")
    client = log_in("view_user", "change_user")
    client.post(f"/admin/auth/user/{alice.pk}/password/", {"password1": NEW, "password2": "other"})
    assert APIToken.objects.find(clear)


def test_ones_own_new_password_ends_other_sessions_and_keeps_tokens(client: Client, db: None) -> None:
    alice = user("alice")
    other = Client()
    for session in (client, other):
        session.force_login(alice)
    _, clear = APIToken.objects.make(alice, "program")
    path = "/admin/password_change/"
    assert "Your API tokens remain valid" in client.get(path).content.decode()
    client.post(path, {"old_password": "password", "new_password1": NEW, "new_password2": NEW})
    assert client.get("/admin/").status_code == 200
    assert other.get("/admin/").status_code == 302
    assert APIToken.objects.find(clear)


def test_an_inactive_account_has_no_session_token_or_key(machine: Machine, image: RescueImage) -> None:
    alice = user("alice", "login_rescue", "enable_rescue")
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(alice))
    key_of(alice)
    session = Client()
    session.force_login(alice)
    _, clear = APIToken.objects.make(alice, "program")
    assert rescue.authorized_keys().count() == 1
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert session.get("/admin/").status_code == 302
    assert APIToken.objects.find(clear) is None
    assert not rescue.authorized_keys().exists()


def test_keys_of_plain_staff_reach_no_rescue(machine: Machine, image: RescueImage) -> None:
    key_of(user("bob"))
    key_of(user("carol", "login_rescue"), OTHER_KEY)
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(user("alice", "enable_rescue")))
    assert [key.user.username for key in rescue.authorized_keys()] == ["carol"]


@pytest.mark.parametrize("model", ["sshkey", "apitoken"])
def test_keys_and_tokens_are_made_for_nobody_else(model: str, log_in: Callable[..., Client]) -> None:
    alice = user("alice", "login_rescue")
    client = log_in("change_user", "view_user")
    client.post(f"/admin/machines/{model}/add/", {"public_key": HOST_KEY, "name": "x", "user": alice.pk})
    assert not SSHKey.objects.filter(user=alice).exists()
    assert not APIToken.objects.filter(user=alice).exists()


def test_plain_staff_see_nothing_on_the_front_page(log_in: Callable[..., Client], world: dict[str, Any]) -> None:
    page = log_in().get("/admin/").content.decode()
    assert not re.findall("web01|tiny|alice|armed|refused", page)


# Machines and images


def test_who_adds_machines_takes_no_address_from_another(machine: Machine, log_in: Callable[..., Client]) -> None:
    taken = machine.macs.get().address
    order = {"name": "mine", "macs": [taken], "allowed_networks": ["192.0.2.1"]}
    added = log_in("add_machine").post("/api/machines/", order, content_type="application/json")
    assert added.status_code == 400
    assert MACAddress.objects.get().machine == machine


def test_who_adds_images_does_not_take_the_defaults_place(image: RescueImage, log_in: Callable[..., Client]) -> None:
    client = log_in("add_rescueimage", "view_rescueimage")
    for path, order in (
        ("/api/images/", {"name": "mine", "default": "true"}),
        ("/admin/machines/rescueimage/add/", {"name": "mine", "make_default": "on", "architecture": "x86_64",
                                              "files-TOTAL_FORMS": 0, "files-INITIAL_FORMS": 0}),
    ):  # fmt: skip
        chain = {"chain_script": "#!ipxe\nexit\n"} if "api" in path else {"chain_script": "#!ipxe\r\nexit\r\n"}
        response = client.post(path, order | chain)
        assert response.status_code == 403
        assert "You need the permission to change rescue images" in response.content.decode()
    assert RescueImage.objects.get().is_default


def test_the_first_default_needs_no_more(log_in: Callable[..., Client]) -> None:
    client = log_in("add_rescueimage")
    upload = SimpleUploadedFile("vmlinuz", b"k")
    order = {"name": "mine", "default": "true", "kernel": upload}
    assert client.post("/api/images/", order).status_code == 201
    assert RescueImage.objects.get().is_default


# Notifications


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is posted."""
    posted: list[dict[str, Any]] = []

    def send(_: Webhook, rule: NotificationRule, payload: dict[str, Any], message_id: str) -> int:
        posted.append(payload)
        return 200

    monkeypatch.setattr(Webhook, "send", send)
    return posted


def rule_of(owner: User, **values: Any) -> NotificationRule:
    given = {"name": "mine", "url": "https://hooks.example.net/T00/secret", "events": list(Event.values)} | values
    rule = NotificationRule(**given)
    rule.issue([], Actor.of_user(owner))
    return rule


def everything_happens(machine: Machine, card: Card, station: Station) -> None:
    """A rescue, a build and a flash job, from their beginning to their end."""
    Rescue.objects.enable(machine, RescueRequest(reason="RAID"), Actor("alice")).disable(Actor("alice"))
    build = Build.of(from_json(SCRIPT), card=card).submit(Actor("alice"))
    build.claim("worker")
    build.finish(JobState.SUCCEEDED, artifact=StoredFile.objects.store([b"ROM"]))
    job = FlashJob(action=FlashKind.SAVE, card=card, station=station).submit(Actor("alice"))
    job.claim("worker")
    job.finish(JobState.FAILED, "no card")


RESCUES, BUILDS, FLASHES = "rescue.", "build_finished", "flash_finished"


@pytest.mark.parametrize(
    ("rights", "told"),
    [
        ([], []),
        (["add_notificationrule", "change_notificationrule", "view_auditentry"], []),
        (["view_machine"], [RESCUES]),
        (["view_build"], [BUILDS]),
        (["build_rom"], [BUILDS]),
        (["view_flashjob"], [FLASHES]),
        (["flash_rom"], [FLASHES]),
        (["view_machine", "view_build", "view_flashjob"], [RESCUES, BUILDS, FLASHES]),
    ],
)
def test_a_rule_tells_what_its_owner_may_see(
    rights: list[str], told: list[str], machine: Machine, image: RescueImage, card: Card, station: Station
) -> None:
    rule_of(user("bob", *rights))
    everything_happens(machine, card, station)
    found = {RESCUES if one.event.startswith(RESCUES) else one.action for one in Delivery.objects.all()}
    assert found == set(told)


@pytest.mark.parametrize("rights", [["view_machine"], ["view_machine", "view_auditentry"]])
def test_the_audit_entry_is_told_to_who_may_read_the_log(
    rights: list[str], machine: Machine, image: RescueImage, sent: list[dict[str, Any]]
) -> None:
    rule_of(user("bob", *rights))
    Rescue.objects.enable(machine, RescueRequest(), Actor("alice"))
    deliver_due(at_once=1)
    assert [one["data"]["audit"] is not None for one in sent] == ["view_auditentry" in rights]
    assert sent[0]["data"]["rescue"]["machine"] == "web01"


@pytest.mark.parametrize("loss", ["right", "activity", "account"])
def test_what_was_queued_is_not_sent_once_the_owner_may_not_see_it(
    loss: str, machine: Machine, image: RescueImage, sent: list[dict[str, Any]]
) -> None:
    rule_of(bob := user("bob", "view_machine"))
    Rescue.objects.enable(machine, RescueRequest(), Actor("alice"))
    if loss == "right":
        bob.user_permissions.clear()
    elif loss == "activity":
        User.objects.filter(pk=bob.pk).update(is_active=False)
    else:
        bob.delete()
    deliver_due(at_once=1)
    message = Delivery.objects.get()
    assert sent == []
    assert message.state == Delivery.State.GIVEN_UP
    assert "The rule belongs to bob" in message.last_error


@pytest.mark.parametrize("loss", ["activity", "account"])
def test_nothing_is_queued_for_an_owner_who_is_gone(loss: str, machine: Machine, image: RescueImage) -> None:
    rule_of(bob := user("bob", "view_machine"))
    if loss == "activity":
        User.objects.filter(pk=bob.pk).update(is_active=False)
    else:
        bob.delete()
    Rescue.objects.enable(machine, RescueRequest(), Actor("alice"))
    assert not Delivery.objects.exists()


def test_what_time_does_is_told_to_who_may_see_machines(machine: Machine, image: RescueImage) -> None:
    with at(noon()):
        rule_of(user("bob"), name="no")
        rule_of(user("carol", "view_machine"), name="yes")
        Delivery.objects.all().delete()
        Rescue.objects.enable(machine, RescueRequest(expires_at=timezone.now() + timedelta(hours=1)), Actor("alice"))
        Delivery.objects.all().delete()
    with at(noon(hours=2)):
        queue_timed_events()
    assert set(Delivery.objects.values_list("rule_name", flat=True)) == {"yes"}


def test_who_changes_a_rule_is_told_what_they_may_see_themselves(
    machine: Machine, image: RescueImage, log_in: Callable[..., Client], sent: list[dict[str, Any]]
) -> None:
    rule = rule_of(user("alice", "view_machine"))
    Rescue.objects.enable(machine, RescueRequest(), Actor("alice"))
    client = log_in("view_notificationrule", "change_notificationrule", "view_delivery")
    new = client.patch(
        f"/api/notification-rules/{rule.pk}/", {"url": "https://bob.example.net/"}, content_type="application/json"
    )
    assert new.json()["owner"] == "bob"
    assert client.post(f"/api/notifications/{Delivery.objects.get().pk}/retry/").status_code == 404
    deliver_due(at_once=1)
    machine.active_rescue().disable(Actor("alice"))  # type: ignore[union-attr]
    deliver_due(at_once=1)
    assert sent == []


def test_rules_of_before_belong_to_whom_the_log_names(db: None) -> None:
    find_owners = import_module("machines.migrations.0007_rule_owner").find_owners
    alice = user("alice")
    known, unknown = rule_of(alice, name="known"), rule_of(alice, name="unknown")
    NotificationRule.objects.update(owner=None, owner_name="")
    models.QuerySet.delete(AuditEntry.objects.filter(subject="unknown"))
    find_owners(apps, None)
    known.refresh_from_db()
    unknown.refresh_from_db()
    assert (known.owner, unknown.owner) == (alice, None)
    assert "has no active account" in unknown.reason_not_to_send("rescue.up")
    assert not known.reason_not_to_send("test")


def test_messages_are_read_by_who_may_see_what_they_tell(
    machine: Machine, image: RescueImage, card: Card, station: Station, log_in: Callable[..., Client]
) -> None:
    rule_of(user("root", is_superuser=True))
    everything_happens(machine, card, station)
    client = log_in("view_delivery")
    bob = User.objects.get(username="bob")
    seen = {}
    for right in ("view_delivery", "view_machine", "view_build", "view_flashjob"):
        bob.user_permissions.set(Permission.objects.filter(codename__in=["view_delivery", right]))
        listed = client.get("/api/notifications/").json()["results"]
        seen[right] = {one["event"] for one in listed}
        assert all(one["payload"]["data"]["audit"] is None for one in listed)
        assert client.get("/admin/machines/delivery/").context["cl"].result_count == len(listed)
    assert seen == {
        "view_delivery": set(),
        "view_machine": {"rescue.enabled", "rescue.ended"},
        "view_build": {"job.finished"},
        "view_flashjob": {"job.failed"},
    }


def test_a_message_is_shown_without_the_audit_entry_to_who_may_not_read_the_log(
    machine: Machine, image: RescueImage, log_in: Callable[..., Client]
) -> None:
    rule_of(user("root", is_superuser=True))
    Rescue.objects.enable(machine, RescueRequest(), Actor("alice", source="203.0.113.77"))
    page = f"/admin/machines/delivery/{Delivery.objects.get().pk}/change/"
    client = log_in("view_delivery", "view_machine")
    assert "203.0.113.77" not in client.get(page).content.decode()
    User.objects.get(username="bob").user_permissions.add(Permission.objects.get(codename="view_auditentry"))
    assert "203.0.113.77" in client.get(page).content.decode()


def test_the_path_of_a_webhook_is_for_who_may_change_it(log_in: Callable[..., Client]) -> None:
    rule = rule_of(user("alice"))
    client = log_in("view_notificationrule")
    pages = [
        client.get(f"/api/notification-rules/{rule.pk}/").json()["url"],
        client.get(f"/admin/machines/notificationrule/{rule.pk}/change/").content.decode(),
        client.get("/admin/machines/notificationrule/").content.decode(),
    ]
    assert all("hooks.example.net" in page and "T00" not in page for page in pages)
    assert not client.get("/admin/machines/notificationrule/?q=T00").context["cl"].result_count
    User.objects.get(username="bob").user_permissions.add(Permission.objects.get(codename="change_notificationrule"))
    assert "T00" in client.get(f"/api/notification-rules/{rule.pk}/").json()["url"]


def test_the_audit_log_holds_no_secret(
    machine: Machine, image: RescueImage, log_in: Callable[..., Client], settings: LazySettings
) -> None:
    alice = user("alice", "enable_rescue")
    rule = rule_of(alice)
    rescue = Rescue.objects.enable(machine, RescueRequest(password=True), Actor.of_user(alice))
    _, clear = APIToken.objects.make(alice, "program")
    client = log_in("view_auditentry")
    log = client.get("/api/audit/?page_size=1000").content.decode()
    log += b"".join(client.get("/admin/machines/auditentry/export/")).decode()
    assert "rescue_enabled" in log
    secrets = [rescue.token, rescue.password, rescue.password_hash, clear, clear[3:], rule.secret, "T00/secret"]
    assert not [one for one in [*secrets, alice.password, settings.SECRET_KEY] if one and one in log]
