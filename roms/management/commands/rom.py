"""manage.py rom cards|builds|flashes|…: show cards, jobs, stations and installed ROMs."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from machines.management.terminal import TerminalCommand, actor_named, add_json_option, table
from roms.api.serializers import CardSerializer, InstalledROMSerializer, StationSerializer
from roms.management.terminal import POLL, job_numbered, json_of, write_log
from roms.models import Build, Card, FlashJob, InstalledROM, Job, JobState, Station
from roms.toolchain.ipxe.cards import CardError
from roms.toolchain.ipxe.source import SourceError
from roms.worker.building import builder, load_cards

_KINDS: dict[str, type[Job]] = {"build": Build, "flash": FlashJob}


class Command(TerminalCommand):
    help = "Show cards, builds, flash jobs, stations and installed ROMs. Show or cancel one job."

    def add_actions(self, actions: Any) -> None:
        cards = actions.add_parser("cards", help="find cards")
        cards.add_argument("text", nargs="*", metavar="TEXT", help="words in the name, PCI ID, driver or programmer")
        cards.add_argument("--flashable", action="store_true", help="only cards that flashrom can write to")
        cards.set_defaults(run=self.cards)
        load = actions.add_parser("load-cards", help="add all cards that iPXE supports to the list of cards")
        load.set_defaults(run=self.load_cards)
        for name, run, what in (("builds", self.builds, "builds"), ("flashes", self.flashes, "flash jobs")):
            jobs = actions.add_parser(name, help=f"list {what}, newest first")
            jobs.add_argument("--state", action="append", choices=JobState.values, help="may be given several times")
            jobs.add_argument(
                "--limit", type=int, default=50, metavar="N", help="show at most this many (default: %(default)s)"
            )
            jobs.set_defaults(run=run)
            add_json_option(jobs)
        stations = actions.add_parser("stations", help="list stations, and whether they have a worker")
        stations.set_defaults(run=self.stations)
        installed = actions.add_parser("installed", help="list the ROMs in cards")
        installed.add_argument("--outdated", action="store_true", help="only ROMs whose script is outdated")
        installed.set_defaults(run=self.installed)
        show = actions.add_parser("show", help="show one job")
        show.set_defaults(run=self.show_one)
        log = actions.add_parser("log", help="print a job's log")
        log.add_argument("--follow", action="store_true", help="print the log until the job has finished")
        log.set_defaults(run=self.log)
        cancel = actions.add_parser("cancel", help="cancel a job")
        cancel.add_argument("--by", metavar="USER", help="the user who cancels the job, for the audit log")
        cancel.set_defaults(run=self.cancel)
        for parser in (show, log, cancel):
            _add_job(parser)
        for parser in (cards, stations, installed, show, cancel):
            add_json_option(parser)

    def cards(self, **options: Any) -> None:
        cards = Card.objects.named(" ".join(options["text"]))
        found = CardSerializer(cards.flashable() if options["flashable"] else cards, many=True).data
        rows = [
            [one["key"], one["driver"] or "-", one["programmer"] or "-", _size(one["chip_size"]), one["name"]]
            for one in found
        ]
        self.show(found, table(rows, ["CARD", "DRIVER", "PROGRAMMER", "CHIP", "NAME"]), options)

    def load_cards(self, **options: Any) -> None:
        maker = builder()
        try:
            commit = maker.source.obtain(log=self._say)
            maker.catalogue(commit)
        except (SourceError, CardError) as error:
            raise CommandError(str(error)) from error
        number = load_cards(maker, commit) or Card.objects.count()
        self.stdout.write(f"The list has {number} cards.")

    def _say(self, said: bytes) -> None:
        self.stderr.write(said.decode(errors="replace"), ending="")

    def builds(self, **options: Any) -> None:
        found = [json_of(build) for build in _jobs(Build, ["card"], options)]
        rows = [
            [str(one["id"]), _state(one), one["card"] or "all", one["target"], one["profile"], _size(one["size"]),
             one["created_at"][:16].replace("T", " "), one["requested_by"]]
            for one in found
        ]  # fmt: skip
        head = ["BUILD", "STATE", "CARD", "TARGET", "PROFILE", "SIZE", "CREATED (UTC)", "BY"]
        self.show(found, table(rows, head), options)

    def flashes(self, **options: Any) -> None:
        found = [json_of(job) for job in _jobs(FlashJob, ["card", "station"], options)]
        rows = [
            [str(one["id"]), _state(one), one["action"], str(one["build"] or one["restores"] or "-"), one["card"],
             one["station"], one["machine"] or "-", one["created_at"][:16].replace("T", " "), one["requested_by"]]
            for one in found
        ]  # fmt: skip
        head = ["FLASH", "STATE", "ACTION", "OF", "CARD", "STATION", "MACHINE", "CREATED (UTC)", "BY"]
        self.show(found, table(rows, head), options)

    def stations(self, **options: Any) -> None:
        found = StationSerializer(Station.objects.all(), many=True).data
        rows = [[one["name"], "yes" if one["has_worker"] else "no", one["seen_at"] or "never"] for one in found]
        self.show(found, table(rows, ["STATION", "WORKER", "LAST SEEN"]), options)

    def installed(self, **options: Any) -> None:
        ledger = InstalledROM.objects.outdated() if options["outdated"] else InstalledROM.objects.all()
        found = InstalledROMSerializer(ledger.with_outdated().select_related("machine", "card"), many=True).data
        rows = [
            [one["machine"] or "-", one["card"], f"build {one['build']}" if one["build"] else one["description"] or "-",
             "outdated" if one["outdated"] else "", one["since"][:10], one["by"]]
            for one in found
        ]  # fmt: skip
        self.show(found, table(rows, ["MACHINE", "CARD", "ROM", "", "SINCE", "BY"]), options)

    def show_one(self, **options: Any) -> None:
        shown = json_of(_job(options))
        lines = [[f"{name}:", str(value)] for name, value in shown.items() if value not in (None, "", [], {})]
        self.show(shown, table(lines, ["", ""]).strip("\n"), options)

    def log(self, **options: Any) -> None:
        job, offset = _job(options), 0
        while True:
            # Read the state before the log: the log of a finished job is then complete.
            finished = job.is_finished
            offset = write_log(job, self.stdout, offset)
            if finished or not options["follow"]:
                return
            self.stdout.flush()
            time.sleep(POLL)
            job.refresh_from_db()

    def cancel(self, **options: Any) -> None:
        job = _job(options)
        if job.is_finished or not job.cancel(actor_named(options["by"])):
            raise CommandError(f"{job.kind} {job.pk} has already finished: it is {job.status_at()}.")
        waiting = job.state == JobState.RUNNING
        text = "was asked to stop" if waiting else "is cancelled"
        self.show(json_of(job), f"{job.kind} {job.pk} {text}.", options)


def _add_job(parser: ArgumentParser) -> None:
    parser.add_argument("kind", choices=_KINDS, help="build or flash")
    parser.add_argument("job", type=int, metavar="NUMBER")


def _job(options: dict[str, Any]) -> Job:
    return job_numbered(_KINDS[options["kind"]], options["job"])


def _jobs(model: type[Job], related: Sequence[str], options: dict[str, Any]) -> Any:
    jobs = model.objects.select_related(*related)
    if options["state"]:
        jobs = jobs.with_status(*options["state"])
    return jobs[: max(0, options["limit"])]


def _state(job: dict[str, Any]) -> str:
    if job["state"] != JobState.RUNNING:
        return str(job["state"])
    return f"running: {job['phase']}" if job["phase"] else "running"


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size:,}"
