"""manage.py token add|list|revoke: add, list and revoke API tokens."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from machines.management.terminal import (
    TerminalCommand,
    actor_named,
    add_action,
    add_by_option,
    add_json_option,
    moment,
    table,
    user_named,
)
from machines.models import APIToken
from machines.representation import iso


class Command(TerminalCommand):
    help = "Add, list and revoke API tokens. A program with a token has the permissions of the token's user."

    def add_actions(self, actions: Any) -> None:
        add = add_action(actions, "add", self.add, "make a token and print it once")
        add.add_argument("--expires", metavar="TIME", help="such as 2026-12-24T18:00 (default: never)")
        listing = add_action(actions, "list", self.list, "list the names of the tokens")
        revoke = add_action(actions, "revoke", self.revoke, "revoke a token")
        for parser in (add, revoke):
            parser.add_argument("user", metavar="USER")
            parser.add_argument("name", metavar="NAME", help="name of the token")
            add_by_option(parser)
        for parser in (add, listing, revoke):
            add_json_option(parser)

    def add(self, **options: Any) -> None:
        user = user_named(options["user"])
        expires_at = moment(options["expires"]) if options["expires"] else None
        token, clear = APIToken.objects.make(user, options["name"], expires_at, actor=actor_named(options["by"]))
        # Only the token goes to standard output, so that scripts can store it in a variable.
        self.show(_json(token) | {"token": clear}, clear, options)

    def list(self, **options: Any) -> None:
        tokens = list(APIToken.objects.select_related("user"))
        rows = [
            [
                token.user.get_username(),
                token.name,
                f"{token.created_at:%Y-%m-%d}",
                f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never",
                f"{token.expires_at:%Y-%m-%d %H:%M}" if token.expires_at else "-",
            ]
            for token in tokens
        ]
        heads = ["USER", "NAME", "MADE", "LAST USED", "EXPIRES"]
        self.show([_json(token) for token in tokens], table(rows, heads), options)

    def revoke(self, **options: Any) -> None:
        user = user_named(options["user"])
        token = APIToken.objects.select_related("user").filter(user=user, name=options["name"]).first()
        if token is None:
            raise CommandError(f"{user} has no token “{options['name']}”. “manage.py token list” shows them.")
        shown = _json(token)
        token.delete_audited(actor_named(options["by"]))
        self.show(shown, f"The token “{token.name}” of {user} is revoked.", options)


def _json(token: APIToken) -> dict[str, Any]:
    return {
        "user": token.user.get_username(),
        "name": token.name,
        "created_at": iso(token.created_at),
        "last_used_at": iso(token.last_used_at),
        "expires_at": iso(token.expires_at),
    }
