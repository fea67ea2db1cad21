"""manage.py export_machines: write all machines as a table for import_machines."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from machines.import_export.exporting import table
from machines.models import Machine


class Command(BaseCommand):
    help = "Write all machines as a CSV file that import_machines can read."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        lines = "".join(table(Machine.objects.for_lists()))
        if options["file"] == "-":
            self.stdout.write(lines, ending="")
            return
        try:
            Path(options["file"]).write_text(lines, encoding="utf-8", newline="")
        except OSError as error:
            raise CommandError(f"Cannot write {options['file']}: {error.strerror}.") from error
