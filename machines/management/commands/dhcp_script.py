"""manage.py dhcp_script: the boot file that DHCP names, for a TFTP server or another plain one."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from machines.boot import script
from machines.management.terminal import NOT_DONE

_SITE = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?(?:/[A-Za-z0-9._~/-]*)?", re.ASCII)
_LOOPBACK = re.compile(r"https?://(?:127\.|localhost\b|\[::1\])")


class Command(BaseCommand):
    help = (
        "Write the script that DHCP names as boot file to any iPXE: it asks this site, a bounded number of times, and "
        "goes on to the disk. The site itself gives it out at /boot/dhcp.ipxe."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--site", metavar="URL", help="the site as network cards reach it (default: RESCUESITE_BASE_URL)"
        )
        parser.add_argument(
            "--output", type=Path, metavar="FILE", help="like /srv/tftp/dhcp.ipxe (default: standard output)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        text = script.for_dhcp(f"{_checked(options['site'] or str(settings.RESCUESITE_BASE_URL)).rstrip('/')}/boot")
        output: Path | None = options["output"]
        if output is None:
            self.stdout.write(text, ending="")
            return
        try:
            output.write_text(text)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}.", returncode=NOT_DONE) from error
        self.stdout.write(f"{output} is written; let DHCP name it as boot file.")


def _checked(site: str) -> str:
    """The site's address, if a network card can use it. Raises CommandError."""
    if not _SITE.fullmatch(site):
        raise CommandError(
            f"“{site}” is not a valid site address; write it like http://192.0.2.10:8000.", returncode=NOT_DONE
        )
    if _LOOPBACK.match(site):
        raise CommandError(
            f"A network card cannot reach {site}; name the address that it has for other machines with --site.",
            returncode=NOT_DONE,
        )
    return site
