"""manage.py flash_rom: save, write or restore the flash chip of a card."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from machines.management.terminal import actor_named, machine_named, printable
from roms.management.terminal import JobCommand, card_named, job_numbered
from roms.models import Build, FlashJob, FlashKind, Station


class Command(JobCommand):
    help = "Write a built ROM into the flash chip of a card, save the contents of the chip, or restore saved contents."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("build", nargs="?", type=int, metavar="BUILD", help="the number of the build to write")
        what.add_argument("--restore", type=int, metavar="JOB", help="write back what this flash job saved")
        what.add_argument("--save", action="store_true", help="only save the contents of the chip")
        parser.add_argument(
            "--station", help="the station with the card (default: local, or that of the saved contents)"
        )
        parser.add_argument("--slot", help="for example 0000:03:00.0; needed if the station has several such cards")
        parser.add_argument("--machine", metavar="NAME", help="the machine with the card (default: none)")
        parser.add_argument("--card", metavar="KEY", help="for example 8086:1229 or practice (default: the build's)")
        parser.add_argument("--chip", metavar="NAME", help="needed if flashrom found several definitions")
        confirm = "the machine's name, or the station's without a machine (default: ask)"
        parser.add_argument("--confirm", metavar="NAME", help=confirm)
        super().add_arguments(parser)

    def submit(self, options: dict[str, Any]) -> FlashJob:
        job = self._job(options)
        # Check the order before asking for the confirmation.
        job.full_clean()
        typed = options["confirm"] if options["confirm"] is not None else self._ask(job)
        return job.submit_confirmed(actor_named(options["by"]), typed)

    def _job(self, options: dict[str, Any]) -> FlashJob:
        if options["restore"] is not None:
            saved = job_numbered(FlashJob, options["restore"])
            job = saved.restoring()
        elif options["save"]:
            job = FlashJob(action=FlashKind.SAVE)
        else:
            build = job_numbered(Build, options["build"])
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
            raise CommandError(f"Confirm the job with --confirm {job.confirmation}")
        what = {
            FlashKind.FLASH: f"This writes {job.build} into",
            FlashKind.RESTORE: f"This writes the contents that flash job {job.restores_id} saved "
            f"({job.restored_description()}) into",
            FlashKind.SAVE: "This saves the contents of",
        }[FlashKind(job.action)]
        whose = f"of the machine {job.machine.name}, " if job.machine else ""
        where = f" in the slot {job.slot}" if job.slot else ""
        text = f"{what} the flash chip of a {job.card}, {whose}at the station {job.station.name}{where}."
        self.stderr.write(printable(text), str)
        self.stderr.write(f"Type {job.confirmation} to confirm: ", str, ending="")
        self.stderr.flush()
        return sys.stdin.readline()

    def summary(self, job: FlashJob) -> str:
        lines = [f"Flash job {job.pk} is {job.status_at()}."]
        if job.backup_sha256:
            lines.append(f"Saved contents: {job.backup_description}, SHA-256 {job.backup_sha256}")
        if job.written_sha256:
            lines.append(f"{'Wrote' if job.wrote else 'The chip already had'}: SHA-256 {job.written_sha256}")
        if job.choices.get("chips"):
            lines.append("Choose with --chip: " + ", ".join(job.choices["chips"]))
        if job.choices.get("slots"):
            lines.append("Choose with --slot: " + ", ".join(one["slot"] for one in job.choices["slots"]))
        return "\n".join(lines)


def _station(name: str) -> Station:
    station = Station.objects.filter(name=name).first()
    if station is None:
        raise CommandError(f"There is no station “{name}”. A worker creates it: “manage.py worker --station {name}”.")
    return station
