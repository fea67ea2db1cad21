"""Takes the boot face's requests out of the way of everything that the admin needs and a NIC does not."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import Resolver404, resolve

from machines.boot.http import not_found

_URLS = "machines.boot.urls"


class BootFaceMiddleware:
    """Stands first, so that no other middleware can refuse a Host, redirect, ask for a session or a CSRF token."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # A base URL that ends with a slash makes two of them.
        path = "/" + request.path_info.lstrip("/")
        try:
            match = resolve(path, urlconf=_URLS)
        except Resolver404:
            if path.startswith("/boot/"):
                return not_found()
            return self._get_response(request)
        response: HttpResponseBase = match.func(request, *match.args, **match.kwargs)
        if request.method == "HEAD" and not response.streaming and isinstance(response, HttpResponse):
            # The headers tell of the body that a GET would get; the server would send this one as well.
            response.content = b""
        return response
