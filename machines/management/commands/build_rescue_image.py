"""manage.py build_rescue_image: build a rescue system from Debian packages and make it the default image."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from machines.management.terminal import actor_named, add_by_option
from machines.models import ImageFile, RescueImage, StoredFile
from machines.models.image import Upload
from machines.rescue_system.build_folder import build_folder
from machines.rescue_system.builder import PROFILES, SPACE, Builder, BuildError, Built, Recipe
from rescuesite import disk_space

_CHUNK = 1 << 20


class Command(BaseCommand):
    help = "Build a rescue system from Debian packages and make it the default rescue image."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--suite", default=_own_suite(), help="Debian release (default: %(default)s)")
        parser.add_argument("--profile", choices=PROFILES, default="full", help="small needs 768 MB (default: full)")
        parser.add_argument("--include", default="", metavar="PACKAGES", help="further packages, separated by commas")
        parser.add_argument("--mirror", default="", help="Debian mirror (default: the mirror of this host)")
        parser.add_argument("--name", help="name of the image (default: debian-SUITE, or debian-SUITE-small)")
        add_by_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        include = [name.strip() for name in options["include"].split(",") if name.strip()]
        recipe = Recipe(options["suite"], options["profile"], include, options["mirror"])
        name = options["name"] or f"debian-{recipe.suite}" + ("-small" if recipe.profile == "small" else "")
        try:
            # Check the database before the long build.
            actor, _ = actor_named(options["by"]), RescueImage.objects.exists()
        except DatabaseError as error:
            raise CommandError(f"The database is not ready ({error}). Run manage.py migrate.") from error
        if problem := disk_space.problem(SPACE):
            raise CommandError(f"Nothing was built: {problem}.")
        started = time.monotonic()

        def say(line: str) -> None:
            self.stderr.write(f"[{time.monotonic() - started:4.0f} s] {line}")

        try:
            with build_folder(Path(settings.RESCUESITE_DATA_DIR) / "tmp") as folder:
                built = Builder(recipe, folder.path, folder.lock, say).build()
                kernel, initrd = _stored(built.kernel), _stored(built.initrd)
        except BuildError as error:
            raise CommandError(f"{error}\nExisting images were not changed.") from error
        except OSError as error:
            raise CommandError(f"Cannot build the image: {error}. Existing images were not changed.") from error
        image = RescueImage.objects.replace(
            {"name": name, **_values(recipe, built)},
            [Upload(ImageFile.Kind.KERNEL, kernel), Upload(ImageFile.Kind.INITRD, initrd)],
            actor,
        )
        self.stdout.write(
            f"Image {image.name} is now the default: kernel {kernel.size >> 20} MB, initrd {initrd.size >> 20} MB, "
            f"SHA-256 {kernel.sha256[:12]}… {initrd.sha256[:12]}…"
        )


def _values(recipe: Recipe, built: Built) -> dict[str, Any]:
    return {
        "description": f"Debian {recipe.suite}, profile {recipe.profile}, kernel {built.version}; runs from memory",
        "architecture": RescueImage.Architecture.X86_64,
        "command_line": "console=tty0 console=ttyS0,115200n8 quiet",
        "chain_script": "",
        "reports": True,
    }


def _stored(path: Path) -> StoredFile:
    with path.open("rb") as file:
        return StoredFile.objects.store(iter(lambda: file.read(_CHUNK), b""))


def _own_suite() -> str:
    """Return the Debian release of this host: its mirror has the packages. Return “stable” on other systems."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return "stable"
    values = dict(line.partition("=")[::2] for line in lines)
    return values.get("VERSION_CODENAME", "stable").strip('"') if values.get("ID") == "debian" else "stable"
