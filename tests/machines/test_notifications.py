"""Notifications: what is told, of what, to whom, once; and how often it is tried."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pycurl
import pytest
from django.conf import LazySettings
from django.core import mail
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from machines.models import Actor, AuditEntry, Delivery, Machine, NotificationRule, Rescue, RescueImage
from machines.models.notification import PAUSES
from machines.notifications.channels import webhook
from machines.notifications.delivery import deliver_due
from machines.notifications.events import Event
from machines.notifications.reachable import objection
from machines.notifications.timed_events import queue_timed_events
from tests.machines.support import HOST_KEY, ask, at, body, enable, fetch, kind, noon, report
from tests.receiver import Receiver

ALICE = Actor("alice")
ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def receiver(settings: LazySettings) -> Iterator[Receiver]:
    settings.RESCUESITE_WEBHOOK_NETWORKS = LOOPBACK
    with Receiver() as taking:
        yield taking


def rule(receiver: Receiver | None = None, *machines: Machine, **values: Any) -> NotificationRule:
    """A rule that tells of everything, unless `values` say otherwise."""
    given = {
        "name": "chat",
        "url": receiver.url if receiver else "http://chat.example.net/",
        "events": list(Event.values),
    }
    made = NotificationRule(**(given | {"all_machines": not machines} | values))
    made.issue(machines, ALICE)
    return made


def messages() -> list[tuple[str, str]]:
    return list(Delivery.objects.order_by("pk").values_list("event", "machine"))


def texts() -> list[str]:
    return [message.payload["text"] for message in Delivery.objects.order_by("pk")]


@pytest.fixture
def furnished(machine: Machine, image: RescueImage) -> Machine:
    return machine


# What is an event


def test_the_life_of_a_rescue_is_told(furnished: Machine, client: Client) -> None:
    rule()
    RescueImage.objects.update(reports=True)
    rescue = enable(furnished, reason="RAID lost a disk")
    assert kind(ask(client)) == "rescue"
    body(fetch(client, rescue, "ready"))
    report(client, rescue, address="127.0.0.1", host_keys=HOST_KEY)
    report(client, rescue, address="127.0.0.1", host_keys=HOST_KEY)
    assert kind(ask(client)) == "local"
    assert messages() == [("rescue.enabled", "web01"), ("rescue.up", "web01"), ("rescue.ended", "web01")]
    assert texts() == [
        "web01: rescue enabled by tester: RAID lost a disk",
        "web01: rescue system is up, ssh root@127.0.0.1",
        "web01: rescue ended, it has booted again",
    ]
    up = Delivery.objects.get(event="rescue.up").payload["data"]
    assert (up["rescue"]["state"], up["rescue"]["host_keys"]) == ("up", [HOST_KEY])
    assert up["audit"]["action"] == "up"


def test_a_rescue_that_is_disabled_is_told_with_who_did_it(furnished: Machine) -> None:
    rule(events=["rescue.ended"])
    enable(furnished).disable(Actor("bob"), "not needed")
    assert texts() == ["web01: rescue disabled by bob: not needed"]


def test_a_refused_request_is_told_once_a_minute(furnished: Machine, client: Client) -> None:
    rule(events=["rescue.refused"])
    ask(client, source="192.0.2.99")
    assert messages() == []
    rescue = enable(furnished)
    with at(noon()):
        ask(client, source="192.0.2.99")
        ask(client, source="192.0.2.99")
        fetch(client, rescue, "kernel", source="192.0.2.99")
    assert messages() == [("rescue.refused", "web01")] * 2
    assert texts()[0] == "web01: a request from 192.0.2.99 was refused: address_not_allowed"


def test_a_message_holds_no_secret(furnished: Machine) -> None:
    rule()
    rescue = enable(furnished, password=True)
    told = json.dumps(Delivery.objects.get().payload)
    for secret in (rescue.token, rescue.password, rescue.password_hash):
        assert str(secret) not in told


def test_what_is_rolled_back_is_not_told(furnished: Machine) -> None:
    rule()
    with transaction.atomic():
        enable(furnished)
        transaction.set_rollback(True)
    assert messages() == []


def test_a_boot_that_is_no_event_asks_for_no_rules(furnished: Machine, client: Client) -> None:
    rule()
    with CaptureQueriesContext(connection) as captured:
        ask(client)
    assert not [query for query in captured if "notification" in query["sql"]]


def test_an_error_of_ours_keeps_nobody_from_a_rescue(
    furnished: Machine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule()
    monkeypatch.setattr(Delivery, "of", lambda *_: 1 / 0)
    enable(furnished)
    assert kind(ask(client, source="192.0.2.99")) == "refused"
    assert kind(ask(client)) == "rescue"
    assert messages() == []


# Whom


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, True),
        ({"events": ["rescue.up"]}, False),
        ({"events": ["rescue.up", "rescue.enabled"]}, True),
        ({"is_active": False}, False),
    ],
)
def test_a_rule_tells_of_its_events_while_it_is_active(furnished: Machine, values: dict[str, Any], told: bool) -> None:
    rule(**values)
    enable(furnished)
    assert bool(messages()) is told


def test_a_rule_of_some_machines_tells_of_no_others(furnished: Machine, add_machine: Callable[[int], Machine]) -> None:
    other = add_machine(1)
    rule(None, other)
    enable(furnished)
    assert messages() == []
    enable(other)
    assert messages() == [("rescue.enabled", "node1")]


def test_a_rule_whose_only_machine_is_gone_does_not_become_everybodys(
    furnished: Machine, add_machine: Callable[[int], Machine]
) -> None:
    other = add_machine(1)
    rule(None, other)
    other.delete_audited(ALICE)
    enable(furnished)
    assert messages() == []


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"url": "ftp://192.0.2.9/"}, "url"),
        ({"url": ""}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://[::1]/"}, "url"),
        ({"events": []}, "events"),
        ({"events": ["rescue.sneezed"]}, "events"),
        ({"overdue_minutes": 0}, "overdue_minutes"),
        ({"all_machines": False}, "machines"),
        ({"kind": "email", "recipients": "ops@example.net"}, "recipients"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_at_its_field(db: None, values: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as raised:
        rule(**values)
    assert list(raised.value.message_dict) == [where]
    assert not NotificationRule.objects.exists()


def test_the_log_says_who_made_a_rule_and_not_where_its_secret_lies(receiver: Receiver, db: None) -> None:
    made = rule(receiver)
    made.revise({"name": "pager"}, None, Actor("bob"))
    made.revise({"url": f"{receiver.url}/other"}, None, Actor("bob"))
    assert made.revise({"name": "pager"}, None, Actor("bob")) is False
    made.delete_audited(Actor("carol"))
    entries = AuditEntry.objects.filter(action__startswith="notificationrule").order_by("pk")
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("notificationrule_added", "alice"),
        ("notificationrule_changed", "bob"),
        ("notificationrule_changed", "bob"),
        ("notificationrule_deleted", "carol"),
    ]
    assert entries[1].details == {"before": {"name": "chat"}, "after": {"name": "pager"}}
    shown = json.dumps([entry.details for entry in entries])
    assert "s3cret" not in shown
    assert made.secret not in shown


# What time does


def test_an_expired_rescue_is_told_once_whoever_notices(furnished: Machine) -> None:
    with at(noon()):
        rule(events=["rescue.ended"])
        enable(furnished, lifetime="until", expires_at=noon(hours=1))
        queue_timed_events()
        assert messages() == []
    with at(noon(hours=1, seconds=1)):
        queue_timed_events()
        queue_timed_events()
        assert texts() == ["web01: rescue ended, its time is over"]
        # Nothing of the rescue was changed: a boot still gets the reason.
        assert Rescue.objects.get().state == "armed"
        Rescue.objects.end_expired()
    assert messages() == [("rescue.ended", "web01")]


def test_a_system_that_does_not_report_is_told_to_be_up(furnished: Machine, client: Client) -> None:
    with at(noon()):
        rule(events=["rescue.up"])
        rescue = enable(furnished)
        ask(client)
        body(fetch(client, rescue, "ready"))
    for seconds, told in ((119, 0), (121, 1), (180, 1)):
        with at(noon(seconds=seconds)):
            queue_timed_events()
        assert len(messages()) == told
    assert Delivery.objects.get().payload["timestamp"].startswith("2026-03-01T12:02:00")


def test_a_rescue_that_is_not_up_in_time_is_told_once(furnished: Machine, client: Client) -> None:
    with at(noon()):
        rule(events=["rescue.overdue"], overdue_minutes=10)
        rule(name="patient", events=["rescue.overdue"], overdue_minutes=60)
        enable(furnished)
    for minutes, told in ((9, 0), (11, 1), (20, 1), (59, 1), (61, 2), (90, 2)):
        with at(noon(minutes=minutes)):
            # It boots again and again, and never comes up.
            ask(client)
            queue_timed_events()
        assert len(messages()) == told, minutes
    assert texts()[0] == "web01: the rescue system is not up yet (booting)"


def test_a_second_boot_has_a_time_of_its_own(furnished: Machine, client: Client) -> None:
    RescueImage.objects.update(reports=True)
    with at(noon()):
        rule(events=["rescue.overdue"], overdue_minutes=10)
        rescue = enable(furnished, lifetime="persistent")
        ask(client)
        body(fetch(client, rescue, "ready"))
        report(client, rescue)
    with at(noon(hours=3)):
        queue_timed_events()
        ask(client)
        queue_timed_events()
    assert messages() == []
    with at(noon(hours=3, minutes=9)):
        ask(client)
        queue_timed_events()
    assert messages() == []
    with at(noon(hours=3, minutes=11)):
        queue_timed_events()
        queue_timed_events()
    assert messages() == [("rescue.overdue", "web01")]


def test_a_new_rule_does_not_tell_of_what_was_before(furnished: Machine) -> None:
    with at(noon()):
        enable(furnished, lifetime="until", expires_at=noon(hours=1))
    with at(noon(hours=2)):
        rule()
        queue_timed_events()
    assert messages() == []


def test_looking_at_the_clock_costs_a_constant_number_of_queries(
    add_machine: Callable[[int], Machine], image: RescueImage
) -> None:
    rule()

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            queue_timed_events()
        return len(captured)

    enable(add_machine(1))
    few = queries()
    for number in range(2, 12):
        enable(add_machine(number))
    assert queries() == few


# Delivering


def test_a_message_arrives_signed_and_once(furnished: Machine, receiver: Receiver) -> None:
    made = rule(receiver)
    enable(furnished)
    assert deliver_due() == 1
    assert deliver_due() == 0
    ((path, headers, sent),) = receiver.requests
    message = Delivery.objects.get()
    assert path == "/hook/s3cret"
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == message.message_id == receiver.told[0]["id"]
    signed = webhook.signature(made.secret, headers["webhook-id"], int(headers["webhook-timestamp"]), sent)
    assert headers["webhook-signature"] == signed
    assert (message.state, message.tries, message.last_status) == ("delivered", 1, 200)


def test_the_signature_is_the_standards() -> None:
    # The example in the documentation of Standard Webhooks' reference implementation.
    secret, message_id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    signed = webhook.signature(secret, message_id, 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_renewed_secret_signs_what_waits(furnished: Machine, receiver: Receiver) -> None:
    made = rule(receiver)
    enable(furnished)
    former, secret = made.secret, made.renew_secret(ALICE)
    assert secret != former
    deliver_due()
    _, headers, sent = receiver.requests[0]
    signed = webhook.signature(secret, headers["webhook-id"], int(headers["webhook-timestamp"]), sent)
    assert headers["webhook-signature"] == signed


def test_messages_arrive_in_their_order(furnished: Machine, receiver: Receiver) -> None:
    rule(receiver)
    for _ in range(3):
        enable(furnished).disable(ALICE)
    assert deliver_due() == 6
    assert receiver.types == ["rescue.enabled", "rescue.ended"] * 3


def test_a_receiver_that_was_down_gets_each_message_once(furnished: Machine, receiver: Receiver) -> None:
    rule(receiver)
    receiver.answers = [503, 503]
    with at(noon()):
        enable(furnished).disable(ALICE)
        assert deliver_due() == 0
        # The second waits: the receiver gets a breather.
        assert deliver_due() == 0
        assert len(receiver.requests) == 1
    with at(noon(seconds=PAUSES[0])):
        assert deliver_due() == 0
    with at(noon(seconds=PAUSES[0] + PAUSES[1])):
        # It answers again, and what waited is due at once.
        assert deliver_due() + deliver_due() == 2
    assert receiver.types == ["rescue.enabled"] * 3 + ["rescue.ended"]
    assert len({told["id"] for told in receiver.told}) == 2
    assert [one["status"] for one in Delivery.objects.get(event="rescue.enabled").log] == [503, 503, 200]


def test_after_the_last_try_a_message_is_given_up(furnished: Machine, receiver: Receiver) -> None:
    rule(receiver, events=["rescue.enabled"])
    receiver.answers = [500] * 100
    with at(noon()):
        enable(furnished)
    seconds = 0
    for pause in (*PAUSES, 0):
        with at(noon(seconds=seconds)):
            assert deliver_due() == 0
        seconds += pause
    message = Delivery.objects.get()
    assert (message.state, message.tries) == ("given_up", len(PAUSES) + 1)
    with at(noon(days=30)):
        deliver_due()
    assert len(receiver.requests) == len(PAUSES) + 1
    assert "answered 500" in message.last_error
    assert "s3cret" not in message.last_error


def test_a_message_that_is_refused_does_not_keep_the_others(furnished: Machine, receiver: Receiver) -> None:
    rule(receiver)
    receiver.answers = [400]
    with at(noon()):
        enable(furnished).disable(ALICE)
        deliver_due()
    with at(noon(seconds=3)):
        assert deliver_due() == 0
    with at(noon(seconds=31)):
        receiver.answers = [400]
        deliver_due()
    with at(noon(seconds=62)):
        assert deliver_due() >= 1
    assert "rescue.ended" in receiver.types


def test_a_message_can_be_sent_again_under_its_id(furnished: Machine, receiver: Receiver) -> None:
    made = rule(receiver, events=["rescue.enabled"])
    enable(furnished)
    deliver_due()
    message = Delivery.objects.get()
    assert message.send_again(ALICE)
    assert deliver_due() == 1
    assert [told["id"] for told in receiver.told] == [message.message_id] * 2
    made.delete_audited(ALICE)
    assert not Delivery.objects.get().send_again(ALICE)


def test_a_rule_that_is_deleted_sends_nothing_more(furnished: Machine, receiver: Receiver) -> None:
    made = rule(receiver)
    enable(furnished)
    made.delete_audited(ALICE)
    assert deliver_due() == 0
    assert receiver.requests == []
    assert Delivery.objects.get().last_error == "The rule was deleted."


def test_a_test_arrives_though_the_rule_names_no_such_event(receiver: Receiver, db: None) -> None:
    rule(receiver).send_test(ALICE)
    assert deliver_due() == 1
    assert receiver.types == ["test"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(furnished: Machine, receiver: Receiver, status: int) -> None:
    rule(receiver)
    receiver.answers, receiver.headers = [status], {"Location": receiver.url.replace("hook", "elsewhere")}
    enable(furnished)
    assert deliver_due() == 0
    assert len(receiver.requests) == 1
    assert "a redirect, which is not followed" in Delivery.objects.get().last_error


def test_an_error_of_ours_costs_one_message_a_try(
    furnished: Machine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(receiver)
    enable(furnished)
    with monkeypatch.context() as patched:
        patched.setattr(webhook, "signature", lambda *_: 1 / 0)
        assert deliver_due() == 0
    assert Delivery.objects.get().last_error == "ZeroDivisionError: division by zero"


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_sends(machine: Machine, image: RescueImage, receiver: Receiver) -> None:
    rule(receiver, events=["rescue.enabled"])
    enable(machine)
    together = threading.Barrier(4)

    def work(_: int) -> int:
        try:
            together.wait(10)
            return deliver_due(at_once=1)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 1
    assert len(receiver.requests) == 1


def test_a_receiver_with_many_messages_gives_others_their_turn(
    furnished: Machine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(receiver)
    enable(furnished).disable(ALICE)
    monkeypatch.setattr("machines.notifications.delivery._TURN", -1.0)
    assert deliver_due() == 0
    monkeypatch.setattr("machines.notifications.delivery._TURN", 10.0)
    monkeypatch.setattr("machines.notifications.delivery._BATCH", 1)
    assert [deliver_due(), deliver_due(), deliver_due()] == [1, 1, 0]


@pytest.mark.django_db(transaction=True)
def test_a_slow_receiver_keeps_no_other_waiting(
    machine: Machine, image: RescueImage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that sends a byte now and then is hung up on; the others were served meanwhile."""
    monkeypatch.setattr(webhook, "_WHOLE", 1)
    stop = threading.Event()

    class Drip(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not stop.wait(0.05):
                try:
                    self.wfile.write(b"X-Wait: 1\r\n")
                except OSError:
                    return

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        rule(name="drip", url=f"http://127.0.0.1:{server.server_port}/")
        rule(receiver)
        enable(machine)
        assert deliver_due() == 1
        stop.set()
        server.shutdown()
        thread.join()
    assert receiver.types == ["rescue.enabled"]
    assert "did not answer" in Delivery.objects.get(rule_name="drip").last_error


def test_a_receiver_that_drags_out_the_greeting_of_tls_is_hung_up_on(
    furnished: Machine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "_WHOLE", 1)
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            # A record of 16 KiB is announced, and comes in single bytes.
            connection.sendall(b"\x16\x03\x03\x40\x00")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"\0")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=[server])
        thread.start()
        rule(url=f"https://127.0.0.1:{server.getsockname()[1]}/")
        enable(furnished)
        assert deliver_due() == 0
        stop.set()
        thread.join()
    assert "cannot be reached" in Delivery.objects.get().last_error


