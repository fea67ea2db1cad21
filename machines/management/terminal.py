"""Functions and base classes of the commands for people at a terminal.

Exit status: 0 for success, 1 if the started or awaited action did not succeed, 2 if nothing was done because the
request is not valid or not possible now.
"""

from __future__ import annotations

import getpass
import json
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from machines.models import Actor, Machine, RescueImage
from machines.models.validation import messages_by_field

NOT_SUCCEEDED = 1
NOT_DONE = 2


class NotSucceededError(CommandError):
    """The awaited result did not occur."""

    def __init__(self, message: str) -> None:
        super().__init__(message, returncode=NOT_SUCCEEDED)


class TerminalCommand(BaseCommand):
    """A command with sub-commands. It prints text, or JSON on request."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        self.add_actions(actions)

    def add_actions(self, actions: Any) -> None:
        """Add the actions with `add_action`."""
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](**options)
        except ValidationError as error:
            raise CommandError("\n".join(messages_of(error)), returncode=NOT_DONE) from error
        except NotSucceededError:
            raise
        except CommandError as error:
            error.returncode = NOT_DONE
            raise

    def show(self, value: Any, text: str, options: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(value, indent=2) if options["json"] else printable(text))


def add_action(actions: Any, name: str, run: Callable[..., None], text: str) -> ArgumentParser:
    """Add an action that calls `run`. `text` is its help text."""
    parser: ArgumentParser = actions.add_parser(name, help=text)
    parser.set_defaults(run=run)
    return parser


def add_by_option(parser: ArgumentParser, text: str = "record this user as the actor in the audit log") -> None:
    parser.add_argument("--by", metavar="USER", help=text)


def add_json_option(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def messages_of(error: ValidationError) -> Iterable[str]:
    """Return the messages of an error, each with its field."""
    return [
        text if field == NON_FIELD_ERRORS else f"{field}: {text}"
        for field, texts in messages_by_field(error).items()
        for text in texts
    ]


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Return aligned columns, as `docker ps` prints them."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )


def printable(text: str) -> str:
    """Replace control characters except line breaks: values from network cards must not control the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def actor_named(username: str | None) -> Actor:
    """Return the actor of a command: the named user, or the login name of the terminal."""
    if username is None:
        try:
            login = getpass.getuser()
        except (KeyError, OSError):
            login = str(os.getuid())
        return Actor(f"console:{login}"[:150])
    user = user_named(username)
    # Commands have all permissions. The name is only for the audit log.
    return Actor(user.get_username(), user.pk)


def user_named(username: str) -> Any:
    """Return the user with this name. Raises CommandError."""
    user = get_user_model().objects.filter(username=username).first()
    if user is None:
        raise CommandError(f"There is no user “{username}”.")
    return user


def machine_named(name: str) -> Machine:
    machine = Machine.objects.filter(name__iexact=name).first()
    if machine is None:
        raise CommandError(f"There is no machine “{name}”. “manage.py machine list” shows them.")
    return machine


def image_named(name: str | None) -> RescueImage | None:
    if name is None:
        return None
    image = RescueImage.objects.filter(name=name).first()
    if image is None:
        raise CommandError(f"There is no image “{name}”. “manage.py image list” shows them.")
    return image


def moment(text: str) -> datetime:
    """Parse a time like 2026-12-24 18:00 (in the site's time zone) or in ISO 8601. Raises CommandError."""
    try:
        # A date without a time would mean midnight, which is seldom intended.
        parsed = parse_datetime(text) if ":" in text else None
    except ValueError:
        parsed = None
    if parsed is None:
        raise CommandError(f"“{text}” is not a valid time. Enter it like 2026-12-24T18:00 or 2026-12-24T18:00+01:00.")
    return parsed if timezone.is_aware(parsed) else timezone.make_aware(parsed)
