"""manage.py image add|list|show: add, list and show rescue images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from machines.management.terminal import (
    TerminalCommand,
    actor_named,
    add_action,
    add_by_option,
    add_json_option,
    image_named,
    table,
)
from machines.models import ImageFile, RescueImage, StoredFile
from machines.models.image import Upload
from machines.representation import image_json


class Command(TerminalCommand):
    help = "Add, list and show rescue images."

    def add_actions(self, actions: Any) -> None:
        add = add_action(actions, "add", self.add, "add an image from files on this host")
        add.add_argument("name")
        add.add_argument("--kernel", type=Path)
        add.add_argument("--initrd", type=Path, action="append", default=[], help="can be repeated")
        add.add_argument(
            "--file",
            type=_named,
            action="append",
            default=[],
            metavar="[NAME=]PATH",
            help="a further file; NAME may contain folders (default: the name of the file)",
        )
        add.add_argument("--command-line", default="")
        add.add_argument("--chain-script", type=Path, help="an iPXE script to run instead of a kernel")
        add.add_argument("--architecture", choices=RescueImage.Architecture.values, default="x86_64")
        add.add_argument("--reports", action="store_true", help="the system reports to the site when it is up")
        add.add_argument("--default", action="store_true", help="make this the default image")
        add.add_argument("--description", default="")
        add_by_option(add)
        listing = add_action(actions, "list", self.list, "list the images")
        show = add_action(actions, "show", self.show_one, "show one image")
        show.add_argument("name")
        for parser in (add, listing, show):
            add_json_option(parser)

    def add(self, **options: Any) -> None:
        names = ("name", "description", "architecture", "command_line", "reports")
        values = {name: options[name] for name in names} | {"chain_script": _text(options["chain_script"])}
        # Check the values before the files are read, which takes time.
        RescueImage(**values).full_clean()
        for name, _ in options["file"]:
            ImageFile.check_name(ImageFile.Kind.FILE, name)
        uploads = [Upload(ImageFile.Kind.KERNEL, _store(options["kernel"]))] if options["kernel"] else []
        uploads += [Upload(ImageFile.Kind.INITRD, _store(path)) for path in options["initrd"]]
        uploads += [Upload(ImageFile.Kind.FILE, _store(path), name) for name, path in options["file"]]
        image = RescueImage.objects.add(values, uploads, actor_named(options["by"]), default=options["default"])
        self.show(image_json(image), f"Image {image.name} added.", options)

    def list(self, **options: Any) -> None:
        found = [image_json(image) for image in RescueImage.objects.prefetch_related("files__stored")]
        rows = [
            [
                one["name"],
                one["architecture"],
                "default" if one["default"] else "",
                ", ".join(file["name"] for file in one["files"]),
            ]
            for one in found
        ]
        self.show(found, table(rows, ["NAME", "ARCHITECTURE", "", "FILES"]), options)

    def show_one(self, **options: Any) -> None:
        image = image_named(options["name"])
        assert image is not None
        shown = image_json(image)
        files = [[file["name"], str(file["size"]), file["sha256"]] for file in shown.pop("files")]
        lines = table([[f"{name}:", str(value)] for name, value in shown.items()], ["", ""]).strip("\n")
        self.show(image_json(image), lines + "\n" + table(files, ["FILE", "BYTES", "SHA-256"]), options)


def _named(argument: str) -> tuple[str, Path]:
    name, equals, path = argument.rpartition("=")
    return (name, Path(path)) if equals else (Path(argument).name, Path(argument))


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk
    except OSError as error:
        raise CommandError(f"Cannot read {path}: {error.strerror}.") from error


def _store(path: Path) -> StoredFile:
    try:
        return StoredFile.objects.store(_chunks(path))
    except OSError as error:
        raise CommandError(f"Cannot store {path}: {error.strerror}.") from error


def _text(path: Path | None) -> str:
    return b"".join(_chunks(path)).decode("utf-8", "replace") if path else ""
