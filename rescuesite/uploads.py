"""Receive uploaded files: small ones in memory, large ones in the data directory's `tmp`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.files.uploadedfile import TemporaryUploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler

from rescuesite import disk_space


class LargeUpload(TemporaryUploadedFile):
    """A file in `tmp`. If it could not be stored completely, reading it raises the error."""

    error: OSError | None = None

    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Raises OSError."""
        if self.error:
            raise self.error
        yield from super().chunks(chunk_size)

    def take(self, data: bytes) -> None:
        """Append data. If the disk is nearly full, drop the file and keep the error."""
        if self.error:
            return
        try:
            disk_space.check(len(data))
            self.write(data)
        except OSError as error:
            self.error = error
            self.truncate(0)


class LargeUploadHandler(TemporaryFileUploadHandler):
    """Receives a file to its end even if it cannot be stored, so that the form can show the error."""

    file: LargeUpload

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super(TemporaryFileUploadHandler, self).new_file(*args, **kwargs)
        self.file = LargeUpload(self.file_name or "", self.content_type, 0, self.charset, self.content_type_extra)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self.file.take(raw_data)
