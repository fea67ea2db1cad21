"""Where webhooks go, and where nothing is posted to."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pycurl
import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError

from machines.models import Delivery, Machine
from machines.notifications.channels import webhook
from machines.notifications.delivery import deliver_due
from machines.notifications.reachable import objection
from tests.machines.notifications import LOOPBACK, furnished, receiver, rule
from tests.machines.support import enable
from tests.receiver import Receiver

__all__ = ["furnished", "receiver"]


ROOT = Path(__file__).resolve().parents[2]


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
webhook._TIMEOUT, began = 1, time.monotonic()
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
