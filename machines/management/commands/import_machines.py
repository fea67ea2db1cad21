"""manage.py import_machines FILE: import machines from a table or an old rescue.php."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from machines.import_export.plan import Plan, apply, plan
from machines.import_export.reading import COLUMNS, read
from machines.import_export.rows import BulkError
from machines.management.terminal import NOT_DONE, actor_named, add_by_option, add_json_option, printable


class Command(BaseCommand):
    help = (
        "Add and change machines from a CSV file, or add the machines of an old rescue.php. If there is a problem, "
        "nothing is changed. The first line of the CSV file names its columns: "
        f"{', '.join(COLUMNS)}. A missing column keeps the values. An empty cell deletes the value. Separate several "
        "MACs or networks by spaces. Machines that are not in the file are not changed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="use - for standard input")
        parser.add_argument("--dry-run", action="store_true", help="show the changes and change nothing")
        add_by_option(parser)
        add_json_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        actor = actor_named(options["by"])
        try:
            contents = read(_contents(options["file"]))
            planned = plan(contents) if options["dry_run"] else apply(contents, actor)
        except BulkError as error:
            number = len(error.problems)
            count = "" if number == 1 else f" There are {number} problems."
            raise CommandError(printable(f"{error}\nNothing was changed.{count}"), returncode=NOT_DONE) from error
        if options["json"]:
            self.stdout.write(json.dumps(_json(planned), indent=2))
            return
        for remark in planned.remarks:
            self.stderr.write(printable(str(remark)))
        for change in planned.changes if options["dry_run"] else ():
            action = "add" if change.is_new else f"change {', '.join(change.differing)} of"
            self.stdout.write(printable(f"line {change.row.line}: {action} {change.after['name']}"))
        if options["dry_run"]:
            self.stdout.write(f"{planned}. Nothing was changed, because this was a dry run.")
        else:
            self.stdout.write(planned.done)


def _contents(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"Cannot read {name}: {error.strerror}.", returncode=NOT_DONE) from error


def _json(planned: Plan) -> dict[str, Any]:
    return {
        "added": [change.after["name"] for change in planned.added],
        "changed": {change.after["name"]: change.differing for change in planned.changed},
        "unchanged": planned.unchanged,
        "remarks": [{"line": remark.line, "text": remark.text} for remark in planned.remarks],
    }
