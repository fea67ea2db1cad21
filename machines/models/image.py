"""Rescue images and their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.db.models import Q

from machines.boot import script
from machines.integrity import Condition
from machines.models.audit import Actor, AuditEntry, differences
from machines.models.stored_file import StoredFile

#: The x86 kernel cuts longer command lines (COMMAND_LINE_SIZE). The site needs some of that length for its own words.
MAX_COMMAND_LINE = 1800
MAX_CHAIN_SCRIPT = 64 * 1024
#: An audit entry about an image lists at most this many machines that use it.
MACHINES_NAMED = 200
#: A name may contain folders: some systems expect them below the URL, such as sysresccd/x86_64/airootfs.sfs.
_FILE_NAME = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
#: The longest URL that may replace the placeholder: it contains the site's name and a token.
_URL_ROOM = 150
_BEHIND_URL = re.compile(re.escape(script.URL) + r"/?([A-Za-z0-9._/-]*)")


class Upload(NamedTuple):
    """A file for an image. Only a further file needs a name."""

    kind: str
    stored: StoredFile
    name: str = ""


class RescueImageQuerySet(models.QuerySet["RescueImage"]):
    def add(
        self, values: Mapping[str, Any], uploads: Iterable[Upload], actor: Actor, *, default: bool = False
    ) -> RescueImage:
        """Add an image with its files and an audit entry, in one transaction.

        Raises ValidationError, also if the image could not be booted.
        """
        image = self.model(**values)
        with image.addition(actor, default=default):
            image.full_clean()
            image.save(force_insert=True)
            for upload in uploads:
                image.attach_stored(*upload)
            if problem := image.problem():
                raise ValidationError(problem)
        return image

    def replace(self, values: Mapping[str, Any], uploads: Sequence[Upload], actor: Actor) -> RescueImage:
        """Add or replace the image with this name and make it the default, with an audit entry, in one transaction.

        The image keeps none of its old files. Raises ValidationError.
        """
        image = self.filter(name=values["name"]).first()
        if image is None:
            return self.add(values, uploads, actor, default=True)
        image.revise(values, uploads, actor, default=True, keep_files=False)
        return image

    def default(self) -> RescueImage | None:
        return self.filter(is_default=True).first()

    def most_fetched(self) -> int:
        """Return the largest number of files that a machine fetches to boot one of these images."""
        booted = Q(files__kind__in=(ImageFile.Kind.KERNEL, ImageFile.Kind.INITRD))
        counts = self.annotate(number=models.Count("files", filter=booted)).values_list("number", flat=True)
        # The site adds two: its archive, and `ready`.
        return max([script.USUAL_FILES, *(number + 2 for number in counts)])


class RescueImage(models.Model):
    """A rescue system to boot: a kernel with its initrds and command line, or an iPXE script to chain."""

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
        help_text="For the kernel. The site appends BOOTIF=01-(MAC address), and initrd=(name) for each initrd. It "
        "replaces {url} by the base URL of the files, for example in fetch={url}/root.squashfs.",
    )
    chain_script = models.TextField(
        blank=True,
        max_length=MAX_CHAIN_SCRIPT,
        help_text="An iPXE script to run instead of a kernel. It must begin with #!ipxe. It may fetch the further "
        "files of this image by their names.",
    )
    reports = models.BooleanField(
        "reports that it is up",
        default=False,
        help_text="Select this if the system sends a report to the site as soon as it accepts logins. Otherwise it "
        "counts as up two minutes after its files have arrived.",
    )
    is_default = models.BooleanField(
        "default",
        default=False,
        help_text="The site uses this image if neither the machine nor the rescue has another one.",
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
                violation_error_message="Another image is already the default.",
            ),
            models.CheckConstraint(
                condition=Q(chain_script="") | Q(command_line=""),
                name="image_chains_or_boots_a_kernel",
                violation_error_message="An image with an iPXE script cannot have a kernel command line.",
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
            errors["command_line"] = f"Remove “{named[0]}”. The site adds initrd= with the right name for each initrd."
        placeholders = self.command_line.count(script.URL)
        if placeholders and len(self.command_line) + placeholders * _URL_ROOM > MAX_COMMAND_LINE:
            errors["command_line"] = (
                f"The command line may become too long. Each {script.URL} needs up to {_URL_ROOM} characters, and the "
                f"limit is {MAX_COMMAND_LINE}."
            )
        self.chain_script = self.chain_script.replace("\r\n", "\n")
        if self.chain_script and self.chain_script.partition("\n")[0].rstrip() != "#!ipxe":
            errors["chain_script"] = "The first line of an iPXE script must be “#!ipxe”."
        if errors:
            raise ValidationError(errors)

    def snapshot(self) -> dict[str, Any]:
        """Return the image as audit entries, the API and the command line show it, with at most one query for files."""
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
        self,
        values: Mapping[str, Any],
        uploads: Sequence[Upload],
        actor: Actor,
        *,
        default: bool | None = None,
        keep_files: bool = True,
    ) -> None:
        """Set `values` and files with an audit entry, in one transaction.

        A new kernel replaces the old one. New initrds replace all old ones. A further file replaces the one with the
        same name. Without `keep_files`, all old files are removed. Raises ValidationError, also if the image could be
        booted before and could not be booted after the change.
        """
        with self.change(actor, default=default):
            self.refresh_from_db()
            old_problem = self.problem()
            for name, value in values.items():
                setattr(self, name, value)
            self.full_clean()
            self.save()
            if not keep_files:
                self.files.all().delete()
            elif any(upload.kind == ImageFile.Kind.INITRD for upload in uploads):
                self.files.filter(kind=ImageFile.Kind.INITRD).delete()
            for upload in uploads:
                self.attach_stored(*upload)
            problem = self.problem()
            if problem and not old_problem:
                raise ValidationError(problem)

    @contextmanager
    def addition(self, actor: Actor, *, default: bool = False) -> Iterator[None]:
        """Run the block that stores this new image and its files in one transaction, with one audit entry."""
        with transaction.atomic():
            yield
            added = RescueImage.objects.get(pk=self.pk).snapshot()
            AuditEntry.objects.record("rescueimage_added", actor=actor, subject=self.name, details=added)
            if default:
                self.make_default(actor)

    @contextmanager
    def change(self, actor: Actor, *, default: bool | None = None) -> Iterator[None]:
        """Run the block that changes this image and its files in one transaction, with one audit entry.

        There is no entry if nothing changed. `default` None keeps the default image as it is.
        """
        with transaction.atomic():
            # Read the stored image: this object may already contain the values of a form.
            before = RescueImage.objects.select_for_update().get(pk=self.pk).snapshot()
            yield
            if default:
                self.make_default(actor)
            elif default is False and self.is_default:
                self.is_default = False
                self.save(update_fields=["is_default"])
            if changes := differences(before, RescueImage.objects.get(pk=self.pk).snapshot()):
                AuditEntry.objects.record("rescueimage_changed", actor=actor, subject=self.name, details=changes)
            transaction.on_commit(StoredFile.objects.discard_unused)

    def delete_audited(self, actor: Actor) -> None:
        """Delete the image with an audit entry. Machines that use it then use the default image."""
        with transaction.atomic():
            machines = [machine.name for machine in self.machines.all()[:MACHINES_NAMED]]
            details = {**self.snapshot(), "machines": machines}
            AuditEntry.objects.record("rescueimage_deleted", actor=actor, subject=self.name, details=details)
            self.delete()
            transaction.on_commit(StoredFile.objects.discard_unused)

    def make_default(self, actor: Actor) -> None:
        """Make this image the default.

        Raises PermissionDenied if there are other images and `actor` may not change images.
        """
        if self.is_default:
            return
        with transaction.atomic():
            self._make_default(actor)

    def _make_default(self, actor: Actor) -> None:
        former = RescueImage.objects.default()
        # A new default changes what machines without an image of their own boot.
        if RescueImage.objects.exclude(pk=self.pk).exists() and not actor.may("machines.change_rescueimage"):
            raise PermissionDenied("You need the permission to change rescue images to choose the default image.")
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
        """Return why this image cannot be booted, as a message for people; None if it can."""
        files = list(self.files.select_related("stored"))
        kinds = {file.kind for file in files}
        if not self.chain_script and ImageFile.Kind.KERNEL not in kinds:
            return f"Image “{self.name}” has no kernel. Upload one."
        conditions = {file.name: file.stored.condition() for file in files}
        if lost := [name for name, condition in conditions.items() if condition is Condition.LOST]:
            return f"Image “{self.name}”: {', '.join(lost)} is missing from the data directory. Upload it again."
        if damaged := [name for name, condition in conditions.items() if condition is Condition.DAMAGED]:
            return f"Image “{self.name}”: {', '.join(damaged)} is damaged in the data directory. Upload it again."
        served = {file.name for file in files} | {script.ARCHIVE, script.KEYS, script.UP, ""}
        for name in _BEHIND_URL.findall(self.command_line):
            # The booted system may complete a name that ends in a slash or is the beginning of a file's name.
            if name.strip("/") not in served and not any(one.startswith(name) for one in served):
                return f"Image “{self.name}” has no file “{name}”, but its command line names it. Upload the file."
        return None

    def read_changed(self) -> None:
        """Check the files that have changed on disk. Do not call it in a transaction: others would wait for it."""
        StoredFile.objects.filter(image_files__image=self).read_changed()

    def attach(self, kind: str, chunks: Iterable[bytes], name: str = "") -> ImageFile:
        """Check the name, store the bytes of `chunks` and attach the file. See `attach_stored`."""
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
    """A file of an image. The site serves it under its name."""

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
                violation_error_message="The image already has a file with this name.",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def check_name(cls, kind: str, name: str) -> None:
        """Raise ValidationError if a file of `kind` cannot be served under `name`."""
        if not _FILE_NAME.fullmatch(name):
            raise ValidationError(
                f"“{name[:100]}” is not a valid file name. Use letters, digits, “.”, “_” and “-”, and “/” for folders."
            )
        reserved = name in {script.KERNEL, script.READY, script.UP, script.ARCHIVE, script.CHAIN, script.KEYS}
        reserved = reserved or re.fullmatch(r"initrd(-\d+)?", name) is not None
        if kind == cls.Kind.FILE and reserved:
            raise ValidationError(f"The site uses the name “{name}” itself. Rename the file.")
