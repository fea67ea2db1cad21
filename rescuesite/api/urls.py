"""The URLs of the API. The resources are in machines/api/ and roms/api/."""

from django.contrib.auth.decorators import login_required
from django.urls import path, re_path
from rest_framework.routers import SimpleRouter

from machines.api import register as register_machines
from rescuesite.api import schema
from rescuesite.api.views import DocsView, NothingHereView, RootView, SchemaView
from roms.api import register as register_roms

__all__ = ["schema", "urlpatterns"]

router = SimpleRouter()
register_machines(router)
register_roms(router)

urlpatterns = [
    path("", RootView.as_view(), name="api-root"),
    path("schema/", SchemaView.as_view(), name="api-schema"),
    # This is a page for people, so it redirects to the login.
    path("docs/", login_required(DocsView.as_view()), name="api-docs"),
    *router.urls,
    re_path("", NothingHereView.as_view()),
]
