"""What each machine's script says when it lies on another server: a file for each MAC address, and a default."""

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
#: Below the scripts, where a rescue's files lie.
FILES = "rescuesite-files"


def file_name(mac: str) -> str:
    """`MAC-0002b39d948c.ipxe`: what `MAC-${mac:hexraw}.ipxe` comes to."""
    return f"MAC-{mac.replace(':', '')}.ipxe"


@dataclass
class BootExport:
    """What is to lie on the other server, by path: scripts, and what they boot."""

    scripts: dict[str, str] = field(default_factory=dict)
    files: dict[str, StoredFile | bytes] = field(default_factory=dict)
    #: The machines that begin a rescue at their next power-on.
    in_rescue: list[str] = field(default_factory=list)
    #: What the person who exports should know, one sentence each.
    warnings: list[str] = field(default_factory=list)


def boot_export(site: str, *, with_files: bool = False, now: datetime | None = None) -> BootExport:
    """All machines' scripts as of `now`, in a constant number of queries (with files, one more for each rescue).

    A machine in rescue is sent on to the site at `site`, which then decides by all of its rules. With `with_files` its
    script boots copies of the rescue's files instead, so that the firmware need not reach the site; then nobody checks
    who asks, nobody learns that it started, and each power-on starts it again until the rescue ends at the site and
    the scripts are written anew.
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
        # Also when its one boot was used: the site says so then, and ends the rescue.
        return script.chain_to_site(f"{site}/boot", mac)
    facts = rescue.facts(now)
    if not facts.image_available or facts.image_damaged:
        export.warnings.append(f"{name}: files of its rescue are missing or damaged; its script boots the disk.")
        return script.pass_through(Reason.IMAGE_UNAVAILABLE)
    if objection := _needs_site(rescue):
        export.warnings.append(f"{name}: {objection}; its script sends it on to the site instead.")
        return script.chain_to_site(f"{site}/boot", mac)
    try:
        return _standing_alone(rescue, mac, site, export)
    except script.UnsafeLineError as error:
        export.warnings.append(f"{name}: its script {error}; it boots the disk.")
        return script.pass_through(Reason.IMAGE_UNAVAILABLE)


def _needs_site(rescue: Rescue) -> str:
    """Why this rescue cannot be booted from files alone; empty where it can."""
    if rescue.chain_script:
        return "its image chains a script"
    if script.URL in rescue.command_line:
        return f"its image's system fetches files of its own ({script.URL} in the command line)"
    return ""


def _standing_alone(rescue: Rescue, mac: str, site: str, export: BootExport) -> str:
    """The script that boots copies; what it boots is added to the export. Raises UnsafeLineError."""
    boots = (ImageFile.Kind.KERNEL, ImageFile.Kind.INITRD)
    stored = {file.name: file.stored for file in rescue.files.all() if file.kind in boots}
    # Whoever lists the folder must not read the rescue's token from it.
    archive = f"{sha256(str(rescue.token).encode()).hexdigest()[:32]}.cpio"
    file_urls = {name: f"{FILES}/{file.sha256}" for name, file in stored.items()}
    file_urls[script.ARCHIVE] = f"{FILES}/{archive}"
    text = script.rescue(rescue.plan(mac, site=site, file_urls=file_urls))
    if file_urls[script.ARCHIVE] not in export.files:
        export.files |= {file_urls[name]: file for name, file in stored.items()}
        export.files[file_urls[script.ARCHIVE]] = rescue_archive(rescue, None)
        export.warnings += _losses(rescue)
    return text


def _losses(rescue: Rescue) -> list[str]:
    name, lost = rescue.machine.name, []
    if rescue.lifetime == Rescue.Lifetime.ONE_BOOT:
        lost.append(f"{name}: one boot cannot be kept; disable the rescue and export again, or it starts each time.")
    if rescue.password_hash:
        lost.append(f"{name}: its password is not delivered, as whoever reads the folder would have its hash.")
    return lost
