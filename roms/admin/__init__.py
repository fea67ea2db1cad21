"""The staff's face of the app of ROMs: cards, builds, flash jobs, stations, and the ledger of what is where."""

from django.contrib import admin
from django_tasks_db.models import DBTaskResult

from machines.admin.machines import MachineAdmin
from roms.admin import builds, cards, flashing, ledger, stations

__all__ = ["builds", "cards", "flashing", "ledger", "stations"]

# Machines know nothing of ROMs; their page shows what their cards hold all the same.
MachineAdmin.inlines = (*MachineAdmin.inlines, ledger.InstalledROMInline)

if admin.site.is_registered(DBTaskResult):
    # The queue behind the jobs, whose pages say all of it better.
    admin.site.unregister(DBTaskResult)