@pytest.fixture
def certificate(receiver: Receiver, tmp_path: Path) -> Path:
    """The receiver's, from now on: for `localhost`, by nobody but itself."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-subj",
         "/CN=localhost", "-days", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver.wrap(context)
    return certificate


@pytest.mark.parametrize(
    ("host", "is_trusted", "said"),
    [
        ("localhost", True, ""),
        ("localhost", False, "self-signed certificate"),
        ("127.0.0.1", True, "does not match target hostname"),
    ],
)
def test_a_certificate_that_nobody_vouches_for_is_refused(
    furnished: Machine,
    receiver: Receiver,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    is_trusted: bool,
    said: str,
) -> None:
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    rule(url=receiver.url.replace("http://127.0.0.1", f"https://{host}"))
    enable(furnished)
    assert deliver_due() == len(receiver.requests) == (not said)
    assert said in Delivery.objects.get().last_error


# Where nothing is posted to


@pytest.mark.parametrize(
    "url",
    [
        "http:///x", "https://", "192.0.2.9", "file:///etc/passwd", "http://u:p@192.0.2.9/", "http://192.0.2.9/#x",
        "http://192.0.2.9:0/", "http://192.0.2.9:99999/", "http://192.0.2.9/ x", "http://192.0.2.9/\r\nX: y",
        "http://[::1", "http://ex\xe4mple.net/", "http://192.0.2.9/" + "x" * 500,
    ],
)  # fmt: skip
def test_what_is_no_address_to_post_to_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        webhook.parse(url)


def test_a_name_that_leads_to_this_host_is_refused_when_sending(
    furnished: Machine, receiver: Receiver, settings: LazySettings
) -> None:
    settings.RESCUESITE_WEBHOOK_NETWORKS = ()
    rule(receiver, url=receiver.url.replace("127.0.0.1", "localhost"))
    enable(furnished)
    assert deliver_due() == 0
    assert receiver.requests == []
    assert "this host itself" in Delivery.objects.get().last_error


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets libcurl know names as if it had looked them up."""

    def know(entry: str) -> None:
        class Knowing(pycurl.Curl):  # type: ignore[misc]
            def perform(self) -> None:
                self.setopt(pycurl.RESOLVE, [entry])
                super().perform()

        monkeypatch.setattr(pycurl, "Curl", Knowing)

    return know


