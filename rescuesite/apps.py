from django.contrib.admin.apps import AdminConfig


class RescueAdminConfig(AdminConfig):
    """Django's admin, with this site's front page."""

    default_site = "rescuesite.admin_site.RescueAdminSite"
