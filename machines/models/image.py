"""Rescue images, and the files that they are made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from machines import integrity
from machines.boot import script
from machines.integrity import Condition
from machines.models.audit import Actor, AuditEntry, differences
from rescuesite import disk_space, locks
from rescuesite.data_directory import same_owner

#: A command line longer than this is cut by the x86 kernel (COMMAND_LINE_SIZE), less what the site appends.
MAX_COMMAND_LINE = 1800
MAX_CHAIN_SCRIPT = 64 * 1024
#: A file's bytes are read again after this time, however it looks.
READ_AGAIN = timedelta(days=1)
#: Up to this many bytes are read wherever a changed file is met (some 50 ms), more by the worker: nobody waits for it.
READ_AT_ONCE = 16 << 20
#: So many of the machines that name an image its audit entries name in turn.
MACHINES_NAMED = 200
#: Folders are for systems that look for their files below an address, such as sysresccd/x86_64/airootfs.sfs.
_FILE_NAME = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
#: Room for what the placeholder for the files' address becomes: a site's name, a token.
_URL_ROOM = 150
_BEHIND_URL = re.compile(re.escape(script.URL) + r"/?([A-Za-z0-9._/-]*)")


class StoredFileQuerySet(models.QuerySet["StoredFile"]):
    def store(self, chunks: Iterable[bytes]) -> StoredFile:
        """Keep the bytes of `chunks` and return their file; the same bytes are kept once.

        The file is complete and synced to disk before its row exists. Raises OSError where the disk is nearly full.
        """
        digest, size = hashlib.sha256(), 0
        descriptor, draft = tempfile.mkstemp(dir=settings.RESCUESITE_DATA_DIR / "tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    disk_space.check(len(chunk))
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            stored = StoredFile(sha256=digest.hexdigest(), size=size)
            chown_to_site_owner(Path(draft))
            with _files_locked():
                if not stored.path.parent.exists():
                    stored.path.parent.mkdir(exist_ok=True)
                    stored.path.parent.chmod(0o750)
                    chown_to_site_owner(stored.path.parent)
                # A web server in the site's group may send it; see deploy/.
                Path(draft).chmod(0o640)
                Path(draft).replace(stored.path)
                sync_directory(stored.path.parent)
                return self._keep(stored)
        finally:
            Path(draft).unlink(missing_ok=True)

    def _keep(self, draft: StoredFile) -> StoredFile:
        """The row of a file that lies in its place now; whatever was wrong with its bytes is mended."""
        now = timezone.now()
        # Young again: it is about to be named by an image.
        values = {"size": draft.size, "created_at": now, "read_at": now, "looks": integrity.look(draft.path)[1]}
        with transaction.atomic():
            was_damaged = self.filter(sha256=draft.sha256, damaged_at__isnull=False).exists()
            stored, _ = self.update_or_create(sha256=draft.sha256, defaults=values | {"damaged_at": None})
            if was_damaged:
                stored.record("file_repaired")
        return stored

    def read_changed(self) -> None:
        """Read those again that look otherwise than when they were last read."""
        for stored in self.all():
            if stored.looks_changed():
                stored.read_again()

    def due(self, now: datetime | None = None) -> StoredFile | None:
        """The file that was not read for longest, if that is more than a day."""
        before = (now or timezone.now()) - READ_AGAIN
        return self.filter(Q(read_at__isnull=True) | Q(read_at__lt=before)).order_by("read_at").first()

    def damaged(self) -> StoredFileQuerySet:
        """Those whose bytes are not those of their SHA-256, as far as they were read."""
        return self.filter(damaged_at__isnull=False)

    def discard_unused(self, older_than: timedelta = timedelta(hours=1)) -> int:
        """Remove the files that nothing refers to any more; return how many.

        Young ones are spared: their image may be about to be saved.
        """
        unnamed = {f"{relation.name}__isnull": True for relation in StoredFile._meta.related_objects}
        unused = self.filter(created_at__lt=timezone.now() - older_than, **unnamed)
        removed = 0
        for stored in unused:
            with _files_locked():
                try:
                    stored.delete()
                except models.ProtectedError:
                    continue
                stored.path.unlink(missing_ok=True)
            removed += 1
        return removed + self._discard_strays(older_than)

    def _discard_strays(self, older_than: timedelta) -> int:
        """Remove files that have no row: their upload was rolled back, or its process died."""
        before = time.time() - older_than.total_seconds()
        folder = Path(settings.RESCUESITE_DATA_DIR)
        removed = 0
        # A folder in tmp/ is that of an image's build, which may be under way.
        for path in filter(Path.is_file, [*folder.glob("files/??/*"), *folder.glob("tmp/*")]):
            with _files_locked(), contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before and not self.filter(sha256=path.name).exists():
                    path.unlink()
                    removed += 1
        return removed


def _files_locked() -> contextlib.AbstractContextManager[None]:
    """One process at a time adds or removes stored files."""
    return locks.held("files")


def chown_to_site_owner(path: Path) -> None:
    """Give what root has made in the data directory to the directory's owner: a station's worker may run as root."""
    same_owner(path, Path(settings.RESCUESITE_DATA_DIR))


def sync_directory(path: Path) -> None:
    """Return once the names in a directory are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StoredFile(models.Model):
    """The bytes of a file, kept in the data directory under their SHA-256."""

    sha256 = models.CharField("SHA-256", max_length=64, unique=True)
    size = models.PositiveBigIntegerField(help_text="in bytes")
    created_at = models.DateTimeField(default=timezone.now)
    #: When its bytes were last read, and how the file looked then (integrity.look); empty where nobody has yet.
    read_at = models.DateTimeField(null=True, editable=False)
    looks = models.CharField(max_length=100, blank=True, editable=False)
    #: When its bytes were found not to be those of its SHA-256.
    damaged_at = models.DateTimeField(null=True, editable=False)

    objects = StoredFileQuerySet.as_manager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.sha256[:12]}… ({self.size} bytes)"

    @property
    def relative_path(self) -> str:
        return f"{self.sha256[:2]}/{self.sha256}"

    @property
    def path(self) -> Path:
        return Path(settings.RESCUESITE_DATA_DIR) / "files" / self.relative_path

    def condition(self) -> Condition:
        """How the file stands, by what was last read of it; only a small one that has changed is read now."""
        try:
            size, looks = integrity.look(self.path)
        except OSError:
            return Condition.LOST
        if size != self.size:
            return Condition.LOST
        if looks == self.looks or not self.looks:
            return Condition.DAMAGED if self.damaged_at else Condition.WHOLE
        return integrity.read_once(self.path, self.sha256, looks) if size <= READ_AT_ONCE else Condition.CHANGED

    def is_intact(self) -> bool:
        return self.condition() is Condition.WHOLE

    def looks_changed(self) -> bool:
        """Whether it is there, and looks otherwise than when it was last read."""
        try:
            return integrity.look(self.path) != (self.size, self.looks)
        except OSError:
            return False

    def contents(self) -> bytes:
        """All of its bytes, for what is too dear to do with others. Raises DamagedFileError, or OSError."""
        contents = self.path.read_bytes()
        if hashlib.sha256(contents).hexdigest() != self.sha256:
            raise DamagedFileError(f"The stored file {self} is damaged: its contents are not those of its SHA-256.")
        return contents

    def read_again(self, **pace: Any) -> None:
        """Read its bytes, remember what was found, and tell of what is new; `pace` as integrity.read takes it."""
        try:
            found, looks = integrity.read(self.path, **pace)
        except OSError:
            return
        now = timezone.now()
        damaged_at = None if found == self.sha256 else self.damaged_at or now
        seen = StoredFile.objects.filter(pk=self.pk, looks=self.looks, damaged_at=self.damaged_at)
        is_news = (damaged_at is None) != (self.damaged_at is None)
        with transaction.atomic():
            # Not where somebody has stored or read it meanwhile.
            if not seen.update(read_at=now, looks=looks, damaged_at=damaged_at):
                return
            self.read_at, self.looks, self.damaged_at = now, looks, damaged_at
            if is_news:
                self.record("file_damaged" if damaged_at else "file_repaired")

    def record(self, action: str) -> None:
        """Write down, and tell, what became of its bytes: once for all that use it, and for each rescue that does."""
        images = [f"{file.image.name}: {file.name}" for file in self.image_files.select_related("image")]
        details = {"sha256": self.sha256, "size": self.size, "images": images}
        AuditEntry.objects.record(action, subject=", ".join(images)[:150] or self.sha256, details=details)
        for file in self.rescue_files.select_related("rescue__machine"):
            AuditEntry.objects.record(
                f"rescue_{action}", machine=file.rescue.machine, rescue=file.rescue, subject=file.name
            )


