"""The admin's and the API's addresses. What NICs ask is answered before these are looked at: machines/boot/urls.py."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("rescuesite.api.urls")),
    # Browsers ask for it wherever no page says another.
    path("favicon.ico", RedirectView.as_view(url=static("machines/icon.svg"), permanent=True)),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]

handler400 = "rescuesite.error_pages.bad_request"
