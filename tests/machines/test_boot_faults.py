"""Faults behind the boot address: the machine boots its disk, in time; and what an answer costs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from machines.boot import deadline, handler
from machines.boot.reasons import Reason
from machines.boot.script import pass_through
from machines.models import Actor, AuditEntry, Machine, RescueImage, Sighting
from tests.conftest import MAC
from tests.machines.boot_requests import UNKNOWN, assert_valid
from tests.machines.support import (
    ask,
    at,
    boots,
    enable,
    kind,
    noon,
    stored,
)

# What cannot be served


def test_an_arm_machine_is_not_given_an_x86_image(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    assert kind(ask(client, f"mac={MAC}&buildarch=arm64")) == "local"
    assert [entry.reason for entry in boots()] == ["image_unavailable"]
    assert stored(rescue).state == "armed"


def test_a_bios_rom_that_says_i386_is_given_a_64_bit_image(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    enable(machine)
    assert kind(ask(client, f"mac={MAC}&buildarch=i386")) == "rescue"


@pytest.fixture
def lost(machine: Machine) -> Iterator[RescueImage]:
    """An image of bytes that no other test uses, so that they can be lost."""
    image = RescueImage.objects.create(name="lost", is_default=True)
    image.attach("kernel", [b"a kernel to lose"])
    path = image.files.get().stored.path
    yield image
    path.unlink(missing_ok=True)


def test_a_rescue_whose_file_is_lost_is_a_pass_through(client: Client, machine: Machine, lost: RescueImage) -> None:
    rescue = enable(machine)
    lost.files.get().stored.path.unlink()
    assert kind(ask(client)) == "local"
    assert [entry.reason for entry in boots()] == ["image_unavailable"]
    assert stored(rescue).state == "armed"


def test_a_rescue_whose_file_is_cut_short_is_a_pass_through(
    client: Client, machine: Machine, lost: RescueImage
) -> None:
    enable(machine)
    lost.files.get().stored.path.write_bytes(b"short")
    assert kind(ask(client)) == "local"


def test_a_rescue_whose_script_would_be_unsafe_is_a_pass_through(
    client: Client, machine: Machine, image: RescueImage, caplog: pytest.LogCaptureFixture
) -> None:
    RescueImage.objects.filter(pk=image.pk).update(command_line="quiet || shell")
    enable(machine)
    assert kind(ask(client)) == "local"
    assert [entry.reason for entry in boots()] == ["image_unavailable"]
    assert "separator" in caplog.text


# The site's own faults


@pytest.fixture
def broken() -> Callable[[Exception], AbstractContextManager[None]]:
    """Let decisions fail for a while, as a bug or a broken database would."""

    @contextmanager
    def failing_with(error: Exception) -> Iterator[None]:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(handler, "decide", fail)
            yield

    return failing_with


Broken = Callable[[Exception], AbstractContextManager[None]]
FAULTS = [(RuntimeError("a bug"), "internal_error"), (DatabaseError("it is gone"), "database_error")]


@pytest.mark.parametrize(("error", "reason"), FAULTS)
@pytest.mark.parametrize("method", ["get", "head"])
def test_a_fault_of_the_site_boots_the_disk(
    client: Client, machine: Machine, broken: Broken, error: Exception, reason: str, method: str
) -> None:
    with broken(error):
        response = getattr(client, method)("/boot", {"mac": MAC})
    assert response.status_code == 200
    assert response["Content-Length"] == str(len(pass_through(Reason(reason))))


@pytest.mark.parametrize(("error", "reason"), FAULTS)
def test_the_script_after_a_fault_is_valid_and_says_so(
    client: Client, machine: Machine, broken: Broken, error: Exception, reason: str
) -> None:
    with broken(error):
        response = client.get("/boot", {"mac": MAC})
    assert_valid(response)
    assert kind(response.content.decode()) == "local"
    assert b"echo The rescue site " in response.content


@pytest.mark.parametrize(("error", "reason"), FAULTS)
def test_a_fault_is_written_down_with_the_next_answer(
    client: Client, machine: Machine, broken: Broken, error: Exception, reason: str
) -> None:
    with broken(error):
        ask(client)
        ask(client)
    assert boots() == []
    ask(client)
    assert {entry.reason: entry.count for entry in boots()} == {"no_rescue": 1, reason: 2}


def test_a_bug_is_logged_with_its_traceback(
    client: Client, machine: Machine, broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    with broken(RuntimeError("a bug")):
        ask(client)
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


def test_a_fault_of_the_record_does_not_keep_a_stranger_waiting(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("read-only")

    monkeypatch.setattr(Sighting.objects, "record", failing)
    assert kind(ask(client, f"mac={UNKNOWN}")) == "local"
    # Counted all the same, by the next writing.
    assert [(entry.reason, entry.count) for entry in boots()] == [("unknown_mac", 1)]


def test_a_rescue_that_could_not_be_recorded_is_not_served(
    client: Client, machine: Machine, image: RescueImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("read-only")

    rescue = enable(machine)
    monkeypatch.setattr(AuditEntry.objects, "record_answers", failing)
    assert kind(ask(client)) == "local"
    assert stored(rescue).state == "armed"


def test_strangers_who_cannot_be_counted_do_not_cost_a_machine_its_rescue(
    client: Client, machine: Machine, image: RescueImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("a lock that was not given in time")

    enable(machine)
    handler.limiter.restore("unknown_mac", 3)
    monkeypatch.setattr(AuditEntry.objects, "record_unknown", failing)
    assert kind(ask(client)) == "rescue"


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch, settings: LazySettings) -> Iterator[None]:
    """A database that does not answer while the test runs."""
    release = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        release.wait(30)
        raise DatabaseError

    settings.RESCUESITE_BOOT_DEADLINE = 0.05
    monkeypatch.setattr(Machine.objects, "asking_as", hang)
    with ThreadPoolExecutor(deadline.THREADS) as pool:
        monkeypatch.setattr(deadline, "_pool", pool)
        yield
        release.set()


def test_a_database_that_hangs_is_not_waited_for(db: None, client: Client, hanging: None) -> None:
    response = client.get("/boot", {"mac": MAC})
    assert_valid(response)
    assert b"echo The rescue site cannot read its database" in response.content


def test_a_database_that_hangs_is_named_in_the_log(
    db: None, client: Client, hanging: None, caplog: pytest.LogCaptureFixture
) -> None:
    client.get("/boot", {"mac": MAC})
    assert "did not answer in time" in caplog.text


# Cost


@pytest.mark.parametrize("reason", ["unknown_mac", "no_rescue", "rescue_booting"])
def test_the_number_of_queries_does_not_grow(
    client: Client,
    machine: Machine,
    image: RescueImage,
    add_machine: Callable[[int], Machine],
    actor: Actor,
    reason: str,
) -> None:
    mac = UNKNOWN if reason == "unknown_mac" else MAC
    if reason == "rescue_booting":
        enable(machine)

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            ask(client, f"mac={mac}")
        assert boots()[-1].reason == reason
        return len(queries)

    with at(noon()):
        for _ in range(2):
            ask(client, f"mac={mac}")
        before = cost()
        for number in range(20):
            other = add_machine(number)
            if reason == "rescue_booting":
                enable(other)
        for number in range(10):
            machine.add_mac(f"52:54:00:01:00:{number:02x}")
            machine.allowed_networks.create(network=f"192.0.2.{number}")
        assert cost() == before


def test_an_answer_costs_few_queries(client: Client, machine: Machine, image: RescueImage) -> None:
    enable(machine)
    ask(client)
    with CaptureQueriesContext(connection) as queries:
        ask(client)
    assert len(queries) <= 14


# Health


def test_healthz_answers_without_a_database(client: Client) -> None:
    response = client.get("/healthz", HTTP_HOST="any")
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_readyz_answers_with_a_database(db: None, client: Client) -> None:
    response = client.get("/readyz", HTTP_HOST="any")
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_readyz_says_that_the_database_is_down(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("gone")

    monkeypatch.setattr("machines.boot.views.MigrationExecutor", failing)
    assert client.get("/readyz").status_code == 503
