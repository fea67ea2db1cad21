"""The site's addresses, and pages that keep their process from doing anything else."""

import ctypes
import time

from django.http import HttpRequest, HttpResponse
from django.urls import path

from rescuesite.urls import urlpatterns as site_urls


def hold(request: HttpRequest) -> HttpResponse:
    """Holds Python's lock for some seconds, as a regular expression may."""
    ctypes.PyDLL(None).sleep(int(request.GET["seconds"]))
    return HttpResponse("held\n")


def compute(request: HttpRequest) -> HttpResponse:
    """Computes for some seconds."""
    until = time.monotonic() + int(request.GET["seconds"])
    while time.monotonic() < until:
        sum(range(10_000))
    return HttpResponse("computed\n")


urlpatterns = [path("hold/", hold), path("compute/", compute), *site_urls]
