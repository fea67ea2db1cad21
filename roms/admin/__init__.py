"""The staff's face of the app of ROMs: cards, builds, flash jobs, stations, and the ledger of what is where."""

from machines.admin.machines import MachineAdmin
from roms.admin import cards, flashing, ledger, stations
from roms.admin.builds import pages

__all__ = ["cards", "flashing", "ledger", "pages", "stations"]

# Machines know nothing of ROMs; their page shows what their cards hold all the same.
MachineAdmin.inlines = (*MachineAdmin.inlines, ledger.InstalledROMInline)
