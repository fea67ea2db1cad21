"""Stored files: bytes kept in the data directory under their SHA-256, and read again from time to time."""

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

#: A file's bytes are read again after this time, however it looks.
READ_AGAIN = timedelta(days=1)
#: Up to this many bytes are read wherever a changed file is met (some 50 ms), more by the worker: nobody waits for it.
READ_AT_ONCE = 16 << 20


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
                sync(stored.path.parent)
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
