from django.apps import AppConfig


class RomsConfig(AppConfig):
    name = "roms"
    verbose_name = "ROMs"
