"""API tokens: made once, kept as hashes, good for what their users may do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import OperationalError, models
from django.test import Client
from django.utils import timezone

from machines.models import Actor, APIToken, AuditEntry
from tests.machines.support import at, noon

ADD, LIST = "/admin/machines/apitoken/add/", "/admin/machines/apitoken/"


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_user("ada", is_staff=True)


@pytest.fixture
def bob(client: Client, db: None) -> User:
    """A staff user, logged in."""
    bob = User.objects.create_user("bob", is_staff=True)
    client.force_login(bob)
    return bob


def ask(header: str) -> Any:
    """What the API says to a header, in a client without a session."""
    return Client().get("/api/", headers={"authorization": header})


# The token


def test_a_token_is_made_with_a_clear_text_of_256_bits_that_is_not_stored(ada: User) -> None:
    token, clear = APIToken.objects.make(ada, "backup")
    assert clear.startswith("rs_")
    assert len(clear) == 3 + 43
    stored = " ".join(map(str, APIToken.objects.filter(pk=token.pk).values().get().values()))
    assert clear not in stored
    assert clear.removeprefix("rs_") not in stored


def test_a_token_is_made_with_an_audit_entry_that_does_not_tell_it(ada: User) -> None:
    APIToken.objects.make(ada, "backup", actor=Actor("root", source="192.0.2.1"))
    entry = AuditEntry.objects.get(action="token_added")
    assert (entry.actor, entry.source, entry.subject) == ("root", "192.0.2.1", "backup")
    assert entry.details == {"user": "ada", "name": "backup", "expires_at": None}


def test_a_token_that_is_deleted_leaves_an_audit_entry(ada: User) -> None:
    token, clear = APIToken.objects.make(ada, "backup")
    token.delete_audited(Actor("root"))
    assert AuditEntry.objects.get(action="token_deleted").details["user"] == "ada"
    assert ask(f"Token {clear}").status_code == 401


def test_no_two_tokens_of_a_user_have_one_name(ada: User) -> None:
    APIToken.objects.make(ada, "backup")
    with pytest.raises(ValidationError, match="with this name already exists"):
        APIToken.objects.make(ada, "backup")
    assert AuditEntry.objects.filter(action="token_added").count() == 1


def test_a_new_token_does_not_expire_in_the_past(ada: User) -> None:
    with pytest.raises(ValidationError, match="in the past"):
        APIToken.objects.make(ada, "backup", timezone.now() - timedelta(seconds=1))


# Asking with it


@pytest.mark.parametrize("keyword", ["Token", "token", "Bearer", "bearer"])
def test_a_request_with_a_token_is_its_users(keyword: str, ada: User) -> None:
    _, clear = APIToken.objects.make(ada, "backup")
    assert ask(f"{keyword} {clear}").status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "Token",
        "Token a b",
        "Token rs_",
        "Token rs_\xff\xfe",
        "Bearer rs_" + "x" * 43,
        "Token rs_" + "x" * 5000,
        "Basic YWRhOmFkYQ==",
        "",
    ],
)
def test_what_is_no_token_is_refused_with_how_to_ask(header: str, ada: User) -> None:
    APIToken.objects.make(ada, "backup")
    response = ask(header)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == 'Token realm="api"'
    assert list(response.json()) == ["detail"]


def test_the_hash_is_no_token(ada: User) -> None:
    token, _ = APIToken.objects.make(ada, "backup")
    assert ask(f"Token {token.digest}").status_code == 401
    assert ask(f"Token rs_{token.digest}").status_code == 401


def test_the_token_of_a_user_who_is_not_active_does_not_work(ada: User) -> None:
    _, clear = APIToken.objects.make(ada, "backup")
    User.objects.filter(pk=ada.pk).update(is_active=False)
    assert ask(f"Token {clear}").status_code == 401


def test_a_token_works_until_it_expires(ada: User) -> None:
    with at(noon()):
        _, clear = APIToken.objects.make(ada, "backup", noon(hours=1))
    with at(noon(minutes=59)):
        assert ask(f"Token {clear}").status_code == 200
    with at(noon(hours=1)):
        assert ask(f"Token {clear}").status_code == 401


def test_a_token_needs_no_csrf_token(admin_user: User) -> None:
    _, clear = APIToken.objects.make(admin_user, "backup")
    client = Client(enforce_csrf_checks=True)
    response = client.post("/api/rom-builds/", {}, "application/json", headers={"authorization": f"Token {clear}"})
    assert response.status_code == 400


def test_when_it_was_used_last_is_written_once_a_minute(ada: User) -> None:
    token, clear = APIToken.objects.make(ada, "backup")
    used = []
    for seconds in (0, 59, 61):
        with at(noon(seconds=seconds)):
            ask(f"Token {clear}")
        token.refresh_from_db()
        used.append(token.last_used_at)
    assert used == [noon(), noon(), noon(seconds=61)]


def test_who_asks_is_answered_although_the_use_cannot_be_written(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    _, clear = APIToken.objects.make(ada, "backup")

    def locked(*args: Any, **kwargs: Any) -> int:
        raise OperationalError("database is locked")

    monkeypatch.setattr(models.QuerySet, "update", locked)
    assert ask(f"Token {clear}").status_code == 200


# The admin's page


def test_a_token_is_shown_once_after_it_was_added(client: Client, bob: User) -> None:
    response = client.post(ADD, {"name": "backup"})
    token = APIToken.objects.get()
    clear = response.context["clear"]
    assert (token.user, token.name) == (bob, "backup")
    assert clear in response.content.decode()
    assert "no-store" in response["Cache-Control"]
    assert ask(f"Token {clear}").status_code == 200
    for page in (LIST, f"{LIST}{token.pk}/change/", "/admin/"):
        assert clear not in client.get(page).content.decode()


def test_adding_in_the_admin_leaves_one_entry_that_does_not_tell_the_token(client: Client, bob: User) -> None:
    clear = client.post(ADD, {"name": "backup"}).context["clear"]
    entry = AuditEntry.objects.get(action__contains="token")
    assert (entry.action, entry.actor, entry.source) == ("token_added", "bob", "127.0.0.1")
    assert clear not in str(entry.details) + str(list(LogEntry.objects.values()))


def test_a_name_that_is_taken_is_refused_in_the_admin(client: Client, bob: User) -> None:
    client.post(ADD, {"name": "backup"})
    response = client.post(ADD, {"name": "backup"})
    assert response.status_code == 200
    assert "with this name already exists" in response.content.decode()


def test_staff_make_tokens_for_nobody_else(client: Client, bob: User, ada: User) -> None:
    client.post(ADD, {"name": "backup", "user": ada.pk})
    assert APIToken.objects.get().user == bob


def test_staff_neither_see_nor_delete_the_tokens_of_others(client: Client, bob: User, ada: User) -> None:
    token, _ = APIToken.objects.make(ada, "hers-alone")
    assert "hers-alone" not in client.get(LIST).content.decode()
    assert client.post(f"{LIST}{token.pk}/delete/", {"post": "yes"}).status_code in {302, 403}
    client.post(LIST, {"action": "delete_selected", "_selected_action": token.pk, "post": "yes"})
    assert APIToken.objects.filter(pk=token.pk).exists()


def test_who_is_not_on_the_staff_does_not_come_to_the_page(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("eve"))
    assert client.get(LIST).status_code == 302
    assert client.post(ADD, {"name": "x"}).status_code == 302
    assert not APIToken.objects.exists()


def test_a_superuser_makes_tokens_for_programs_and_sees_all(admin_client: Client, ada: User) -> None:
    admin_client.post(ADD, {"name": "backup", "user": ada.pk})
    token = APIToken.objects.get()
    assert token.user == ada
    assert AuditEntry.objects.get(action="token_added").actor == "admin"
    assert "backup" in admin_client.get(LIST).content.decode()


@pytest.mark.parametrize("how", ["page", "action"])
def test_a_superuser_deletes_any_token(how: str, admin_client: Client, ada: User) -> None:
    token, _ = APIToken.objects.make(ada, "backup")
    if how == "page":
        admin_client.post(f"{LIST}{token.pk}/delete/", {"post": "yes"})
    else:
        admin_client.post(LIST, {"action": "delete_selected", "_selected_action": token.pk, "post": "yes"})
    assert not APIToken.objects.exists()
    assert [entry.actor for entry in AuditEntry.objects.filter(action__contains="token_deleted")] == ["admin"]


def test_a_token_is_not_changed(admin_client: Client, ada: User) -> None:
    token, _ = APIToken.objects.make(ada, "backup")
    assert admin_client.post(f"{LIST}{token.pk}/change/", {"name": "other", "user": ada.pk}).status_code == 403


def test_the_list_costs_as_many_queries_for_many_tokens(
    client: Client, bob: User, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    for n in range(20):
        APIToken.objects.make(bob, f"program {n}")
    with django_assert_max_num_queries(8):
        client.get(LIST)
