"""Rescue images, and the files that they are made of."""

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

#: A command line longer than this is cut by the x86 kernel (COMMAND_LINE_SIZE), less what the site appends.
MAX_COMMAND_LINE = 1800
MAX_CHAIN_SCRIPT = 64 * 1024
#: So many of the machines that name an image its audit entries name in turn.
MACHINES_NAMED = 200
#: Folders are for systems that look for their files below an address, such as sysresccd/x86_64/airootfs.sfs.
_FILE_NAME = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
#: Room for what the placeholder for the files' address becomes: a site's name, a token.
_URL_ROOM = 150
_BEHIND_URL = re.compile(re.escape(script.URL) + r"/?([A-Za-z0-9._/-]*)")


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
        """Let the image of this name have these values and files and no others, and be the default.

        With its audit entry; all or nothing. Raises ValidationError.
        """
        image = self.filter(name=values["name"]).first()
        if image is None:
            return self.add(values, uploads, actor, default=True)
        image.revise(values, uploads, actor, default=True, keep_files=False)
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
        self,
        values: Mapping[str, Any],
        uploads: Sequence[Upload],
        actor: Actor,
        *,
        default: bool | None = None,
        keep_files: bool = True,
    ) -> None:
        """Change what `values` name, with the audit entry; all or nothing.

        A new kernel takes the old one's place, new initrds that of all old ones, a further file that of its
        name; without `keep_files`, no old file stays. Raises ValidationError, also for what would keep an image from
        booting that could be booted before.
        """
        with self.change(actor, default=default):
            self.refresh_from_db()
            was_bad = self.problem()
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
            if problem and not was_bad:
                raise ValidationError(problem)

    @contextmanager
    def addition(self, actor: Actor, *, default: bool = False) -> Iterator[None]:
        """What the block stores of this new image and its files is one addition, with one audit entry."""
        with transaction.atomic():
            yield
            added = RescueImage.objects.get(pk=self.pk).snapshot()
            AuditEntry.objects.record("rescueimage_added", actor=actor, subject=self.name, details=added)
            if default:
                self.make_default(actor)

    @contextmanager
    def change(self, actor: Actor, *, default: bool | None = None) -> Iterator[None]:
        """What the block stores of this image and its files is one change, with one audit entry; none without one.

        Whether it is the default is left as it is where `default` is None.
        """
        with transaction.atomic():
            # As it is stored: this one may hold what somebody has typed.
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
