"""manage.py prune_jobs: remove old builds and flash jobs, and unused files."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from machines.management.terminal import NOT_DONE, actor_named, add_json_option
from machines.models import AuditEntry, StoredFile
from roms.models import Build, FlashJob


class Command(BaseCommand):
    help = (
        "Remove old builds and flash jobs, with their logs and ROMs. The command keeps jobs of installed ROMs, jobs "
        "that later jobs refer to, and flash jobs that saved the contents of a chip."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--days", type=int, default=400, help="keep jobs of the last DAYS days (default: %(default)s)"
        )
        parser.add_argument(
            "--saved-too",
            action="store_true",
            help="also remove flash jobs that saved the contents of a chip, with these contents",
        )
        add_json_option(parser)

    def handle(self, *args: Any, days: int, saved_too: bool, **options: Any) -> None:
        if days < 1:
            raise CommandError("--days must be at least 1.", returncode=NOT_DONE)
        before = timezone.now() - timedelta(days=days)
        # Flash jobs first: they protect their builds.
        flashes = (FlashJob.objects.all() if saved_too else FlashJob.objects.filter(backup=None)).prune(before)
        builds = Build.objects.prune(before)
        if flashes or builds:
            details = {"before": before.isoformat(), "builds": builds, "flash_jobs": flashes}
            AuditEntry.objects.record("jobs_pruned", actor=actor_named(None), details=details)
        files = StoredFile.objects.discard_unused()
        if options["json"]:
            self.stdout.write(json.dumps({"builds": builds, "flash_jobs": flashes, "files": files}, indent=2))
            return
        self.stdout.write(f"Removed {builds} builds, {flashes} flash jobs and {files} files.")
