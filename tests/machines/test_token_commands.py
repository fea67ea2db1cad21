"""manage.py token: API tokens at a terminal."""

from __future__ import annotations

from django.contrib.auth.models import User

from machines.models import APIToken, AuditEntry
from tests.machines.commands import ada, manage, manage_json
from tests.machines.support import at, noon

__all__ = ["ada"]


def test_a_token_is_printed_alone_listed_and_revoked(ada: User) -> None:
    clear = manage("token", "add", "ada", "deploy").strip()
    found = APIToken.objects.find(clear)
    assert found
    assert found.user == ada
    (listed,) = manage_json("token", "list")
    assert (listed["user"], listed["name"], listed["expires_at"]) == ("ada", "deploy", None)
    assert clear not in manage("token", "list")
    assert "is revoked" in manage("token", "revoke", "ada", "deploy")
    assert APIToken.objects.find(clear) is None
    assert [entry.action for entry in AuditEntry.objects.order_by("pk")] == ["token_added", "token_deleted"]


def test_a_token_may_expire(ada: User) -> None:
    with at(noon()):
        shown = manage_json("token", "add", "ada", "deploy", "--expires", "2026-03-01T14:00")
        assert shown["expires_at"] == "2026-03-01T14:00:00Z"
        assert APIToken.objects.find(shown["token"])
    with at(noon(hours=3)):
        assert APIToken.objects.find(shown["token"]) is None
