"""The URLs of the admin and the API. The boot endpoints are in machines/boot/urls.py and are answered before these."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("rescuesite.api.urls")),
    # Browsers request it for pages without an icon of their own.
    path("favicon.ico", RedirectView.as_view(url=static("machines/icon.svg"), permanent=True)),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]

handler400 = "rescuesite.error_pages.bad_request"
handler404 = "rescuesite.error_pages.page_not_found"
