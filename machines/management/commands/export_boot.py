"""manage.py export_boot DIR: boot scripts as files, for a plain web, FTP or TFTP server."""

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

#: Seconds between two looks of --watch.
_POLL = 5
#: Seconds after which --watch looks through the folder though nothing changed.
_RECHECK = 300
#: So many file names an audit entry holds.
_NAMED = 50


class Command(BaseCommand):
    help = (
        "Write one iPXE script for each MAC address, and a default, for machines that a plain web, FTP or TFTP server "
        "answers. Run it again after each change, or let it --watch."
    )

    _warned: Sequence[str] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", metavar="DIR", type=Path, help="made if it is missing; files of others stay")
        parser.add_argument(
            "--files",
            action="store_true",
            help="copy what a rescue boots too, so that the firmware need not reach the site; a rescue then starts at "
            "each power-on until it is disabled, whoever asks",
        )
        parser.add_argument("--watch", action="store_true", help="go on until interrupted, and follow each change")
        add_json_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.RESCUESITE_BASE_URL_GIVEN:
            self._warn(
                f"Machines in rescue are sent on to {settings.RESCUESITE_BASE_URL}; "
                "set RESCUESITE_BASE_URL if they cannot reach that."
            )
        with contextlib.suppress(KeyboardInterrupt):
            if options["watch"]:
                self._watch(**options)
            elif foreign := self._publish(self._scripts(**options), **options).foreign:
                raise CommandError(f"{len(foreign)} files of others were left as they are, see above.")

    def _watch(self, **options: Any) -> None:
        latest, again = None, 0.0
        while True:
            try:
                export = self._scripts(**options)
                # Now and then in any case: somebody may have removed a file.
                if export != latest or time.monotonic() >= again:
                    self._publish(export, **options)
                    latest, again = export, time.monotonic() + _RECHECK
            except (CommandError, Error) as error:
                # The scripts that are there go on answering; what changed is written once this is over.
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
        in_the_way = "not written by export_boot, or edited since; left as it is. Move it away."
        self._warn_once([*export.warnings, *(f"{folder / name}: {in_the_way}" for name in changes.foreign)])
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
        """Say what was not said the last time."""
        for warning in warnings:
            if warning not in self._warned:
                self._warn(warning)
        self._warned = warnings

    def _warn(self, text: str) -> None:
        self.stderr.write(self.style.WARNING(printable(f"Warning: {text}")))