@pytest.mark.parametrize(
    ("addresses", "allowed", "asked", "arrives"),
    [
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1"], True),
        ("169.254.169.254,127.0.0.1", "127.0.0.1", ["169.254.169.254", "127.0.0.1"], True),
        # The allowed one does not answer: the other is no way out.
        ("127.0.0.2,127.0.0.1", "127.0.0.2", ["127.0.0.2", "127.0.0.1"], False),
        ("127.0.0.1,169.254.169.254", "127.0.0.2", ["127.0.0.1", "169.254.169.254"], False),
    ],
)
def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    furnished: Machine,
    receiver: Receiver,
    settings: LazySettings,
    monkeypatch: pytest.MonkeyPatch,
    names: Callable[[str], None],
    addresses: str,
    allowed: str,
    asked: list[str],
    arrives: bool,
) -> None:
    settings.RESCUESITE_WEBHOOK_NETWORKS = (ip_network(allowed),)
    port = urlsplit(receiver.url).port
    names(f"rebinds.example.net:{port}:{addresses}")
    looked_at: list[str] = []

    def note(address: Any, *rest: Any) -> str:
        looked_at.append(str(address))
        return objection(address, *rest)

    monkeypatch.setattr(webhook, "objection", note)
    rule(url=receiver.url.replace("127.0.0.1", "rebinds.example.net"))
    enable(furnished)
    assert deliver_due() == arrives
    assert looked_at == asked
    assert [headers["host"] for _, headers, _ in receiver.requests] == [f"rebinds.example.net:{port}"] * arrives
    assert arrives or "127.0.0.1 is this host itself" in Delivery.objects.get().last_error


