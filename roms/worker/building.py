"""A build in a worker: its order put to the toolchain, the ROM checked, and what comes of it stored."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error

from machines.models.stored_file import StoredFile
from rescuesite import disk_space
from roms.models import Build, Card, JobState
from roms.toolchain.flash import flashrom
from roms.toolchain.ipxe.build import Builder, BuildError, BuildRequest, BuildResult, Target
from roms.toolchain.ipxe.cards import CardError
from roms.toolchain.ipxe.make_output import ErrorKind, Listener
from roms.toolchain.ipxe.source import SourceError, SourceTree
from roms.toolchain.option_rom import OptionROMError, check_fits
from roms.toolchain.runner import ProgramMissingError
from roms.worker.running import ClaimedJob, logger

#: What is wrong here, rather than with what was asked for.
_OURS = {ErrorKind.SOURCE, ErrorKind.MISSING_TOOL, ErrorKind.DISK_FULL}


def builder() -> Builder:
    """Builds from the site's source of iPXE, in its data directory."""
    folder = Path(settings.RESCUESITE_DATA_DIR) / "ipxe"
    source = SourceTree(settings.RESCUESITE_IPXE_SOURCE, settings.RESCUESITE_IPXE_REF, folder)
    return Builder(source, folder, user=settings.RESCUESITE_BUILD_USER, hidden=Path(settings.RESCUESITE_DATA_DIR))


class BuildRun(ClaimedJob[Build]):
    """One build."""

    model = Build
    #: Why the disk has no room for this build; empty where it has.
    _no_room = ""

    def work(self) -> None:
        build = self.job
        if self._lacks_room():
            self._ended_without_room()
            return
        self._results(ipxe_ref=settings.RESCUESITE_IPXE_REF)
        listener = Listener(
            log=self.log,
            phase=lambda phase: self.phase(str(phase)),
            progress=self.progress,
            isolation=lambda sentence: self._results(isolation=sentence),
        )
        with _folder() as folder:
            maker = builder()
            try:
                result = maker.build(self._request(), folder, listener, self.should_stop)
            except BuildError as error:
                self._failed(error)
                return
            self._results(
                ipxe_commit=result.commit,
                commands=list(result.commands),
                tool_versions=dict(result.tool_versions),
                effective_options=dict(result.options),
                size=result.size,
            )
            load_cards(maker, result.commit)
            if problem := self._problem(result):
                self.say(problem)
                self.end(JobState.FAILED, problem)
                return
            stored = _stored(result.artifact)
        self.say(f"{build.file_name}: {result.size} bytes, SHA-256 {stored.sha256}")
        self.end(JobState.SUCCEEDED, artifact=stored, sha256=stored.sha256)

    def should_stop(self) -> bool:
        """Also where it takes the room that rescues need."""
        return self._lacks_room() or super().should_stop()

    def _lacks_room(self) -> bool:
        self._no_room = self._no_room or disk_space.problem()
        return bool(self._no_room)

    def _request(self) -> BuildRequest:
        build, card = self.job, self.job.card
        is_rom = card is not None and build.is_rom
        return BuildRequest(
            target=Target(build.target),
            script=build.script.encode(),
            card=card.pci_id if card and is_rom else "",
            driver=card.driver if card and is_rom and card.conflict else "",
            profile=build.profile,
            options=build.changes(),
            banner=build.banner,
            foreign_images=not build.has_site_script,
        )

    def _problem(self, result: BuildResult) -> str:
        """Why what was made is not what was wanted; empty where it is."""
        build = self.job
        if not build.is_rom:
            return ""
        assert build.card
        try:
            check_fits(result.artifact.read_bytes(), build.card.vendor, build.card.device)
        except OptionROMError as error:
            return f"What was built is not a ROM for this card. {error}"
        return build.too_large(result.size)

    def _failed(self, error: BuildError) -> None:
        message = str(error)
        self.say(message)
        if error.kind is ErrorKind.CANCELLED and self._no_room:
            self._ended_without_room()
        elif error.kind is ErrorKind.CANCELLED:
            self.end(JobState.CANCELLED, self.stop_reason)
        else:
            self.end(JobState.SITE_ERROR if error.kind in _OURS else JobState.FAILED, message)

    def _ended_without_room(self) -> None:
        message = f"Nothing is built now: {self._no_room}."
        self.say(message)
        self.end(JobState.SITE_ERROR, message)

    def _results(self, **values: Any) -> None:
        self._progress |= values


def load_cards(maker: Builder, commit: str) -> int | None:
    """Take the tree's cards into the catalogue, once for each commit and flashrom; returns how many there are then.

    None where they were taken already, or cannot be read: the log says why.
    """
    loaded = maker.folder / "cards-loaded"
    try:
        flashable = flashrom.supported_cards()
    except ProgramMissingError:
        flashable = []
    # flashrom may have come, or another one, since the tree was read.
    mark = f"{commit} {hashlib.sha256(repr(flashable).encode()).hexdigest()}"
    if loaded.exists() and loaded.read_text() == mark:
        return None
    try:
        number = Card.objects.load_tree(maker.catalogue(commit), flashable)
    except (CardError, SourceError, Error) as error:
        logger.error("the cards of iPXE's tree cannot be read: %s", error)
        return None
    loaded.write_text(mark)
    return number


@contextmanager
def _folder() -> Iterator[Path]:
    """Where the artifact is put."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=settings.RESCUESITE_DATA_DIR / "tmp") as folder:
        yield Path(folder)


def _stored(artifact: Path) -> StoredFile:
    with artifact.open("rb") as file:
        return StoredFile.objects.store(iter(lambda: file.read(1 << 20), b""))
