"""The admin's and the API's addresses. What NICs ask is answered before these are looked at: machines/boot/urls.py."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("rescuesite.api.urls")),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]
