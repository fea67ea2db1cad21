"""manage.py flash_rom: have a card's flash chip saved, written or restored."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import models

from machines.management.terminal import actor_named, machine_named, printable
from roms.management.terminal import JobCommand, card_named
from roms.models import Build, FlashJob, FlashKind, Station


class Command(JobCommand):
    help = "Have a built ROM written into a card's flash chip, at a station; or only save, or restore what was saved."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("build", nargs="?", type=int, metavar="BUILD", help="the number of the build to write")
        what.add_argument("--restore", type=int, metavar="JOB", help="write back what this flash job has saved")
        what.add_argument("--save", action="store_true", help="only save what is in the chip")
        parser.add_argument("--station", help="where the card is plugged in (default: local, or as --restore's job)")
        parser.add_argument("--slot", help="like 0000:03:00.0; needed where there are several such cards")
        parser.add_argument("--machine", metavar="NAME", help="whose card it is; none: it is not installed")
        parser.add_argument("--card", metavar="KEY", help="like 8086:1229, or practice (default: the build's)")
        parser.add_argument("--chip", metavar="NAME", help="only where flashrom found several to choose from")
        parser.add_argument(
            "--confirm", metavar="NAME", help="the machine's name, or the station's; without it you are asked"
        )
        super().add_arguments(parser)

    def submit(self, options: dict[str, Any]) -> FlashJob:
        job = self._job(options)
        # Nobody is asked to confirm what is not possible.
        job.full_clean()
        typed = options["confirm"] if options["confirm"] is not None else self._ask(job)
        return job.submit_confirmed(actor_named(options["by"]), typed)

    def _job(self, options: dict[str, Any]) -> FlashJob:
        if options["restore"] is not None:
            saved: FlashJob = _existing(FlashJob, options["restore"])
            job = saved.restoring()
        elif options["save"]:
            job = FlashJob(action=FlashKind.SAVE)
        else:
            build: Build = _existing(Build, options["build"])
            job = FlashJob(action=FlashKind.FLASH, build=build, card=build.card)
        if options["station"] or job.station_id is None:
            job.station = _station(options["station"] or "local")
        if options["card"]:
            job.card = card_named(options["card"])
        if job.card_id is None:
            raise CommandError("Name the card with --card.")
        if options["machine"]:
            job.machine = machine_named(options["machine"])
        for name, option in {"slot": "slot", "chip_name": "chip"}.items():
            if options[option] is not None:
                setattr(job, name, options[option])
        return job

    def _ask(self, job: FlashJob) -> str:
        if not sys.stdin.isatty():
            raise CommandError(f"Confirm it with --confirm {job.confirmation}")
        what = {
            FlashKind.FLASH: f"This writes {job.build} into",
            FlashKind.RESTORE: f"This writes what flash job {job.restores_id} has saved "
            f"({job.restored_description()}) into",
            FlashKind.SAVE: "This saves what is in",
        }[FlashKind(job.action)]
        whose = f"of the machine {job.machine.name}, " if job.machine else ""
        where = f" in the slot {job.slot}" if job.slot else ""
        text = f"{what} the flash chip of a {job.card}, {whose}at the station {job.station.name}{where}."
        self.stderr.write(printable(text), str)
        self.stderr.write(f"Type {job.confirmation} to confirm: ", str, ending="")
        self.stderr.flush()
        return sys.stdin.readline()

    def told(self, job: FlashJob) -> str:
        lines = [f"Flash job {job.pk} is {job.status_at()}."]
        if job.backup_sha256:
            lines.append(f"Saved what was in the chip: {job.backup_description}, SHA-256 {job.backup_sha256}")
        if job.written_sha256:
            lines.append(f"{'Wrote' if job.wrote else 'The chip held already'}: SHA-256 {job.written_sha256}")
        if job.choices.get("chips"):
            lines.append("Choose with --chip: " + ", ".join(job.choices["chips"]))
        if job.choices.get("slots"):
            lines.append("Choose with --slot: " + ", ".join(one["slot"] for one in job.choices["slots"]))
        return "\n".join(lines)


def _existing(model: type[Any], pk: int) -> Any:
    job: models.Model | None = model.objects.filter(pk=pk).first()
    if job is None:
        what = "builds" if model is Build else "flashes"
        raise CommandError(f"There is no {model.kind} {pk}. “manage.py rom {what}” shows them.")
    return job


def _station(name: str) -> Station:
    station = Station.objects.filter(name=name).first()
    if station is None:
        raise CommandError(f"There is no station “{name}”. A worker makes it: “manage.py worker --station {name}”.")
    return station
