"""Delivering messages: tries, mail, housekeeping."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core import mail
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client

from machines.models import AuditEntry, Delivery, Machine, Rescue, RescueImage
from machines.models.delivery import PAUSES
from machines.notifications.channels import webhook
from machines.notifications.delivery import deliver_due
from tests.machines.notifications import ALICE, furnished, messages, receiver, rule, texts
from tests.machines.support import HOST_KEY, ask, at, body, enable, fetch, noon, report
from tests.receiver import Receiver

__all__ = ["furnished", "receiver"]


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
    assert "a redirect, which the site does not follow" in Delivery.objects.get().last_error


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
    monkeypatch.setattr(webhook, "_TIMEOUT", 1)
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
    monkeypatch.setattr(webhook, "_TIMEOUT", 1)
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
        ("ops", "is not a valid email address"),
        (" ".join(f"a{n}@example.net" for n in range(21)), "at most 20 addresses"),
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
    assert "Cannot send rescue.enabled" in caplog.text
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
    assert timedelta(minutes=3) > timedelta(seconds=webhook._TIMEOUT)
