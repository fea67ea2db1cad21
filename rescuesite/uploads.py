"""Uploaded files on their way: in memory while they are small, otherwise in the data directory's `tmp`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.files.uploadedfile import TemporaryUploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler

from rescuesite import disk_space


class LargeUpload(TemporaryUploadedFile):
    """A file in `tmp`; where it could not be kept whole, reading it says why."""

    error: OSError | None = None

    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Raises OSError."""
        if self.error:
            raise self.error
        yield from super().chunks(chunk_size)

    def take(self, data: bytes) -> None:
        """Write more of it, unless the disk is nearly full: then it is given up, and takes no room."""
        if self.error:
            return
        try:
            disk_space.check(len(data))
            self.write(data)
        except OSError as error:
            self.error = error
            self.truncate(0)


class LargeUploadHandler(TemporaryFileUploadHandler):
    """Receives a file to its end also where it cannot be kept, so that the form can say so beside it."""

    file: LargeUpload

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super(TemporaryFileUploadHandler, self).new_file(*args, **kwargs)
        self.file = LargeUpload(self.file_name or "", self.content_type, 0, self.charset, self.content_type_extra)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self.file.take(raw_data)
