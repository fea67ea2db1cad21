"""manage.py worker: run builds and flash jobs, and deliver notifications."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from roms.models.station import LOCAL, Station
from roms.worker.worker import Worker


class Command(BaseCommand):
    help = (
        "Run builds, and the flash jobs of a station. A worker that runs builds also delivers notifications. "
        "“make run” starts one worker. You can start another worker on a host with cards."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--station", default=LOCAL, help="the station that this host is (default: local)")
        parser.add_argument("--no-flash", action="store_true", help="run builds only")
        parser.add_argument("--no-builds", action="store_true", help="run flash jobs only")

    def handle(self, *args: Any, **options: Any) -> None:
        station = None if options["no_flash"] else options["station"]
        if options["no_builds"] and not station:
            self.stderr.write("--no-flash and --no-builds together leave no work for the worker.")
            return
        if station:
            try:
                Station._meta.get_field("name").clean(station, None)
            except ValidationError as error:
                raise CommandError(
                    f"“{station[:60]}” is not a valid name for a station. {' '.join(error.messages)}"
                ) from error
        worker = Worker(builds=not options["no_builds"], station=station)
        worker.handle_signals()
        worker.run()
