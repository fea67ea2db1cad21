"""manage.py dhcp_script: write the boot file for DHCP, for a TFTP server or a plain web server."""

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
        "Write an iPXE script that a DHCP server can name as boot file. The script asks this site, with a limited "
        "number of tries, and otherwise boots the disk. The site also serves it at /boot/dhcp.ipxe."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--site", metavar="URL", help="URL of the site for network cards (default: RESCUESITE_BASE_URL)"
        )
        parser.add_argument(
            "--output", type=Path, metavar="FILE", help="such as /srv/tftp/dhcp.ipxe (default: standard output)"
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
            raise CommandError(f"Cannot write {output}: {error.strerror}.", returncode=NOT_DONE) from error
        self.stdout.write(f"Wrote {output}. Name it as boot file in the DHCP server.")


def _checked(site: str) -> str:
    """Return the URL of the site if a network card can use it. Raises CommandError."""
    if not _SITE.fullmatch(site):
        raise CommandError(
            f"“{site}” is not a valid site URL. Enter it like http://192.0.2.10:8000.", returncode=NOT_DONE
        )
    if _LOOPBACK.match(site):
        raise CommandError(
            f"Network cards cannot reach {site}. Use --site to set the URL under which other hosts reach the site.",
            returncode=NOT_DONE,
        )
    return site
