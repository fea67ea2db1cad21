"""The staff's face of the app of ROMs: cards, builds, flash jobs, stations, and the ledger of what is where."""

from machines.admin.machines import MachineAdmin
from roms.admin import builds, cards, flashing, ledger, stations

__all__ = ["builds", "cards", "flashing", "ledger", "stations"]

# Machines know nothing of ROMs; their page shows what their cards hold all the same.
MachineAdmin.inlines = (*MachineAdmin.inlines, ledger.InstalledROMInline)
