"""The app of ROMs: cards, builds, flash jobs, and which card holds what."""

from django.apps import AppConfig


class RomsConfig(AppConfig):
    name = "roms"
    verbose_name = "ROMs"
