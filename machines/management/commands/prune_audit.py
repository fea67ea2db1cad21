"""manage.py prune_audit: remove old audit entries, and files that nothing boots any more."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from machines.management.terminal import actor_named
from machines.models import AuditEntry, Rescue, StoredFile


class Command(BaseCommand):
    help = "Remove audit entries older than so many days, and files that no image and no rescue uses any more."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--days", type=int, default=400, help="keep this many days (default: %(default)s)")

    def handle(self, *args: Any, days: int, **options: Any) -> None:
        if days < 1:
            raise CommandError("Keep one day at least.")
        ended = Rescue.objects.end_expired()
        entries = AuditEntry.objects.prune(timezone.now() - timedelta(days=days), actor_named(None))
        files = StoredFile.objects.discard_unused()
        self.stdout.write(f"{entries} audit entries and {files} files removed, {ended} expired rescues ended.")
