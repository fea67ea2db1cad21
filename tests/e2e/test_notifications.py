"""Notifications as they leave the worker: to a program that was down, and by mail."""

from __future__ import annotations

import contextlib
import email
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from machines.notifications.channels import webhook
from tests.e2e.conftest import MakeSite
from tests.e2e.site import ROOT, Site, free_port, token_in
from tests.e2e.vm import MAC
from tests.receiver import Receiver

pytestmark = pytest.mark.e2e

_RULE = """
from machines.models import Actor, NotificationRule
from machines.notifications.events import Event
rule = NotificationRule(name={name!r}, events={events!r} or list(Event.values), **{where!r})
print(rule.issue([], Actor("alice")), end="")
"""
_OVERDUE = """
from datetime import timedelta
from machines.models import Rescue, NotificationRule
Rescue.objects.unended().update(enabled_at=NotificationRule.objects.first().changed_at - timedelta(minutes=29.99))
"""
#: A tree that builds in a second.
STAND_IN = ROOT / "tests" / "roms" / "stand_in"


@contextmanager
def worker(site: Site) -> Iterator[None]:
    """`manage.py worker`, as make run starts it."""
    with site.data_dir.with_name("worker.log").open("ab") as log:
        command = [sys.executable, str(ROOT / "manage.py"), "worker", "--no-flash"]
        process = subprocess.Popen(command, cwd=ROOT, env=site.environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def add_rule(site: Site, name: str, *events: str, **where: str) -> str:
    return site.shell(_RULE.format(name=name, events=list(events), where=where))


def until(what: Callable[[], object], timeout: float = 60) -> None:
    """Wait for it; there is nothing to be told by."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.1)


def tries(site: Site) -> int:
    return int(site.rows("SELECT MAX(tries) AS n FROM machines_delivery")[0]["n"] or 0)


def test_a_program_that_was_down_is_told_of_each_event_once_and_signed(make_site: MakeSite) -> None:
    port = free_port()
    site = make_site({"RESCUESITE_WEBHOOK_NETWORKS": "127.0.0.0/8", "RESCUESITE_IPXE_SOURCE": str(STAND_IN)})
    secret = add_rule(site, "chat", url=f"http://127.0.0.1:{port}/hook")
    with worker(site):
        site.manage("rescue", "enable", "web01", "--reason", "RAID", "--by", "alice")
        until(lambda: tries(site) >= 1)
        with Receiver(port) as receiver:
            receiver.wait_for(lambda taken: "rescue.enabled" in taken.types)
            token = token_in(site.get(f"/boot?mac={MAC}").text)
            assert site.get(f"/boot/{token}/ready").status == 200
            # It is as if nobody came for half an hour.
            site.shell(_OVERDUE)
            receiver.wait_for(lambda taken: "rescue.overdue" in taken.types)
            assert site.get(f"/boot/{token}/up", method="POST", body=b"boot_id=b1&address=127.0.0.1").status == 200
            receiver.wait_for(lambda taken: "rescue.up" in taken.types)
        # Down again; what happens meanwhile waits.
        site.manage("rescue", "disable", "web01", "--by", "alice")
        site.manage("machine", "add", "web02", "--mac", "52:54:00:00:00:02", "--network", "192.0.2.0/24")
        site.manage("rescue", "enable", "web02", "--by", "alice")
        site.get("/boot?mac=52:54:00:00:00:02")
        site.shell("from roms.models import Card; Card.objects.load_curated()")
        for option in ("PING_CMD", "FAULT_COMPILER"):
            site.manage("build_rom", "8086:1229", "--site", "http://192.0.2.10", "--option", option)
        until(lambda: tries(site) >= 2)
        with Receiver(port) as later:
            later.wait_for(lambda taken: len(taken.types) >= 5)
            site.shell(
                "from machines.models import Actor, NotificationRule\n"
                "NotificationRule.objects.get().send_test(Actor('alice'))"
            )
            later.wait_for(lambda taken: "test" in taken.types)
            until(lambda: not site.rows("SELECT 1 FROM machines_delivery WHERE state <> 'delivered'"))
    came = receiver.requests + later.requests
    assert Counter(receiver.types + later.types) == Counter(
        {
            "rescue.enabled": 2,
            "rescue.overdue": 1,
            "rescue.up": 1,
            "rescue.ended": 1,
            "rescue.refused": 1,
            "job.finished": 1,
            "job.failed": 1,
            "test": 1,
        }
    )
    assert len({headers["webhook-id"] for _, headers, _ in came}) == len(came)
    for _, headers, sent in came:
        signed = webhook.signature(secret, headers["webhook-id"], int(headers["webhook-timestamp"]), sent)
        assert headers["webhook-signature"] == signed


def test_a_mail_arrives_at_a_mail_server(make_site: MakeSite) -> None:
    mails: list[Any] = []
    came = threading.Event()

    class Keeping:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
            mails.append((envelope.rcpt_tos, email.message_from_bytes(envelope.content)))
            came.set()
            return "250 OK"

    port = free_port()
    site = make_site({"RESCUESITE_EMAIL_URL": f"smtp://127.0.0.1:{port}", "RESCUESITE_EMAIL_FROM": "site@example.net"})
    add_rule(site, "mail", "rescue.enabled", kind="email", recipients="ops@example.net\nnight@example.net")
    server = Controller(Keeping(), hostname="127.0.0.1", port=port)
    with worker(site), contextlib.ExitStack() as stack:
        site.manage("rescue", "enable", "web01", "--reason", "Platte röchelt", "--by", "alice")
        # The mail server is down at first.
        until(lambda: tries(site) >= 1)
        server.start()
        stack.callback(server.stop)
        assert came.wait(60)
    ((recipients, mail),) = mails
    assert recipients == ["ops@example.net", "night@example.net"]
    assert mail["From"] == "site@example.net"
    subject = str(email.header.make_header(email.header.decode_header(mail["Subject"])))
    assert subject == "[rescue] web01: rescue enabled by alice: Platte röchelt"
    assert "Reason: Platte röchelt" in mail.get_payload(decode=True).decode()
