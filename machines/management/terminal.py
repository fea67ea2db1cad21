"""What the commands for people at a terminal share.

Their exit status: 0 where all went well, 1 where what was begun or waited for did not succeed, 2 where nothing was
done, as what was asked for is wrong, or cannot be now.
"""

from __future__ import annotations

import getpass
import json
import os
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from machines.models import Actor, Machine, RescueImage

NOT_SUCCEEDED = 1
NOT_DONE = 2


class NotSucceededError(CommandError):
    """What was waited for did not come."""

    def __init__(self, message: str) -> None:
        super().__init__(message, returncode=NOT_SUCCEEDED)


class TerminalCommand(BaseCommand):
    """A command with sub-commands, readable output, and the same as JSON on request."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        self.add_actions(actions)

    def add_actions(self, actions: Any) -> None:
        """Add a parser for each action, with its method as default `run`."""
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


def add_json_option(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def messages_of(error: ValidationError) -> Iterable[str]:
    """The error's texts, each with the field that it is about."""
    if not hasattr(error, "error_dict"):
        return error.messages
    return [
        text if field == "__all__" else f"{field}: {text}"
        for field, texts in error.message_dict.items()
        for text in texts
    ]


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Aligned columns, as `docker ps` prints them."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )


def printable(text: str) -> str:
    """Without control characters but line breaks: what NICs said must not drive the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def actor_named(username: str | None) -> Actor:
    """The actor of a command: the user it is done for, or whoever sits at the terminal."""
    if username is None:
        try:
            login = getpass.getuser()
        except (KeyError, OSError):
            login = str(os.getuid())
        return Actor(f"console:{login}"[:150])
    user = user_named(username)
    # Whoever sits at the terminal has all rights; the name is for the record.
    return Actor(user.get_username(), user.pk)


def user_named(username: str) -> Any:
    """Raises CommandError."""
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
    """A time as people write it, 2026-12-24 18:00 in the site's time zone, or ISO 8601. Raises CommandError."""
    try:
        # A bare date would silently mean its first moment.
        parsed = parse_datetime(text) if ":" in text else None
    except ValueError:
        parsed = None
    if parsed is None:
        raise CommandError(f"“{text}” is not a valid time; write it like 2026-12-24T18:00 or 2026-12-24T18:00+01:00.")
    return parsed if timezone.is_aware(parsed) else timezone.make_aware(parsed)
