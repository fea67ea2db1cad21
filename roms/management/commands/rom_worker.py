"""manage.py rom_worker: the old name of manage.py worker."""

from roms.management.commands.worker import Command

__all__ = ["Command"]