def test_a_host_that_cannot_say_where_an_address_leads_sends_nothing_there(
    furnished: Machine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    rule(receiver)
    enable(furnished)
    monkeypatch.setattr(webhook, "objection", fail)
    assert deliver_due() == 0
    assert receiver.requests == []
    assert "127.0.0.1: No buffer space available" in Delivery.objects.get().last_error


def test_a_proxy_of_the_environment_is_not_asked(
    furnished: Machine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "socks5h://127.0.0.1:9")
    rule(receiver)
    enable(furnished)
    assert deliver_due() == 1


def test_an_answer_without_end_is_not_read_to_its_end(furnished: Machine) -> None:
    hung_up = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not hung_up.is_set():
                try:
                    self.wfile.write(b"x" * 4096)
                except OSError:
                    hung_up.set()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        status = webhook.post(f"http://127.0.0.1:{server.server_port}/", b"{}", {}, LOOPBACK)
        server.shutdown()
        thread.join()
    assert status == 200
    assert hung_up.is_set()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, and the program unshare")
def test_a_name_server_that_does_not_answer_costs_no_more_than_the_time_of_a_message(tmp_path: Path) -> None:
    servers = tmp_path / "resolv.conf"
    servers.write_text("nameserver 127.0.0.1\noptions timeout:30\n")
    code = """
import socket, time
import django
django.setup()
from machines.notifications.channels import webhook
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
webhook._WHOLE, began = 1, time.monotonic()
try:
    webhook.post("http://chat.example.net/s3cret", b"{}", {})
except webhook.DeliveryError as error:
    print(round(time.monotonic() - began), error)
"""
    set_up = f"ip link set lo up && mount --bind {servers} /etc/resolv.conf"
    command = ["unshare", "--net", "--mount", "sh", "-c", f'{set_up} && exec "$0" -c "$1"', sys.executable, code]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20)
    if "not permitted" in ended.stderr or "permission denied" in ended.stderr:
        pytest.skip(ended.stderr)
    assert ended.stderr == ""
    assert ended.stdout.startswith("1 http://chat.example.net cannot be reached: Resolving timed out")