class DamagedFileError(Exception):
    """A stored file does not have the bytes that were stored; the message says which."""


class Upload(NamedTuple):
    """A file for an image: what it is, its bytes, and the name of a further file."""

    kind: str
    stored: StoredFile
    name: str = ""


class RescueImageQuerySet(models.QuerySet["RescueImage"]):
    def add(
        self, values: Mapping[str, Any], uploads: Iterable[Upload], actor: Actor, *, default: bool = False
    ) -> RescueImage:
        """Add an image with its files and its audit entry; all or nothing.

        Raises ValidationError, also for an image that could not be booted.
        """
        with transaction.atomic():
            image = self.model(**values)
            image.full_clean()
            image.save(force_insert=True)
            for upload in uploads:
                image.attach_stored(*upload)
            if problem := image.problem():
                raise ValidationError(problem)
            AuditEntry.objects.record("rescueimage_added", actor=actor, subject=image.name, details=image.snapshot())
            if default:
                image.make_default(actor)
        return image

    def default(self) -> RescueImage | None:
        return self.filter(is_default=True).first()

    def most_fetched(self) -> int:
        """How many files a machine fetches at most before it boots one of these images."""
        booted = Q(files__kind__in=(ImageFile.Kind.KERNEL, ImageFile.Kind.INITRD))
        counts = self.annotate(number=models.Count("files", filter=booted)).values_list("number", flat=True)
        # Besides them, what the site makes: the archive, and `ready`.
        return max([script.USUAL_FILES, *(number + 2 for number in counts)])


