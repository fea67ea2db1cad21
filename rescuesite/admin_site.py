"""The admin site: Django's own, with a front page that shows how things stand."""

from django.contrib import admin


class RescueAdminSite(admin.AdminSite):
    site_header = "Rescue"
    site_title = "Rescue"
    index_title = "How things stand"
