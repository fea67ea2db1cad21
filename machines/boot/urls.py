"""The boot face's addresses. `machines.boot.middleware` answers them, ahead of everything else."""

from django.urls import path, re_path

from machines.boot import rescue_views, script, views

_RESCUE = "boot/(?P<token>[A-Za-z0-9_-]{1,64})"

urlpatterns = [
    path("boot", views.boot),
    path("boot/", views.boot),
    path("rescue.php", views.boot),
    path(f"boot/{script.DHCP_SCRIPT}", views.dhcp_script),
    re_path(rf"^{_RESCUE}/{script.UP}$", rescue_views.report_up),
    re_path(rf"^{_RESCUE}/(?P<name>(?=.{{1,100}}$)[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*)$", rescue_views.rescue_file),
    path("healthz", views.healthz),
    path("readyz", views.readyz),
]
