"""What a single right reaches indirectly: by an account left behind, a rule switched off, a page that names things."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_network
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied, ValidationError
from django.test import Client

from machines.boot.delivery import rescue_archive
from machines.models import (
    Actor,
    APIToken,
    Delivery,
    Machine,
    NotificationRule,
    Rescue,
    RescueImage,
    Sighting,
)
from machines.models.rescue_terms import RescueRequest
from machines.notifications.channels.webhook import Webhook
from machines.notifications.delivery import deliver_due
from roms.models import Card, InstalledROM, Station
from tests.conftest import MAC
from tests.roms.conftest import card, data_dir, station
from tests.test_rights_depth import NEW, everything_happens, key_of, log_in, rule_of, sent, user

__all__ = ["card", "data_dir", "log_in", "sent", "station"]

ALICE = Actor("alice")

LogIn = Callable[..., Client]


# Accounts


def test_an_account_whose_keys_are_in_a_rescue_is_touched_by_nobody_without_the_right(
    machine: Machine, image: RescueImage, log_in: LogIn
) -> None:
    alice = user("alice", "enable_rescue", "view_machine")
    rescue = Rescue.objects.enable(machine, RescueRequest(lifetime="persistent"), Actor.of_user(alice))
    alice.user_permissions.clear()
    bob, password = log_in("view_user", "change_user"), {"password1": NEW, "password2": NEW}
    assert bob.post(f"/admin/auth/user/{alice.pk}/password/", password).status_code == 403
    key_of(alice)
    alice.is_active = False
    alice.save()
    assert not rescue.authorized_keys().exists()
    rescue.disable(ALICE)
    assert bob.post(f"/admin/auth/user/{alice.pk}/password/", password).status_code == 302


def test_a_quoted_number_saves_no_tokens_from_a_new_password(log_in: LogIn) -> None:
    alice = user("alice")
    _, clear = APIToken.objects.make(alice, "program")
    bob = log_in("view_user", "change_user")
    bob.post(f"/admin/auth/user/_0A{alice.pk}/password/", {"password1": NEW, "password2": NEW})
    alice.refresh_from_db()
    assert alice.check_password(NEW)
    assert APIToken.objects.find(clear) is None


def test_who_only_sees_accounts_is_not_told_of_rights_that_they_lack(log_in: LogIn) -> None:
    alice = user("alice", "enable_rescue")
    page = log_in("view_user").get(f"/admin/auth/user/{alice.pk}/change/").content.decode()
    assert "You cannot change this account" not in page
    assert "pbkdf2" not in page
    assert "<bdi>" not in page


# Machines


@pytest.fixture
def told_by_serial(image: RescueImage, actor: Actor) -> Rescue:
    """A rescue with a password, of a machine that its serial alone verifies."""
    machine = Machine.objects.add("web01", macs=[MAC], allowed_networks=[], identity={"serial": "CZ1"}, actor=actor)
    return Rescue.objects.enable(machine, RescueRequest(password=True), actor)


def has_password(rescue: Rescue) -> bool:
    fresh = Rescue.objects.select_related("machine").get(pk=rescue.pk)
    assert rescue.password_hash
    return rescue.password_hash.encode() in rescue_archive(fresh, base_url="http://192.0.2.1")


def test_a_new_machine_takes_no_password_out_of_a_rescue(told_by_serial: Rescue, log_in: LogIn) -> None:
    order = {"name": "x", "identity": {"serial": " cz1 "}}
    response = log_in("add_machine").post("/api/machines/", order, content_type="application/json")
    assert (response.status_code, list(response.json())) == (400, ["identity"])
    assert has_password(told_by_serial)


def test_a_changed_machine_takes_no_password_out_of_a_rescue(told_by_serial: Rescue) -> None:
    other = Machine.objects.add("x", macs=[], allowed_networks=[], actor=ALICE)
    bob = Actor.of_user(user("bob", "change_machine"))
    with pytest.raises(ValidationError, match="its rescue is active"):
        other.revise({"identity": {"serial": "CZ1"}}, bob)
    other.revise({"identity": {"serial": "CZ2"}}, bob)
    assert has_password(told_by_serial)


def test_an_import_takes_no_password_out_of_a_rescue(told_by_serial: Rescue, log_in: LogIn) -> None:
    client = log_in("add_machine", "change_machine", "view_machine")
    table = "name,macs,networks,serial\nx,,,CZ1\n"
    page = client.post("/admin/machines/machine/import/", {"contents": table}).content.decode()
    assert "its rescue is active" in page
    assert has_password(told_by_serial)


def test_who_deletes_machines_does_so_on_pages_as_by_program(machine: Machine, log_in: LogIn, card: Card) -> None:
    InstalledROM.objects.create(card=card, machine=machine)
    client = log_in("delete_machine", "view_machine")
    page = f"/admin/machines/machine/{machine.pk}/delete/"
    assert MAC not in client.get(page).content.decode()
    assert client.post(page, {"post": "yes"}).status_code == 302
    assert not Machine.objects.exists()


# What pages name


@pytest.mark.parametrize(
    ("rights", "path"),
    [
        ("add_notificationrule", "/admin/machines/notificationrule/add/?machines={machine}"),
        ("flash_rom", "/admin/roms/flashjob/add/?machine={machine}"),
        ("flash_rom", "/admin/roms/flashjob/add/?installed={installed}"),
        ("add_machine", "/admin/machines/machine/add/?image={image}"),
        ("add_machine", "/admin/machines/machine/add/?sighting={sighting}"),
        ("delete_rescueimage", "/admin/machines/rescueimage/{image}/delete/"),
        ("view_delivery", "/admin/machines/delivery/"),
    ],
)
def test_no_page_names_what_its_reader_may_not_view(
    rights: str, path: str, machine: Machine, image: RescueImage, card: Card, log_in: LogIn
) -> None:
    machine.revise({"image": image}, ALICE)
    seen = Sighting.objects.create(mac="52:54:00:00:00:01", source="203.0.113.9", said={"serial": "SER9"})
    installed = InstalledROM.objects.create(card=card, machine=machine)
    rule_of(user("alice"), name="hidden rule")
    named = {"machine": machine.pk, "image": image.pk, "sighting": seen.pk, "installed": installed.pk}
    page = log_in(rights).get(path.format(**named))
    assert page.status_code == 200
    hidden = r"web01|SER9|52:54:00:00:00:01|203\.0\.113\.9|hidden rule"
    if "rescueimage" not in path:
        hidden += "|tiny"
    assert not re.findall(hidden, page.content.decode())


def test_a_choice_that_is_there_stays_for_who_may_not_view_it(
    machine: Machine, image: RescueImage, log_in: LogIn
) -> None:
    machine.revise({"image": image}, ALICE)
    form = {
        "name": "web01", "identity": "{}", "notes": "new", "image": image.pk,
        "macs-TOTAL_FORMS": 0, "macs-INITIAL_FORMS": 0,
        "allowed_networks-TOTAL_FORMS": 0, "allowed_networks-INITIAL_FORMS": 0,
    }  # fmt: skip
    log_in("change_machine").post(f"/admin/machines/machine/{machine.pk}/change/", form)
    machine.refresh_from_db()
    assert (machine.image, machine.notes) == (image, "new")


# Notifications


def test_a_rule_that_is_switched_off_sends_nothing_more(
    machine: Machine, image: RescueImage, sent: list[dict[str, Any]], admin_client: Client
) -> None:
    bob = user("bob", "view_machine")
    rule = rule_of(bob, url="https://bob.example.net/")
    Rescue.objects.enable(machine, RescueRequest(), ALICE)
    bob.is_active = False
    bob.save()
    order = {"active": False}
    assert (
        admin_client.patch(f"/api/notification-rules/{rule.pk}/", order, content_type="application/json").json()[
            "owner"
        ]
        == "bob"
    )
    deliver_due(at_once=1)
    assert sent == []


def test_who_corrects_a_name_lends_no_rights_to_its_address(
    machine: Machine,
    image: RescueImage,
    card: Card,
    station: Station,
    sent: list[dict[str, Any]],
    admin_client: Client,
) -> None:
    rule = rule_of(user("bob", "add_notificationrule"), url="https://bob.example.net/", name="machnies")
    path = f"/api/notification-rules/{rule.pk}/"
    admin_client.patch(path, {"name": "machines"}, content_type="application/json")
    everything_happens(machine, card, station)
    deliver_due(at_once=1)
    assert sent == []


def test_a_rule_whose_owner_is_gone_belongs_to_who_saves_it_as_active(db: None) -> None:
    bob = user("bob")
    rule = rule_of(bob)
    bob.is_active = False
    bob.save()
    carla = Actor.of_user(user("carla"))
    rule.revise({"is_active": False}, None, carla)
    assert rule.owner_name == "bob"
    rule.revise({"is_active": True}, None, carla)
    assert rule.owner_name == "carla"


def test_the_moment_of_sending_is_each_messages_own(
    image: RescueImage, add_machine: Callable[[int], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = user("alice", "view_machine")
    rule_of(alice)
    for n in range(3):
        Rescue.objects.enable(add_machine(n), RescueRequest(), ALICE)
    posted = []

    def send(_: Webhook, rule: NotificationRule, payload: dict[str, Any], message_id: str) -> int:
        posted.append(payload["data"]["machine"])
        type(alice).objects.filter(pk=alice.pk).update(is_active=False)
        return 200

    monkeypatch.setattr(Webhook, "send", send)
    deliver_due(at_once=1)
    assert len(posted) == 1


def test_a_new_signing_secret_is_for_the_owner_and_superusers(db: None, admin_user: Any) -> None:
    rule = rule_of(user("alice", "change_notificationrule"))
    former = rule.secret
    with pytest.raises(PermissionDenied, match="belongs to alice"):
        rule.renew_secret(Actor.of_user(user("bob", "change_notificationrule")))
    rule.refresh_from_db()
    assert rule.secret == former
    assert rule.renew_secret(Actor.of_user(admin_user)) != former


def test_a_damaged_file_is_told_to_who_may_view_images(machine: Machine, image: RescueImage, log_in: LogIn) -> None:
    rule_of(user("alice", "view_machine"), name="machines")
    rule_of(user("dora", "view_rescueimage"), name="images")
    stored = image.files.get(kind="kernel").stored
    stored.path.chmod(0o600)
    stored.path.write_bytes(b"k" * stored.size)
    stored.read_again()
    (message,) = Delivery.objects.all()
    assert (message.rule_name, message.event) == ("images", "image.damaged")
    assert message.rule is not None
    assert message.rule.reason_not_to_send(message.event) == ""
    assert not Delivery.objects.visible_to(user("eve", "view_machine")).exists()


@pytest.fixture
def echo() -> Any:
    """The address of a server that says the path that it was asked for, as Express does."""

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = f"Cannot POST {self.path}".encode()
            self.send_response(404)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_answer_that_repeats_the_webhooks_path_is_kept_without_it(
    machine: Machine,
    image: RescueImage,
    echo: str,
    settings: LazySettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.RESCUESITE_WEBHOOK_NETWORKS = [ip_network("127.0.0.0/8")]
    rule_of(user("alice", "view_machine"), url=f"{echo}/T00/hook%20secret?key=hidden")
    Rescue.objects.enable(machine, RescueRequest(), ALICE)
    deliver_due(at_once=1)
    (message,) = Delivery.objects.all()
    assert "answered 404" in message.last_error
    assert "Cannot POST" in message.last_error
    for text in (message.last_error, str(message.log), caplog.text):
        assert not re.findall("T00/|secret|hidden", text)


def test_groups_are_read_with_view_user(log_in: LogIn) -> None:
    """As docs/rights.md says."""
    Group.objects.create(name="night shift")
    assert "night shift" in log_in("view_user").get("/admin/auth/user/").content.decode()