class RescueImage(models.Model):
    """A small system to boot for a rescue: a kernel with its initrds and command line, or an iPXE script to chain."""

    class Architecture(models.TextChoices):
        X86_64 = "x86_64", "x86, 64 bit"
        I386 = "i386", "x86, 32 bit"
        ARM64 = "arm64", "ARM, 64 bit"

    name = models.CharField(
        max_length=63,
        unique=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", "Use letters, digits, “.”, “_” and “-”.")],
    )
    description = models.TextField(blank=True)
    architecture = models.CharField(max_length=10, choices=Architecture, default=Architecture.X86_64)
    command_line = models.CharField(
        max_length=MAX_COMMAND_LINE,
        blank=True,
        help_text="For the kernel. The site appends BOOTIF=01-(MAC address) and initrd=(name) for each initrd, and "
        "replaces {url} by the address below which this rescue's files lie: fetch={url}/root.squashfs",
    )
    chain_script = models.TextField(
        blank=True,
        max_length=MAX_CHAIN_SCRIPT,
        help_text="An iPXE script to run instead of a kernel; must begin with #!ipxe. It may fetch this image's "
        "further files by their bare names.",
    )
    reports = models.BooleanField(
        "reports that it is up",
        default=False,
        help_text="Whether the system posts to the site once it can be logged in to. One that does not counts as up "
        "two minutes after its files have arrived.",
    )
    is_default = models.BooleanField(
        "default",
        default=False,
        help_text="Taken where neither the machine nor the person enabling names an image.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RescueImageQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"],
                condition=Q(is_default=True),
                name="one_default_image",
                violation_error_message="Another image is the default already.",
            ),
            models.CheckConstraint(
                condition=Q(chain_script="") | Q(command_line=""),
                name="image_chains_or_boots_a_kernel",
                violation_error_message="An image that chains a script has no kernel command line.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        errors = {}
        try:
            script.ensure_safe(self.command_line)
        except script.UnsafeLineError as error:
            errors["command_line"] = f"The command line {error}."
        if named := [word for word in self.command_line.split() if word.startswith("initrd=")]:
            errors["command_line"] = (
                f"Leave “{named[0]}” out: the site adds initrd= with the right name for each initrd."
            )
        placeholders = self.command_line.count(script.URL)
        if placeholders and len(self.command_line) + placeholders * _URL_ROOM > MAX_COMMAND_LINE:
            errors["command_line"] = (
                f"The command line may become too long: each {script.URL} takes up to {_URL_ROOM} characters, and "
                f"there is room for {MAX_COMMAND_LINE}."
            )
        self.chain_script = self.chain_script.replace("\r\n", "\n")
        if self.chain_script and self.chain_script.partition("\n")[0].rstrip() != "#!ipxe":
            errors["chain_script"] = "An iPXE script begins with a line “#!ipxe”, without anything before it."
        if errors:
            raise ValidationError(errors)

    def snapshot(self) -> dict[str, Any]:
        """The image as audit entries, the API and the command line show it; its files read at once or before."""
        files = self.files.all()
        if "files" not in getattr(self, "_prefetched_objects_cache", {}):
            files = files.select_related("stored")
        return {
            "name": self.name,
            "description": self.description,
            "architecture": self.architecture,
            "command_line": self.command_line,
            "chain_script": self.chain_script,
            "reports": self.reports,
            "default": self.is_default,
            "files": [
                {"kind": file.kind, "name": file.name, "size": file.stored.size, "sha256": file.stored.sha256}
                for file in files
            ],
        }

    def revise(
        self, values: Mapping[str, Any], uploads: Sequence[Upload], actor: Actor, *, default: bool | None = None
    ) -> None:
        """Change what `values` name, with the audit entry; all or nothing.

        A new kernel takes the old one's place, new initrds that of all old ones, a further file that of its
        name. Raises ValidationError, also for what would keep an image from booting that could be booted before.
        """
        with transaction.atomic():
            RescueImage.objects.select_for_update().get(pk=self.pk)
            self.refresh_from_db()
            before, was_bad = self.snapshot(), self.problem()
            for name, value in values.items():
                setattr(self, name, value)
            self.full_clean()
            self.save()
            if any(upload.kind == ImageFile.Kind.INITRD for upload in uploads):
                self.files.filter(kind=ImageFile.Kind.INITRD).delete()
            for upload in uploads:
                self.attach_stored(*upload)
            problem = self.problem()
            if problem and not was_bad:
                raise ValidationError(problem)
            if default:
                self.make_default(actor)
            elif default is False and self.is_default:
                self.is_default = False
                self.save(update_fields=["is_default"])
            if changes := differences(before, self.snapshot()):
                AuditEntry.objects.record("rescueimage_changed", actor=actor, subject=self.name, details=changes)
            transaction.on_commit(StoredFile.objects.discard_unused)

    def delete_audited(self, actor: Actor) -> None:
        """Delete the image, with its audit entry; machines that name it fall back to the default."""
        with transaction.atomic():
            machines = [machine.name for machine in self.machines.all()[:MACHINES_NAMED]]
            details = {**self.snapshot(), "machines": machines}
            AuditEntry.objects.record("rescueimage_deleted", actor=actor, subject=self.name, details=details)
            self.delete()
            transaction.on_commit(StoredFile.objects.discard_unused)

    def make_default(self, actor: Actor) -> None:
        """Let this image be the default, and no other; nothing where it is already.

        Raises PermissionDenied where `actor` may not change images, and there are others.
        """
        if self.is_default:
            return
        with transaction.atomic():
            self._make_default(actor)

    def _make_default(self, actor: Actor) -> None:
        former = RescueImage.objects.default()
        # Without a default, machines that name no image would boot this one from now on.
        if RescueImage.objects.exclude(pk=self.pk).exists() and not actor.may("machines.change_rescueimage"):
            raise PermissionDenied("Only who may change images can make one the default.")
        AuditEntry.objects.record(
            "default_image_changed",
            actor=actor,
            subject=self.name,
            details={"before": {"default": former.name if former else None}, "after": {"default": self.name}},
        )
        RescueImage.objects.filter(is_default=True).exclude(pk=self.pk).update(is_default=False)
        RescueImage.objects.filter(pk=self.pk).update(is_default=True)
        self.is_default = True

    def problem(self) -> str | None:
        """Why this image cannot be booted, for the person who wants to; None where it can."""
        files = list(self.files.select_related("stored"))
        kinds = {file.kind for file in files}
        if not self.chain_script and ImageFile.Kind.KERNEL not in kinds:
            return f"Image “{self.name}” has no kernel; upload one."
        conditions = {file.name: file.stored.condition() for file in files}
        if lost := [name for name, condition in conditions.items() if condition is Condition.LOST]:
            return f"Image “{self.name}” has lost {', '.join(lost)} from the data directory; upload it again."
        if damaged := [name for name, condition in conditions.items() if condition is Condition.DAMAGED]:
            return f"Image “{self.name}”: {', '.join(damaged)} is damaged in the data directory; upload it again."
        served = {file.name for file in files} | {script.ARCHIVE, script.KEYS, script.UP, ""}
        for name in _BEHIND_URL.findall(self.command_line):
            # What ends in a slash, or begins a name, is for the booted system to complete.
            if name.strip("/") not in served and not any(one.startswith(name) for one in served):
                return f"Image “{self.name}” has no file “{name}”, which its command line names; upload it."
        return None

    def read_changed(self) -> None:
        """Read those of its files again that have changed. Not in a transaction: others would wait for it."""
        StoredFile.objects.filter(image_files__image=self).read_changed()

    def attach(self, kind: str, chunks: Iterable[bytes], name: str = "") -> ImageFile:
        """Store the bytes of `chunks` and attach them, once their name is known to be good; see `attach_stored`."""
        if kind == ImageFile.Kind.FILE:
            ImageFile.check_name(kind, name)
        return self.attach_stored(kind, StoredFile.objects.store(chunks), name)

    def attach_stored(self, kind: str, stored: StoredFile, name: str = "") -> ImageFile:
        """Make `stored` a file of this image; `name` is needed for a further file only.

        A kernel replaces the earlier one, as does a further file of the same name; an initrd comes after those that
        there are. Raises ValidationError for a name that cannot be served.
        """
        last = self.files.aggregate(last=models.Max("position"))["last"]
        position = 0 if last is None else last + 1
        if kind == ImageFile.Kind.KERNEL:
            name = script.KERNEL
        elif kind == ImageFile.Kind.INITRD:
            name = self._next_initrd()
        ImageFile.check_name(kind, name)
        file, _ = self.files.update_or_create(
            name=name, defaults={"kind": kind, "stored": stored, "position": position}
        )
        return file

    def _next_initrd(self) -> str:
        taken = set(self.files.filter(kind=ImageFile.Kind.INITRD).values_list("name", flat=True))
        names = ("initrd" if n == 1 else f"initrd-{n}" for n in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)


class ImageFile(models.Model):
    """A file of an image, under the name by which it is served."""

    class Kind(models.TextChoices):
        KERNEL = "kernel"
        INITRD = "initrd"
        FILE = "file", "further file"

    image = models.ForeignKey(RescueImage, on_delete=models.CASCADE, related_name="files")
    kind = models.CharField(max_length=6, choices=Kind, default=Kind.INITRD)
    name = models.CharField(max_length=100)
    position = models.PositiveSmallIntegerField(default=0)
    stored = models.ForeignKey(StoredFile, on_delete=models.PROTECT, related_name="image_files")

    class Meta:
        default_permissions = ()
        ordering = ("position", "pk")
        constraints = [
            models.UniqueConstraint(
                fields=["image", "name"],
                name="image_file_name",
                violation_error_message="The image has a file of this name already.",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def check_name(cls, kind: str, name: str) -> None:
        """Raise ValidationError where a file of `kind` cannot be served under `name`."""
        if not _FILE_NAME.fullmatch(name):
            raise ValidationError(
                f"“{name[:100]}” cannot be a file's name: use letters, digits, “.”, “_” and “-”, and “/” between them."
            )
        own = name in {script.KERNEL, script.READY, script.UP, script.ARCHIVE, script.CHAIN, script.KEYS}
        own = own or re.fullmatch(r"initrd(-\d+)?", name) is not None
        if kind == cls.Kind.FILE and own:
            raise ValidationError(f"“{name}” is a name that the site uses itself; rename the file.")
