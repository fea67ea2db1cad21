"""Stored files: the site keeps them in the data directory under their SHA-256 and checks them from time to time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from machines import integrity
from machines.integrity import Condition
from machines.models.audit import AuditEntry
from rescuesite import disk_space, locks
from rescuesite.data_directory import same_owner
from rescuesite.files import sync

#: Each file is read again after this time, even if it looks unchanged.
READ_AGAIN = timedelta(days=1)
#: A changed file up to this size is read at once (some 50 ms). The worker reads larger ones, so that nobody waits.
READ_AT_ONCE = 16 << 20


class StoredFileQuerySet(models.QuerySet["StoredFile"]):
    def store(self, chunks: Iterable[bytes]) -> StoredFile:
        """Store the bytes of `chunks` and return their file. Equal bytes are stored once.

        The file is complete and synced to disk before its row exists. Raises OSError, also if the disk is nearly full.
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
                # A web server in the site's group may send this file. See deploy/.
                Path(draft).chmod(0o640)
                Path(draft).replace(stored.path)
                sync(stored.path.parent)
                return self._keep(stored)
        finally:
            Path(draft).unlink(missing_ok=True)

    def _keep(self, draft: StoredFile) -> StoredFile:
        """Add or update the row of a file that was just written. The file is not damaged any more."""
        now = timezone.now()
        # The new creation time keeps `discard_unused` away: an image is about to refer to the file.
        values = {"size": draft.size, "created_at": now, "read_at": now, "looks": integrity.metadata(draft.path)[1]}
        with transaction.atomic():
            was_damaged = self.filter(sha256=draft.sha256, damaged_at__isnull=False).exists()
            stored, _ = self.update_or_create(sha256=draft.sha256, defaults=values | {"damaged_at": None})
            if was_damaged:
                stored.record("file_repaired")
        return stored

    def read_changed(self) -> None:
        """Read the files again whose metadata has changed since they were last read."""
        for stored in self.all():
            if stored.looks_changed():
                stored.read_again()

    def due(self, now: datetime | None = None) -> StoredFile | None:
        """Return the file with the oldest check, if that was more than a day ago."""
        before = (now or timezone.now()) - READ_AGAIN
        return self.filter(Q(read_at__isnull=True) | Q(read_at__lt=before)).order_by("read_at").first()

    def damaged(self) -> StoredFileQuerySet:
        """Return the files that did not match their SHA-256 when they were last read."""
        return self.filter(damaged_at__isnull=False)

    def discard_unused(self, older_than: timedelta = timedelta(hours=1)) -> int:
        """Remove the files that nothing refers to. Return their number.

        Keep new files: their image may be about to be saved.
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
        """Remove files without a row: their upload was rolled back, or its process died."""
        before = time.time() - older_than.total_seconds()
        folder = Path(settings.RESCUESITE_DATA_DIR)
        removed = 0
        # A folder in tmp/ belongs to an image build that may still be running.
        for path in filter(Path.is_file, [*folder.glob("files/??/*"), *folder.glob("tmp/*")]):
            with _files_locked(), contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before and not self.filter(sha256=path.name).exists():
                    path.unlink()
                    removed += 1
        return removed


def _files_locked() -> contextlib.AbstractContextManager[None]:
    """Lock the stored files, so that one process at a time adds or removes them."""
    return locks.held("files")


def chown_to_site_owner(path: Path) -> None:
    """Set the owner of `path` to the owner of the data directory, because a station's worker may run as root."""
    same_owner(path, Path(settings.RESCUESITE_DATA_DIR))


class StoredFile(models.Model):
    """A file in the data directory, stored under its SHA-256."""

    sha256 = models.CharField("SHA-256", max_length=64, unique=True)
    size = models.PositiveBigIntegerField(help_text="in bytes")
    created_at = models.DateTimeField(default=timezone.now)
    #: The time when the file was last read.
    read_at = models.DateTimeField(null=True, editable=False)
    #: The metadata of the file at that time (see `integrity.metadata`); empty if it was never read.
    looks = models.CharField(max_length=100, blank=True, editable=False)
    #: The time when the site found that the file does not match its SHA-256.
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
        """Return the condition of the file from its last check. Only a small file that has changed is read now."""
        try:
            size, looks = integrity.metadata(self.path)
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
        """Whether the file exists and its metadata has changed since it was last read."""
        try:
            return integrity.metadata(self.path) != (self.size, self.looks)
        except OSError:
            return False

    def contents(self) -> bytes:
        """Read all bytes and verify them, for uses where damage would be costly. Raises DamagedFileError, OSError."""
        contents = self.path.read_bytes()
        if hashlib.sha256(contents).hexdigest() != self.sha256:
            raise DamagedFileError(f"The stored file {self} is damaged: its contents are not those of its SHA-256.")
        return contents

    def read_again(self, **pace: Any) -> None:
        """Read the file, store the result and report a change. `pace`: see `integrity.read`."""
        try:
            found, looks = integrity.read(self.path, **pace)
        except OSError:
            return
        now = timezone.now()
        damaged_at = None if found == self.sha256 else self.damaged_at or now
        unchanged_row = StoredFile.objects.filter(pk=self.pk, looks=self.looks, damaged_at=self.damaged_at)
        has_changed = (damaged_at is None) != (self.damaged_at is None)
        with transaction.atomic():
            # Another process may have stored or read the file meanwhile.
            if not unchanged_row.update(read_at=now, looks=looks, damaged_at=damaged_at):
                return
            self.read_at, self.looks, self.damaged_at = now, looks, damaged_at
            if has_changed:
                self.record("file_damaged" if damaged_at else "file_repaired")

    def record(self, action: str) -> None:
        """Add an audit entry about the file, and one for each rescue that uses it."""
        images = [f"{file.image.name}: {file.name}" for file in self.image_files.select_related("image")]
        details = {"sha256": self.sha256, "size": self.size, "images": images}
        AuditEntry.objects.record(action, subject=", ".join(images)[:150] or self.sha256, details=details)
        for file in self.rescue_files.select_related("rescue__machine"):
            AuditEntry.objects.record(
                f"rescue_{action}", machine=file.rescue.machine, rescue=file.rescue, subject=file.name
            )


class DamagedFileError(Exception):
    """A stored file does not match its SHA-256. The message names the file."""
