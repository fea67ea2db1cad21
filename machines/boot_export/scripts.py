"""Make the scripts of an export: a file for each MAC address and a default."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from django.utils import timezone

from machines.boot import script
from machines.boot.delivery import rescue_archive
from machines.boot.reasons import Reason
from machines.models import Machine, Rescue, StoredFile
from machines.models.image import ImageFile

DEFAULT = "default.ipxe"
#: The subfolder for the boot files of rescues.
FILES = "rescuesite-files"


def file_name(mac: str) -> str:
    """Return the file name that iPXE makes of `MAC-${mac:hexraw}.ipxe`, such as `MAC-0002b39d948c.ipxe`."""
    return f"MAC-{mac.replace(':', '')}.ipxe"


@dataclass
class BootExport:
    """The files for the other server by path: scripts, and the files that they boot."""

    scripts: dict[str, str] = field(default_factory=dict)
    files: dict[str, StoredFile | bytes] = field(default_factory=dict)
    #: The machines that start a rescue at their next power-on.
    in_rescue: list[str] = field(default_factory=list)
    #: Warnings for the person who exports.
    warnings: list[str] = field(default_factory=list)


def boot_export(site: str, *, with_files: bool = False, now: datetime | None = None) -> BootExport:
    """Return the scripts of all machines as of `now`.

    The script of a machine in rescue chains to the site at `site`, which then makes the decision. With `with_files`,
    the script boots copies of the files instead, so that the firmware does not need the site. Then nothing verifies the
    machine, the site does not know that the rescue has started, and each power-on starts it again. This ends when the
    rescue has ended at the site and the scripts are exported again.

    The number of queries is constant; with files, there is one more for each rescue.
    """
    now = now or timezone.now()
    export = BootExport(scripts={DEFAULT: script.pass_through(Reason.UNKNOWN_MAC)})
    rescues = {rescue.machine_id: rescue for rescue in Rescue.objects.active(now).with_files()}
    for machine in Machine.objects.prefetch_related("macs", "allowed_networks").order_by("name"):
        rescue = rescues.get(machine.pk)
        if rescue:
            rescue.machine = machine
        for mac in machine.macs.all():
            export.scripts[file_name(mac.address)] = _script(rescue, mac.address, site, export, now, with_files)
    return export


def _script(rescue: Rescue | None, mac: str, site: str, export: BootExport, now: datetime, with_files: bool) -> str:
    if rescue is None:
        return script.pass_through(Reason.NO_RESCUE)
    name = rescue.machine.name
    if name not in export.in_rescue:
        export.in_rescue.append(name)
    if not with_files:
        # Also after its one boot: the site then ends the rescue and lets the machine boot its disk.
        return script.chain_to_site(f"{site}/boot", mac)
    facts = rescue.facts(now)
    if not facts.image_available or facts.image_damaged:
        export.warnings.append(f"{name}: Files of the rescue are missing or damaged. The script boots the disk.")
        return script.pass_through(Reason.IMAGE_UNAVAILABLE)
    if reason := _needs_site(rescue):
        export.warnings.append(f"{name}: {reason} The script chains to the site instead.")
        return script.chain_to_site(f"{site}/boot", mac)
    try:
        return _script_with_files(rescue, mac, site, export)
    except script.UnsafeLineError as error:
        export.warnings.append(f"{name}: The script {error}. It boots the disk.")
        return script.pass_through(Reason.IMAGE_UNAVAILABLE)


def _needs_site(rescue: Rescue) -> str:
    """Return why this rescue cannot boot without the site; empty if it can."""
    if rescue.chain_script:
        return "The image chains a script."
    if script.URL in rescue.command_line:
        return f"The system of the image fetches files from the site ({script.URL} in the command line)."
    return ""


def _script_with_files(rescue: Rescue, mac: str, site: str, export: BootExport) -> str:
    """Return a script that boots copies of the files, and add them to the export. Raises UnsafeLineError."""
    boots = (ImageFile.Kind.KERNEL, ImageFile.Kind.INITRD)
    stored = {file.name: file.stored for file in rescue.files.all() if file.kind in boots}
    # The name of the archive must not reveal the rescue's token.
    archive = f"{sha256(str(rescue.token).encode()).hexdigest()[:32]}.cpio"
    file_urls = {name: f"{FILES}/{file.sha256}" for name, file in stored.items()}
    file_urls[script.ARCHIVE] = f"{FILES}/{archive}"
    text = script.rescue(rescue.plan(mac, site=site, file_urls=file_urls))
    if file_urls[script.ARCHIVE] not in export.files:
        export.files |= {file_urls[name]: file for name, file in stored.items()}
        export.files[file_urls[script.ARCHIVE]] = rescue_archive(rescue, None)
        export.warnings += _limitations(rescue)
    return text


def _limitations(rescue: Rescue) -> list[str]:
    name, found = rescue.machine.name, []
    if rescue.lifetime == Rescue.Lifetime.ONE_BOOT:
        found.append(
            f"{name}: The limit of one boot does not work with exported files. The rescue starts at each power-on "
            "until you disable it and export again."
        )
    if rescue.password_hash:
        found.append(f"{name}: The password is not delivered. Otherwise readers of the folder could get its hash.")
    return found
