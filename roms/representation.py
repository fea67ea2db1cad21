"""Builds and flash jobs as JSON, in the words of the contract."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone

from machines.representation import iso
from roms.models import Build, Card, FlashJob, InstalledROM, Job, Station


def _job_json(job: Job, now: datetime) -> dict[str, Any]:
    return {
        "id": job.pk,
        "state": job.status_at(now),
        "phase": job.phase,
        "progress": job.progress,
        "overdue": job.overdue,
        "error": job.error or (job.lost_message() if job.status_at(now) == Job.State.LOST else ""),
        "requested_by": job.requested_by_name,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "finished_at": iso(job.finished_at),
    }


def build_json(build: Build, now: datetime | None = None) -> dict[str, Any]:
    """A build; `size` in bytes, `fits` null where the chip's size is not known."""
    return {
        **_job_json(build, now or timezone.now()),
        "card": build.card.slug if build.card else None,
        "target": build.target,
        "profile": build.profile,
        "options": build.options,
        "banner": build.banner,
        "script": build.script_spec if build.script_spec is not None else {"text": build.script},
        "script_sha256": build.script_sha256,
        "warnings": build.warnings(),
        "ipxe_ref": build.ipxe_ref,
        "ipxe_commit": build.ipxe_commit,
        "commands": build.commands,
        "tool_versions": build.tool_versions,
        "isolation": build.isolation,
        "chip_size": build.chip_size,
        "size": build.size,
        "fits": build.fits,
        "sha256": build.sha256 or None,
    }


def flash_json(job: FlashJob, now: datetime | None = None) -> dict[str, Any]:
    return {
        **_job_json(job, now or timezone.now()),
        "action": job.action,
        "station": job.station.name,
        "card": job.card.slug,
        "slot": job.slot,
        "chip": job.chip_name,
        "build": job.build_id,
        "restores": job.restores_id,
        "machine": job.machine_name or None,
        "chip_found": job.chip_found,
        "chip_size": job.chip_size,
        "backup_sha256": job.backup_sha256 or None,
        "wrote": job.wrote,
        "written_sha256": job.written_sha256 or None,
        "chip_state": job.chip_state or None,
        "refusal": job.refusal or None,
        "choices": job.choices,
    }


def card_json(card: Card) -> dict[str, Any]:
    """A model of card; `chip_size` in bytes, null where it is found when flashing."""
    return {
        "key": card.slug,
        "pci_id": card.pci_id,
        "name": card.name,
        "driver": card.driver,
        "programmer": card.programmer,
        "flashable": bool(card.programmer),
        "practice": card.is_practice,
        "chip_size": card.chip_size,
        "conflict": card.conflict,
        "notes": card.notes,
        "origin": card.origin,
    }


def station_json(station: Station, now: datetime | None = None) -> dict[str, Any]:
    return {
        "name": station.name,
        "has_worker": station.has_worker(now),
        "seen_at": iso(station.seen_at),
        "notes": station.notes,
    }


def installed_json(installed: InstalledROM, *, outdated: bool) -> dict[str, Any]:
    """What one card holds. `InstalledROM.objects.outdated` knows which are outdated."""
    return {
        "id": installed.pk,
        "machine": installed.machine.name if installed.machine else None,
        "card": installed.card.slug,
        "mac": installed.mac or None,
        "build": installed.build_id,
        "outdated": outdated,
        "sha256": installed.sha256 or None,
        "description": installed.description,
        "since": iso(installed.since),
        "by": installed.by,
        "flash_job": installed.flash_job_id,
        "notes": installed.notes,
    }
