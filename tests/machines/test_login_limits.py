"""Log-ins that fail are counted by address; tokens have a rate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_address
from threading import Event, Lock
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import Client
from django.utils import timezone

from machines.models import APIToken, AuditEntry, LoginFailure
from machines.models.login_failure import ALLOWED, MAX_ADDRESSES, WINDOW
from rescuesite import environment
from rescuesite.api.throttling import TokenThrottle

LOGIN = "/admin/login/"
HERE = ip_address("127.0.0.1")


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_superuser("alice", password="right")


def log_in(client: Client, password: str, **extra: Any) -> Any:
    return client.post(LOGIN, {"username": "alice", "password": password}, **extra)


def fail(times: int) -> None:
    for _ in range(times):
        LoginFailure.objects.reserve(HERE)


def test_after_too_many_failures_not_even_the_right_password_is_looked_at(client: Client, user: User) -> None:
    for _ in range(ALLOWED):
        assert log_in(client, "wrong").status_code == 200
    refused = log_in(client, "right")
    assert "Too many failed logins from your address. Try again in 10 minutes." in refused.content.decode()
    assert "_auth_user_id" not in client.session


def test_one_failure_less_keeps_nobody_out(client: Client, user: User) -> None:
    fail(ALLOWED - 1)
    assert log_in(client, "right").status_code == 302


def test_whoever_waits_may_log_in_again(client: Client, user: User) -> None:
    fail(ALLOWED)
    LoginFailure.objects.update(since=timezone.now() - WINDOW)
    assert log_in(client, "right").status_code == 302


def test_waiting_is_not_made_longer_by_trying(client: Client, user: User) -> None:
    fail(ALLOWED)
    before = LoginFailure.objects.get().since
    log_in(client, "wrong")
    assert (LoginFailure.objects.get().since, LoginFailure.objects.get().count) == (before, ALLOWED)


def test_another_address_is_not_kept_out(client: Client, user: User) -> None:
    fail(ALLOWED)
    assert log_in(client, "right", REMOTE_ADDR="192.0.2.7").status_code == 302


def test_what_a_stranger_forwards_is_not_believed(client: Client, user: User) -> None:
    fail(ALLOWED)
    assert log_in(client, "right", HTTP_X_FORWARDED_FOR="192.0.2.7").status_code == 200


def test_addresses_of_one_ipv6_network_are_one(db: None) -> None:
    for number in range(ALLOWED):
        LoginFailure.objects.reserve(ip_address(f"2001:db8::{number:x}"))
    assert LoginFailure.objects.wait(ip_address("2001:db8::ffff"))
    assert not LoginFailure.objects.wait(ip_address("2001:db8:0:1::1"))


def test_the_audit_log_tells_once_of_an_address_that_has_to_wait(client: Client, user: User) -> None:
    for _ in range(ALLOWED + 3):
        log_in(client, "wrong")
    entry = AuditEntry.objects.get(action="logins_blocked")
    assert (entry.source, entry.details["failures"]) == ("127.0.0.1", ALLOWED)


def test_what_is_over_is_forgotten(db: None) -> None:
    old = timezone.now() - WINDOW - timedelta(seconds=1)
    LoginFailure.objects.reserve(ip_address("192.0.2.1"), old)
    LoginFailure.objects.reserve(ip_address("192.0.2.2"))
    assert [failure.address for failure in LoginFailure.objects.all()] == ["192.0.2.2"]


def test_so_many_addresses_are_remembered_and_no_more(db: None) -> None:
    now = timezone.now()
    LoginFailure.objects.bulk_create(
        LoginFailure(address=f"10.0.{n // 256}.{n % 256}", since=now - timedelta(milliseconds=n + 1), count=1)
        for n in range(MAX_ADDRESSES)
    )
    LoginFailure.objects.reserve(HERE, now)
    assert LoginFailure.objects.count() == MAX_ADDRESSES
    assert LoginFailure.objects.filter(address=str(HERE)).exists()


@pytest.mark.django_db(transaction=True)
def test_failures_at_one_moment_are_all_counted() -> None:
    def reserve(_: int) -> None:
        try:
            LoginFailure.objects.reserve(HERE)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(reserve, range(8)))
    assert LoginFailure.objects.get().count == 8


@pytest.mark.django_db(transaction=True)
def test_of_many_passwords_tried_at_one_moment_no_more_are_looked_at_than_of_as_many_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients = ALLOWED + 5
    counted, lock, all_have_come = [0, 0], Lock(), Event()

    def count(which: int) -> None:
        with lock:
            counted[which] += 1
            if sum(counted) == clients:
                all_have_come.set()

    def authenticate(*_: Any, **__: Any) -> None:
        count(0)
        # Hashing a password takes a while; here, until everybody has had the chance.
        all_have_come.wait(60)

    def try_one(number: int) -> None:
        try:
            if "Too many failed logins" in log_in(Client(), f"wrong-{number}").content.decode():
                count(1)
        finally:
            connection.close()

    monkeypatch.setattr("django.contrib.auth.forms.authenticate", authenticate)
    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(try_one, range(clients)))
    assert counted == [ALLOWED, clients - ALLOWED]
    assert AuditEntry.objects.filter(action="logins_blocked").count() == 1


def test_log_ins_that_work_are_not_counted(client: Client, user: User) -> None:
    for _ in range(ALLOWED + 1):
        assert log_in(Client(), "right").status_code == 302
    assert LoginFailure.objects.get().count == 0


def test_a_log_in_that_works_forgives_no_failure(client: Client, user: User) -> None:
    fail(3)
    log_in(client, "right")
    assert LoginFailure.objects.get().count == 3


# Tokens


def ask(client: Client, token: str) -> Any:
    return client.get("/api/", headers={"Authorization": f"Token {token}"})


def test_tokens_that_do_not_work_are_throttled_by_address(client: Client, user: User) -> None:
    assert {ask(client, "rs_guess").status_code for _ in range(ALLOWED)} == {401}
    throttled = ask(client, "rs_guess")
    assert throttled.status_code == 429
    assert 0 < int(throttled["Retry-After"]) <= WINDOW.total_seconds()
    assert "Too many failed logins from this address." in throttled.json()["detail"]


def test_a_token_that_works_does_so_whatever_others_at_its_address_do(client: Client, user: User) -> None:
    _, token = APIToken.objects.make(user, "program")
    fail(ALLOWED)
    assert ask(client, token).status_code == 200


def test_a_token_has_a_rate_of_its_own(client: Client, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.clear()
    monkeypatch.setattr(TokenThrottle, "THROTTLE_RATES", {"token": "2/min"})
    (_, first), (_, second) = (APIToken.objects.make(user, name) for name in ("first", "second"))
    assert [ask(client, first).status_code for _ in range(3)] == [200, 200, 429]
    assert ask(client, second).status_code == 200
    client.force_login(user)
    assert {client.get("/api/").status_code for _ in range(4)} == {200}


def test_boot_requests_are_never_throttled(client: Client, user: User) -> None:
    fail(ALLOWED)
    assert client.get("/boot", {"mac": "00:02:b3:9d:94:8c"}).status_code == 200


@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5", "12/min"])
def test_a_rate_that_is_none_stops_the_start(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCUESITE_API_RATE", value)
    with pytest.raises(ImproperlyConfigured, match="expected a number of requests per minute"):
        environment.api_rate()


def test_the_rate_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCUESITE_API_RATE", "30")
    assert environment.api_rate() == "30/min"
