"""The boot face's addresses. `machines.boot.middleware` answers them, ahead of everything else."""

from django.urls import path, re_path

from machines.boot import views

urlpatterns = [
    path("boot", views.boot),
    path("boot/", views.boot),
    path("rescue.php", views.boot),
    re_path(r"^boot/(?P<token>[A-Za-z0-9_-]{1,64})/(?P<name>[A-Za-z0-9._-]{1,100})$", views.rescue_file),
    path("healthz", views.healthz),
    path("readyz", views.readyz),
]