# Mail


@pytest.fixture
def mailing(settings: LazySettings) -> None:
    settings.RESCUESITE_EMAIL_GIVEN = True


def test_a_mail_says_what_happened_and_how_to_log_in(furnished: Machine, client: Client, mailing: None) -> None:
    rule(kind="email", url="", recipients="ops@example.net, night@example.net", events=["rescue.up"])
    RescueImage.objects.update(reports=True)
    rescue = enable(furnished, reason="RAID\nlost a disk")
    ask(client)
    body(fetch(client, rescue, "ready"))
    report(client, rescue, address="127.0.0.1", host_keys=HOST_KEY)
    assert deliver_due() == 1
    (sent,) = mail.outbox
    assert sent.subject == "[rescue] web01: rescue system is up, ssh root@127.0.0.1"
    assert sent.to == ["ops@example.net", "night@example.net"]
    assert f"Host key: {HOST_KEY}" in sent.body
    assert "Reason: RAID lost a disk" in sent.body
    assert sent.extra_headers["Message-ID"] == f"<{Delivery.objects.get().message_id}@rescuesite>"


def test_a_mail_that_cannot_be_sent_waits(furnished: Machine, mailing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rule(kind="email", url="", recipients="ops@example.net")
    enable(furnished)

    def refuse(*_: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    with monkeypatch.context() as patched:
        patched.setattr("django.core.mail.EmailMessage.send", refuse)
        assert deliver_due() == 0
    message = Delivery.objects.get()
    assert (message.state, message.last_error) == ("waiting", "ConnectionRefusedError: [Errno 111] Connection refused")


@pytest.mark.parametrize(
    ("recipients", "said"),
    [
        ("", "at least one"),
        ("ops", "is not a valid e-mail address"),
        (" ".join(f"a{n}@example.net" for n in range(21)), "room"),
    ],
)
def test_recipients_that_are_none_are_refused(db: None, mailing: None, recipients: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        rule(kind="email", url="", recipients=recipients)


# Housekeeping


def test_old_messages_are_pruned_unless_they_wait(furnished: Machine, receiver: Receiver) -> None:
    with at(noon()):
        rule(receiver)
        enable(furnished)
        deliver_due()
        Rescue.objects.get().disable(ALICE)
    assert Delivery.objects.prune(noon(hours=1)) == 1
    assert messages() == [("rescue.ended", "web01")]


def test_a_job_that_ends_is_told(furnished: Machine) -> None:
    rule(None, furnished, name="of web01")
    rule(name="of all")
    for action, outcome in (
        ("build_finished", "succeeded"),
        ("flash_finished", "lost"),
        ("build_finished", "cancelled"),
    ):
        AuditEntry.objects.record(action, subject="build 3", outcome=outcome, reason="")
    told = list(Delivery.objects.values_list("rule_name", "event"))
    assert told == [("of all", "job.failed"), ("of all", "job.finished")]
    assert sorted(texts()) == ["build 3 lost", "build 3 succeeded"]


def test_the_address_is_not_told_to_the_log_of_the_program(
    furnished: Machine, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    rule(receiver)
    receiver.answers = [500]
    enable(furnished)
    deliver_due()
    assert "did not arrive" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_lease_that_ran_out_is_taken_over(furnished: Machine, receiver: Receiver) -> None:
    rule(receiver)
    with at(noon()):
        enable(furnished)
        # Its worker dies here.
        assert Delivery.objects.get().claim(noon())
        assert deliver_due() == 0
    with at(noon(minutes=3)):
        assert deliver_due() == 1
    assert timedelta(minutes=3) > timedelta(seconds=webhook._WHOLE)
