"""manage.py export_boot DIR: write boot scripts as files for a plain web, FTP or TFTP server."""

from __future__ import annotations

import contextlib
import json
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, close_old_connections

from machines.boot_export.folder import Changes, ExportFolderError, publish
from machines.boot_export.scripts import BootExport, boot_export
from machines.management.terminal import actor_named, add_json_option, printable
from machines.models import AuditEntry

#: Seconds between two checks of --watch.
_POLL = 5
#: Seconds after which --watch checks the folder even if nothing has changed.
_RECHECK = 300
#: The number of file names in an audit entry.
_NAMED = 50


class Command(BaseCommand):
    help = (
        "Write an iPXE script for each MAC address and a default script, for machines that use a plain web, FTP or "
        "TFTP server. Run it again after each change, or use --watch."
    )

    _warned: Sequence[str] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", metavar="DIR", type=Path, help="created if missing; other files are kept")
        parser.add_argument(
            "--files",
            action="store_true",
            help="also copy the files of each rescue, so that the firmware does not need the site; a rescue then "
            "starts at each power-on until it is disabled, and nothing verifies the machine",
        )
        parser.add_argument("--watch", action="store_true", help="run until interrupted and export each change")
        add_json_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.RESCUESITE_BASE_URL_GIVEN:
            self._warn(
                f"The scripts send machines in rescue to {settings.RESCUESITE_BASE_URL}. "
                "Set RESCUESITE_BASE_URL if they cannot reach it."
            )
        with contextlib.suppress(KeyboardInterrupt):
            if options["watch"]:
                self._watch(**options)
            elif foreign := self._publish(self._scripts(**options), **options).foreign:
                raise CommandError(f"{len(foreign)} existing files were not replaced, see above.")

    def _watch(self, **options: Any) -> None:
        latest, again = None, 0.0
        while True:
            try:
                export = self._scripts(**options)
                # Also export from time to time without a change: somebody may have removed a file.
                if export != latest or time.monotonic() >= again:
                    self._publish(export, **options)
                    latest, again = export, time.monotonic() + _RECHECK
            except (CommandError, Error) as error:
                # The existing scripts stay. The next run writes the changes.
                self._warn_once([str(error)])
                latest = None
            time.sleep(_POLL)
            close_old_connections()

    def _scripts(self, **options: Any) -> BootExport:
        return boot_export(settings.RESCUESITE_BASE_URL, with_files=options["files"])

    def _publish(self, export: BootExport, **options: Any) -> Changes:
        folder = options["folder"]
        try:
            changes = publish(export, folder)
        except ExportFolderError as error:
            raise CommandError(str(error)) from error
        if changes.written or changes.removed:
            self._record(folder, export, changes)
        if changes.written or changes.removed or not options["watch"]:
            self._show(export, changes, as_json=options["json"])
        not_replaced = "was not written by export_boot or was edited, so it was not replaced. Move it away."
        self._warn_once([*export.warnings, *(f"{folder / name} {not_replaced}" for name in changes.foreign)])
        return changes

    def _record(self, folder: Path, export: BootExport, changes: Changes) -> None:
        AuditEntry.objects.record(
            "boot_exported",
            actor=actor_named(None),
            subject=str(folder)[-150:],
            details={
                "written": changes.written[:_NAMED],
                "removed": changes.removed[:_NAMED],
                "changed": len(changes.written) + len(changes.removed),
                "in_rescue": export.in_rescue[:_NAMED],
            },
        )

    def _show(self, export: BootExport, changes: Changes, *, as_json: bool) -> None:
        if as_json:
            shown = {
                "written": changes.written,
                "removed": changes.removed,
                "unchanged": changes.unchanged,
                "foreign": changes.foreign,
                "in_rescue": export.in_rescue,
                "warnings": export.warnings,
            }
            self.stdout.write(json.dumps(shown, indent=2))
            return
        rescued = f"; in rescue: {', '.join(export.in_rescue)}" if export.in_rescue else ""
        self.stdout.write(
            f"{len(changes.written)} written, {len(changes.removed)} removed, {changes.unchanged} unchanged{rescued}."
        )

    def _warn_once(self, warnings: list[str]) -> None:
        """Print the warnings that were not printed the last time."""
        for warning in warnings:
            if warning not in self._warned:
                self._warn(warning)
        self._warned = warnings

    def _warn(self, text: str) -> None:
        self.stderr.write(self.style.WARNING(printable(f"Warning: {text}")))
