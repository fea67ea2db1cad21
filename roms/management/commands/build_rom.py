"""manage.py build_rom: build a ROM or a bootable medium."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from machines.management.terminal import NotSucceededError, actor_named, messages_of, printable
from roms.downloads import pad_size, padded
from roms.management.terminal import JobCommand, card_named
from roms.models import Build, Profile
from roms.models.build import spec_of
from roms.toolchain.ipxe.build import Target
from roms.toolchain.ipxe.script.spec import VARIABLES, ScriptSpec

#: The options for the spec of the script.
_SPEC = ("variables", "tries", "timeout", "link_wait", "stp_wait", "dhcp_wait", "nic", "static", "serial_console")


class Command(JobCommand):
    help = "Build a ROM or a bootable medium from iPXE's source and a script that asks the rescue site."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("card", nargs="?", metavar="CARD", help="for example 8086:1229; not needed for media")
        script = parser.add_mutually_exclusive_group(required=True)
        script.add_argument("--site", metavar="URL", help="the rescue site, for example http://192.0.2.10")
        script.add_argument("--script", metavar="FILE", help="your own script; “-” for standard input")
        targets = [target.value for target in Target]
        parser.add_argument("--target", choices=targets, default=Target.ROM, help="default: rom")
        parser.add_argument("--profile", choices=Profile.values, default=Profile.MINIMAL, help="default: minimal")
        parser.add_argument(
            "--option", action="append", default=[], metavar="NAME=VALUE", help="iPXE option; repeatable"
        )
        parser.add_argument(
            "--banner", type=int, metavar="N", help="time for the prompt at power-on, in tenths of a second"
        )
        spec = parser.add_argument_group("with --site")
        spec.add_argument(
            "--variables", metavar="NAME,…", help=f"what to send besides mac and ip: {','.join(VARIABLES)}"
        )
        spec.add_argument("--tries", type=int, help="how often to try the network and the site (default: 3)")
        spec.add_argument("--timeout", type=int, metavar="SECONDS", help="timeout per request (default: 8)")
        spec.add_argument("--link-wait", type=int, metavar="SECONDS", help="how long to wait for a link (default: 15)")
        spec.add_argument(
            "--stp-wait", type=int, metavar="SECONDS", help="wait for a switch that forwards late (default: 0)"
        )
        spec.add_argument("--dhcp-wait", type=int, metavar="SECONDS", help="wait for DHCP (default: 15; at most 60)")
        spec.add_argument("--nic", type=int, help="the number of the card in iPXE (default: try each card in turn)")
        static = "a static address, for example 192.0.2.7/24/192.0.2.1 (default: DHCP)"
        spec.add_argument("--static", metavar="IP/NETMASK[/GATEWAY[/DNS]]", help=static)
        spec.add_argument("--serial-console", action="store_true", default=None, help="show the output on COM1 too")
        parser.add_argument("--output", type=Path, metavar="FILE", help="wait, and write the result to this file")
        parser.add_argument(
            "--pad", metavar="SIZE", help="pad --output to this size in bytes; “chip” for the chip's size"
        )
        super().add_arguments(parser)

    def submit(self, options: dict[str, Any]) -> Build:
        build = Build.of(
            _script(options),
            card=card_named(options["card"]) if options["card"] else None,
            target=options["target"],
            profile=options["profile"],
            options=options["option"],
            banner=options["banner"],
        )
        self._check_output(build, options)
        build.submit(actor_named(options["by"]))
        for warning in build.warnings():
            self.stderr.write(self.style.WARNING(printable(f"Warning: {warning}")))
        return build

    def _check_output(self, build: Build, options: dict[str, Any]) -> None:
        """Check the output file before the build. Raises CommandError, ValidationError."""
        output: Path | None = options["output"]
        if output is None:
            if options["pad"]:
                raise CommandError("--pad needs --output.")
            return
        if options["pad"]:
            pad_size(build, options["pad"])
        if output.is_dir() or not output.absolute().parent.is_dir():
            why = "it is a directory" if output.is_dir() else "the directory does not exist"
            raise CommandError(f"Cannot write {output}: {why}.")

    def summary(self, build: Build) -> str:
        if build.size is None:
            return f"Build {build.pk} is {build.status_at()}."
        room = f" of {build.chip_size:,}" if build.chip_size else ""
        return f"Build {build.pk}: {build.file_name}, {build.size:,}{room} bytes, SHA-256 {build.sha256}"

    def succeeded(self, build: Build, options: dict[str, Any]) -> None:
        output: Path | None = options["output"]
        if output is None:
            return
        assert build.artifact
        try:
            output.write_bytes(padded(build, options["pad"]) if options["pad"] else build.artifact.path.read_bytes())
        except ValidationError as error:
            raise NotSucceededError("\n".join(messages_of(error))) from error
        except OSError as error:
            message = f"Cannot write {output}: {error.strerror}. The site keeps the file of build {build.pk}."
            raise CommandError(message) from error


def _script(options: dict[str, Any]) -> ScriptSpec | str:
    """The script to embed: a spec, or the text of a file. Raises CommandError, ValidationError."""
    given = {name: options[name] for name in _SPEC if options[name] is not None}
    if options["script"] is not None:
        if given:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise CommandError(f"{named} cannot be used with --script, only with --site.")
        return _read(options["script"])
    spec = {"site": options["site"], **given}
    if "variables" in spec:
        spec["variables"] = [name.strip() for name in spec["variables"].split(",") if name.strip()]
    if "static" in spec:
        spec["network"] = _network(spec.pop("static"))
    return spec_of(spec)


def _network(text: str) -> dict[str, str]:
    parts = text.split("/")
    if not 2 <= len(parts) <= 4:
        raise CommandError(f"“{text}” is not a valid address; write it like 192.0.2.7/24/192.0.2.1/192.0.2.53.")
    return {name: part for name, part in zip(("ip", "netmask", "gateway", "dns"), parts, strict=False) if part}


def _read(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode()
    except OSError as error:
        raise CommandError(f"Cannot read {name}: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise CommandError(f"{name} is not UTF-8.") from None
