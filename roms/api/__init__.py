"""The API of builds, flash jobs, and what they are made for."""

from rest_framework.routers import BaseRouter


def register(router: BaseRouter) -> None:
    """Name this app's lists; rescuesite/api/urls.py does the rest."""
    from roms.api import views

    router.register("rom-builds", views.BuildViewSet, basename="rom-builds")
    router.register("flash-jobs", views.FlashJobViewSet, basename="flash-jobs")
    router.register("cards", views.CardViewSet, basename="cards")
    router.register("stations", views.StationViewSet, basename="stations")
    router.register("installed-roms", views.InstalledROMViewSet, basename="installed-roms")
