"""Notification rules in the admin and in the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from machines.models import Actor, AuditEntry, Delivery, Machine, NotificationRule
from machines.notifications.events import Event

RULES, MESSAGES = "/api/notification-rules/", "/api/notifications/"
ADMIN = "/admin/machines/notificationrule/"
FORM = {"name": "chat", "is_active": "on", "kind": "webhook", "url": "https://chat.example.net/hook/s3cret",
        "events": ["rescue.up"], "overdue_minutes": 30, "all_machines": "on"}  # fmt: skip
ORDER: dict[str, Any] = {"name": "chat", "url": "https://chat.example.net/hook/s3cret", "events": ["rescue.up"]}


@pytest.fixture
def rule(db: None) -> NotificationRule:
    made = NotificationRule(**ORDER)
    made.issue([], Actor("alice"))
    return made


def send(client: Client, method: str, path: str, data: Any = None) -> Any:
    return client.generic(method, path, "" if data is None else json.dumps(data), "application/json")


# The admin


def test_a_rule_is_made_and_its_secret_shown_once(admin_client: Client) -> None:
    response = admin_client.post(f"{ADMIN}add/", FORM)
    made = NotificationRule.objects.get()
    assert "no-store" in response["Cache-Control"]
    assert made.secret in response.content.decode()
    for path in (ADMIN, f"{ADMIN}{made.pk}/change/"):
        assert made.secret not in admin_client.get(path).content.decode()
    assert AuditEntry.objects.get(action="notificationrule_added").actor == "admin"


def test_a_rule_of_mail_shows_no_secret(admin_client: Client, settings: Any) -> None:
    settings.RESCUESITE_EMAIL_GIVEN = True
    response = admin_client.post(f"{ADMIN}add/", FORM | {"kind": "email", "url": "", "recipients": "ops@example.net"})
    assert response.status_code == 302
    assert NotificationRule.objects.get().addresses == ["ops@example.net"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"url": "chat.example.net"}, "url"),
        ({"events": []}, "events"),
        ({"all_machines": ""}, "machines"),
        ({"kind": "email", "recipients": "ops@example.net"}, "recipients"),
        ({"overdue_minutes": 0}, "overdue_minutes"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(admin_client: Client, change: dict[str, Any], where: str) -> None:
    response = admin_client.post(f"{ADMIN}add/", FORM | change)
    assert list(response.context["adminform"].form.errors) == [where]
    assert not NotificationRule.objects.exists()


def test_a_rule_is_changed_with_its_machines(admin_client: Client, rule: NotificationRule, machine: Machine) -> None:
    changed = FORM | {"all_machines": "", "machines": [machine.pk], "events": ["rescue.up", "job.failed"]}
    assert admin_client.post(f"{ADMIN}{rule.pk}/change/", changed).status_code == 302
    entry = AuditEntry.objects.get(action="notificationrule_changed")
    assert entry.details["after"] == {
        "events": ["rescue.up", "job.failed"],
        "all_machines": False,
        "machines": ["web01"],
    }
    assert list(NotificationRule.objects.get().machines.all()) == [machine]


def test_a_deleted_rule_leaves_its_messages_and_an_entry(admin_client: Client, rule: NotificationRule) -> None:
    rule.send_test(Actor("alice"))
    admin_client.post(f"{ADMIN}{rule.pk}/delete/", {"post": "yes"})
    admin_client.post(f"{ADMIN}", {"action": "delete_selected", "_selected_action": rule.pk, "post": "yes"})
    message = Delivery.objects.get()
    assert (message.rule, message.rule_name, message.state) == (None, "chat", "given_up")
    assert AuditEntry.objects.filter(action="notificationrule_deleted").count() == 1
    assert admin_client.get(f"/admin/machines/delivery/{message.pk}/change/").status_code == 200
    assert admin_client.get("/admin/machines/delivery/").status_code == 200


def test_a_test_is_sent_from_the_list(admin_client: Client, rule: NotificationRule) -> None:
    data = {"action": "send_test", "_selected_action": rule.pk}
    page = admin_client.post(ADMIN, data, follow=True).content.decode()
    message = Delivery.objects.get()
    assert f"/admin/machines/delivery/{message.pk}/change/" in page
    assert f"rule__id__exact={rule.pk}&amp;state__exact=waiting" in page


def test_a_new_secret_is_made_for_one_rule_at_a_time(admin_client: Client, rule: NotificationRule) -> None:
    other = NotificationRule(**ORDER | {"name": "other"})
    other.issue([], Actor("alice"))
    admin_client.post(ADMIN, {"action": "renew_secret", "_selected_action": [rule.pk, other.pk]})
    assert NotificationRule.objects.get(pk=rule.pk).secret == rule.secret
    page = admin_client.post(ADMIN, {"action": "renew_secret", "_selected_action": [rule.pk]}).content.decode()
    renewed = NotificationRule.objects.get(pk=rule.pk).secret
    assert renewed != rule.secret
    assert renewed in page


def test_a_message_is_sent_again_from_the_list(admin_client: Client, rule: NotificationRule) -> None:
    message = rule.send_test(Actor("alice"))
    Delivery.objects.update(state="given_up", tries=11)
    admin_client.post("/admin/machines/delivery/", {"action": "send_again", "_selected_action": message.pk})
    message.refresh_from_db()
    assert (message.state, message.tries) == ("waiting", 0)
    assert AuditEntry.objects.get(action="notification_sent_again").actor == "admin"


def test_a_message_is_shown_as_text(admin_client: Client, rule: NotificationRule) -> None:
    message = rule.send_test(Actor("alice"))
    Delivery.objects.update(
        payload={"text": "<b>x</b>"}, log=[{"at": "2026-03-01T12:00:00+00:00", "status": 500, "error": "<i>no</i>"}]
    )
    page = admin_client.get(f"/admin/machines/delivery/{message.pk}/change/").content.decode()
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<i>no</i>" not in page


# The API


def test_a_rule_is_ordered_changed_replaced_and_deleted(admin_client: Client, machine: Machine) -> None:
    response = send(admin_client, "POST", RULES, ORDER | {"machines": ["WEB01"]})
    made = NotificationRule.objects.get()
    assert (response.status_code, response["Location"]) == (201, f"http://testserver{RULES}{made.pk}/")
    shown = {**ORDER, "id": made.pk, "active": True, "kind": "webhook", "recipients": [], "overdue_minutes": 30,
             "machines": ["web01"], "owner": "admin"}  # fmt: skip
    assert response.json() == {**shown, "secret": made.secret}
    one = f"{RULES}{made.pk}/"
    assert admin_client.get(one).json() == shown
    assert admin_client.get(RULES).json()["results"] == [shown]
    assert send(admin_client, "PATCH", one, {"active": False}).json() == shown | {"active": False}
    assert send(admin_client, "PATCH", one, {"machines": None}).json()["machines"] is None
    replaced = send(admin_client, "PUT", one, ORDER | {"events": list(Event.values)}).json()
    assert replaced == shown | {"machines": None, "events": list(Event.values)}
    assert send(admin_client, "DELETE", one).status_code == 204
    assert not NotificationRule.objects.exists()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"url": "ftp://x/"}, "url"),
        ({"events": ["rescue.sneezed"]}, "events"),
        ({"events": []}, "events"),
        ({"machines": ["nobody"]}, "machines"),
        ({"machines": []}, "machines"),
        ({"kind": "email", "recipients": ["ops@example.net"]}, "recipients"),
        ({"overdue_minutes": 0}, "overdue_minutes"),
        ({"secret": "x"}, "secret"),
    ],
)
def test_an_order_that_is_wrong_names_its_field(admin_client: Client, change: dict[str, Any], where: str) -> None:
    response = send(admin_client, "POST", RULES, ORDER | change)
    assert response.status_code == 400
    assert list(response.json()) == [where]
    assert not NotificationRule.objects.exists()


def test_a_name_that_is_taken_is_said(admin_client: Client, rule: NotificationRule) -> None:
    assert send(admin_client, "POST", RULES, ORDER).json() == {"name": ["A rule with this name already exists."]}


def test_a_test_and_a_new_secret_are_asked_for(admin_client: Client, rule: NotificationRule) -> None:
    response = send(admin_client, "POST", f"{RULES}{rule.pk}/test/")
    assert (response.status_code, response.json()["event"], response.json()["state"]) == (202, "test", "waiting")
    renewed = send(admin_client, "POST", f"{RULES}{rule.pk}/secret/").json()["secret"]
    assert renewed == NotificationRule.objects.get().secret != rule.secret


def test_messages_are_listed_filtered_and_sent_again(admin_client: Client, rule: NotificationRule) -> None:
    message = rule.send_test(Actor("alice"))
    assert admin_client.get(MESSAGES, {"state": "delivered"}).json()["count"] == 0
    (listed,) = admin_client.get(MESSAGES, {"state": "waiting", "event": "test", "rule": "chat"}).json()["results"]
    assert listed == admin_client.get(f"{MESSAGES}{message.pk}/").json()
    assert listed["payload"]["text"] == "This is a test notification"
    Delivery.objects.update(state="given_up")
    assert send(admin_client, "POST", f"{MESSAGES}{message.pk}/retry/").json()["state"] == "waiting"
    rule.delete_audited(Actor("alice"))
    assert send(admin_client, "POST", f"{MESSAGES}{message.pk}/retry/").status_code == 409


def test_the_front_page_tells_of_what_was_given_up(admin_client: Client, rule: NotificationRule) -> None:
    rule.send_test(Actor("alice"))
    assert "given up" not in admin_client.get("/admin/").content.decode()
    Delivery.objects.update(state="given_up")
    assert "<b>1</b> notification given up" in admin_client.get("/admin/").content.decode()


@pytest.mark.parametrize("path", [RULES, MESSAGES, ADMIN, "/admin/machines/delivery/"])
def test_a_list_costs_as_many_queries_for_many_rows(
    path: str, admin_client: Client, add_machine: Callable[[int], Machine]
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(path).status_code == 200
        return len(captured)

    def add(number: int) -> None:
        made = NotificationRule(**ORDER | {"name": f"rule{number}", "all_machines": False})
        made.issue([add_machine(number)], Actor("alice"))
        made.send_test(Actor("alice"))

    add(1)
    queries()
    few = queries()
    for number in range(2, 8):
        add(number)
    assert queries() == few
