"""Cards, stations, builds, flash jobs and installed ROMs."""

from roms.models.build import ROM_TARGETS, TARGETS, Build, Profile
from roms.models.card import Card
from roms.models.flash import FlashJob, FlashKind
from roms.models.job import Job, JobState
from roms.models.ledger import InstalledROM
from roms.models.station import Station

__all__ = [
    "ROM_TARGETS",
    "TARGETS",
    "Build",
    "Card",
    "FlashJob",
    "FlashKind",
    "InstalledROM",
    "Job",
    "JobState",
    "Profile",
    "Station",
]
