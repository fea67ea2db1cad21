"""The admin pages of cards, builds, flash jobs, stations and installed ROMs."""

from machines.admin.machines import MachineAdmin
from roms.admin import cards, flashing, ledger, stations
from roms.admin.builds import pages

__all__ = ["cards", "flashing", "ledger", "pages", "stations"]

# The app `machines` does not import `roms`, so the inline is added to its page here.
MachineAdmin.inlines = (*MachineAdmin.inlines, ledger.InstalledROMInline)
