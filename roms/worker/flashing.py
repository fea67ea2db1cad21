"""Runs a flash job: calls the toolchain, and stores the results."""

from __future__ import annotations

import tempfile
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from machines.models.stored_file import DamagedFileError, StoredFile
from roms.models import FlashJob, JobState
from roms.models.flash import FlashKind
from roms.toolchain.flash import flashrom
from roms.toolchain.flash.flashing import (
    FlashError,
    FlashFailedError,
    Flashing,
    Limits,
    Listener,
    Phase,
    Refusal,
    RefusedError,
    StoppedError,
)
from roms.toolchain.flash.pci import PCISlot, WrongAddressError
from roms.toolchain.flash.programmers import WrongProgrammerError
from roms.toolchain.flash.station_lock import StationBusyError
from roms.toolchain.option_rom import OptionROMError, check_fits, identify, pad
from roms.toolchain.runner import ProgramMissingError, Stopped
from roms.worker.running import ClaimedJob


class NotOursError(Exception):
    """The job was cancelled, or stored as lost, just before the write. Nothing was written."""


class FlashRun(ClaimedJob[FlashJob], Listener):
    """Runs one flash job."""

    model = FlashJob
    limits = Limits()

    def work(self) -> None:
        job = self.job
        job.station.lock_path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            flashing = self._flashing()
            self.results(flashrom_version=flashrom.version())
        except (WrongProgrammerError, WrongAddressError, FlashError) as error:
            self.end(JobState.FAILED, f"{error} The job changed nothing.")
            return
        except ProgramMissingError as error:
            self._end_without_flashrom(error)
            return
        with tempfile.TemporaryDirectory(prefix=f"flash-{job.pk}-", dir=settings.RESCUESITE_DATA_DIR / "tmp") as folder:
            flashing.folder = Path(folder)
            self._do(flashing)

    def _flashing(self) -> Flashing:
        job, card = self.job, self.job.card
        if (job.pci_id, job.programmer) != (card.pci_id, card.programmer):
            raise FlashError(f"The card {card} was changed after the order of this job. Order the job again.")
        return Flashing(
            programmer=card.programmer_at(job.station),
            slot=PCISlot.parse(job.slot) if job.slot else None,
            chip=job.chip_name or None,
            contents_for=self._contents if job.action != FlashKind.SAVE else None,
            expected_size=card.chip_size,
            card=card.pci_id,
            folder=Path(settings.RESCUESITE_DATA_DIR) / "tmp",
            lock=job.station.lock_path,
            label=f"flash job {job.pk}",
            limits=self.limits,
            listener=self,
        )

    def _contents(self, chip: flashrom.Chip) -> bytes:
        """The new contents of the chip. Raises OptionROMError if they are for another card or too large."""
        job = self.job
        if job.action == FlashKind.RESTORE:
            # The toolchain refuses contents of another size.
            assert job.restores
            assert job.restores.backup
            self._check_chip(job.restores, chip)
            return job.restores.backup.contents()
        assert job.build
        assert job.build.artifact
        rom = job.build.artifact.contents()
        check_fits(rom, job.card.vendor, job.card.device, chip.size)
        return pad(rom, chip.size)

    def _check_chip(self, saved: FlashJob, chip: flashrom.Chip) -> None:
        """Raise RefusedError if the names show that the contents come from another chip."""
        # Other versions of flashrom may use another name for the same chip.
        is_comparable = saved.flashrom_version == self._progress["flashrom_version"] and saved.chip_size == chip.size
        if is_comparable and saved.chip_found != str(chip)[:200]:
            message = f"The contents were saved from the chip {saved.chip_found}, but this card has the chip {chip}."
            raise RefusedError(
                Refusal.WRONG_CHIP, f"{message} The site writes them back only to a chip of the same kind."
            )

    def _do(self, flashing: Flashing) -> None:
        try:
            result = flashing.run()
        except RefusedError as error:
            choices = {
                "chips": [chip.name for chip in error.chips],
                "slots": [
                    {"slot": str(card.slot), "macs": list(card.macs), "driver": card.driver} for card in error.cards
                ],
            }
            self.end(JobState.FAILED, str(error), refusal=error.refusal, choices=choices)
        except StoppedError as error:
            cancelled = error.stopped is Stopped.CANCELLED
            self.end(
                JobState.CANCELLED if cancelled else JobState.FAILED,
                f"{self.stop_reason} Nothing was written." if cancelled else str(error),
            )
        except NotOursError as error:
            self.end(JobState.CANCELLED, str(error))
        except FlashFailedError as error:
            self.results(phase=error.phase)
            self.end(JobState.FAILED, str(error), chip_state=error.state)
        except (FlashError, StationBusyError, OptionROMError, DamagedFileError) as error:
            self.end(JobState.FAILED, str(error))
        except ProgramMissingError as error:
            self._end_without_flashrom(error)
        else:
            self.end(
                JobState.SUCCEEDED,
                wrote=result.wrote,
                written_sha256=result.verified_sha256 or "",
                chip_found=str(result.chip)[:200],
                chip_size=result.size,
            )

    def _end_without_flashrom(self, error: ProgramMissingError) -> None:
        self.end(JobState.SITE_ERROR, f"{error} Install it: apt-get install flashrom")

    # Listener

    def phase_started(self, phase: Phase) -> None:
        if phase is Phase.WRITE:
            self._begin_to_write()
        self.phase(str(phase))

    def _begin_to_write(self) -> None:
        """Store that the write begins. From now on nobody can cancel. Raises NotOursError if somebody has."""
        writes = self.job.change(
            self.job.mine() & self.job.not_cancelled(), phase=Phase.WRITE, heartbeat_at=timezone.now()
        )
        if not writes:
            raise NotOursError("Cancelled just before the write. Nothing was written.")

    def store_backup(self, file: Path, sha256: str, chip: flashrom.Chip) -> None:
        contents = file.read_bytes()
        stored = StoredFile.objects.store([contents])
        kept = self.job.beat(
            backup=stored,
            backup_sha256=sha256,
            backup_description=identify(contents)[:200],
            chip_found=str(chip)[:200],
            chip_size=chip.size,
        )
        if not kept:
            raise NotOursError("The job was stored as lost while it read the chip. Nothing was written.")
        self.say(f"Saved {len(contents)} bytes, SHA-256 {sha256}: {identify(contents)}")

    def note(self, text: str) -> None:
        self.say(text)
