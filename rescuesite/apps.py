import logging
from pathlib import Path

from django.conf import settings
from django.contrib.admin.apps import AdminConfig

from rescuesite import data_directory

logger = logging.getLogger(__name__)


class RescueAdminConfig(AdminConfig):
    """Django's admin with the site's front page, and the checks at the start of each process."""

    default_site = "rescuesite.admin_site.RescueAdminSite"

    def ready(self) -> None:
        from rescuesite import checks  # noqa: F401 - registers the checks

        super().ready()
        for found in data_directory.secure(Path(settings.RESCUESITE_DATA_DIR), settings.RESCUESITE_DATABASE_FILE):
            logger.warning("%s", found)
