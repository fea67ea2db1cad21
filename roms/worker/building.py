"""Runs a build: calls the toolchain, checks the ROM, and stores the results."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

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
from roms.worker.running import ClaimedJob, logger

#: The errors of the site. The others are errors of the order.
_SITE_ERRORS = {ErrorKind.SOURCE, ErrorKind.MISSING_TOOL, ErrorKind.DISK_FULL}


def builder() -> Builder:
    """The builder with the site's settings."""
    folder = Path(settings.RESCUESITE_DATA_DIR) / "ipxe"
    source = SourceTree(settings.RESCUESITE_IPXE_SOURCE, settings.RESCUESITE_IPXE_REF, folder)
    return Builder(source, folder, user=settings.RESCUESITE_BUILD_USER, hidden=Path(settings.RESCUESITE_DATA_DIR))


class BuildRun(ClaimedJob[Build]):
    """Runs one build."""

    model = Build
    #: Why the disk has no space for this build; empty if it has.
    _no_room = ""

    def work(self) -> None:
        build = self.job
        if self._lacks_room():
            self._ended_without_room()
            return
        self.results(ipxe_ref=settings.RESCUESITE_IPXE_REF)
        listener = Listener(
            log=self.log,
            phase=lambda phase: self.phase(str(phase)),
            progress=self.progress,
            isolation=lambda sentence: self.results(isolation=sentence),
        )
        temporary = tempfile.TemporaryDirectory(prefix="build-", dir=settings.RESCUESITE_DATA_DIR / "tmp")
        with temporary as folder:
            maker = builder()
            try:
                result = maker.build(self._request(), Path(folder), listener, self.should_stop)
            except BuildError as error:
                self._failed(error)
                return
            self.results(
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
        """Whether to stop: also if the disk is nearly full, because rescues need the space."""
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
        """Why the result is not usable; empty if it is."""
        build = self.job
        if not build.is_rom:
            return ""
        assert build.card
        try:
            check_fits(result.artifact.read_bytes(), build.card.vendor, build.card.device)
        except OptionROMError as error:
            return f"The result is not a ROM for this card. {error}"
        return build.too_large(result.size)

    def _failed(self, error: BuildError) -> None:
        message = str(error)
        self.say(message)
        if error.kind is ErrorKind.CANCELLED and self._no_room:
            self._ended_without_room()
        elif error.kind is ErrorKind.CANCELLED:
            self.end(JobState.CANCELLED, self.stop_reason)
        else:
            self.end(JobState.SITE_ERROR if error.kind in _SITE_ERRORS else JobState.FAILED, message)

    def _ended_without_room(self) -> None:
        message = f"The site cannot build now: {self._no_room}."
        self.say(message)
        self.end(JobState.SITE_ERROR, message)


def load_cards(maker: Builder, commit: str) -> int | None:
    """Add the cards of iPXE's source to the list, once per commit and flashrom; return the number of all cards.

    None if they were added before, or if they cannot be read: the error is logged.
    """
    loaded = maker.folder / "cards-loaded"
    flashable = flashrom.supported_cards_if_installed()
    # Another flashrom may have been installed since the last time.
    mark = f"{commit} {hashlib.sha256(repr(flashable).encode()).hexdigest()}"
    if loaded.exists() and loaded.read_text() == mark:
        return None
    try:
        number = Card.objects.load_tree(maker.catalogue(commit), flashable)
    except (CardError, SourceError, Error) as error:
        logger.error("cannot read the cards of iPXE's source: %s", error)
        return None
    loaded.write_text(mark)
    return number


def _stored(artifact: Path) -> StoredFile:
    with artifact.open("rb") as file:
        return StoredFile.objects.store(iter(lambda: file.read(1 << 20), b""))
