"""manage.py prune_audit: remove old audit entries and notifications, and unused files."""

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from machines.management.terminal import NOT_DONE, actor_named, add_json_option
from machines.models import AuditEntry, Delivery, Rescue, StoredFile

#: Notifications can be removed earlier, because the audit log contains the same events.
_MESSAGES_KEPT = timedelta(days=90)


class Command(BaseCommand):
    help = (
        "Remove audit entries that are older than --days, notifications that are older than 90 days, and files that no "
        "image and no rescue uses."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--days", type=int, default=400, help="keep this many days (default: %(default)s)")
        add_json_option(parser)

    def handle(self, *args: Any, days: int, **options: Any) -> None:
        if days < 1:
            raise CommandError("Keep at least one day.", returncode=NOT_DONE)
        ended = Rescue.objects.end_expired()
        before = timezone.now() - timedelta(days=days)
        entries = AuditEntry.objects.prune(before, actor_named(None))
        messages = Delivery.objects.prune(max(before, timezone.now() - _MESSAGES_KEPT))
        files = StoredFile.objects.discard_unused()
        if options["json"]:
            done = {"audit_entries": entries, "notifications": messages, "files": files, "rescues_ended": ended}
            self.stdout.write(json.dumps(done, indent=2))
            return
        self.stdout.write(
            f"{entries} audit entries, {messages} notifications and {files} files removed, "
            f"{ended} expired rescues ended."
        )
