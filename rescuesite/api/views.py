"""Base classes of the API's views, and the views without a resource."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from django.db.models import Model
from django.urls import Resolver404, resolve
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework import status
from rest_framework.exceptions import NotFound
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from rescuesite.actors import actor_of
from rescuesite.api.lists import FilteredLists

M = TypeVar("M", bound=Model)

#: The names of the lists in URLs.
LISTS = (
    *("machines", "images", "rescues", "audit", "sightings", "notification-rules", "notifications"),
    *("rom-builds", "flash-jobs", "cards", "stations", "installed-roms"),
)


class NotStored(APIView):
    """For views whose answers must not be cached."""

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response.headers.setdefault("Cache-Control", "no-store")
        return super().finalize_response(request, response, *args, **kwargs)


class Resource(NotStored, FilteredLists, ListModelMixin, RetrieveModelMixin, GenericViewSet[M]):
    """A resource with a list and a URL for each row."""

    def created(self, row: Any, name: Any, shown: Any = None) -> Response:
        """Return the answer to a POST that created `row`. `name` is the end of its URL. `shown` replaces its data."""
        where = reverse(f"{self.basename}-detail", args=[name], request=self.request)
        data = self.get_serializer(row).data if shown is None else shown
        return Response(data, status.HTTP_201_CREATED, headers={"Location": where})


class DeletableResource(Resource[M]):
    """A resource that supports DELETE, with an audit entry."""

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        row: Any = self.get_object()
        row.delete_audited(actor_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(exclude=True)
class RootView(NotStored):
    """The URLs of all lists."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        names = {name: f"{name}-list" for name in LISTS} | {"schema": "api-schema", "docs": "api-docs"}
        return Response({name: reverse(route, request=request) for name, route in names.items()})


@extend_schema(exclude=True)
class NothingHereView(APIView):
    """Answers unknown URLs with a JSON error."""

    authentication_classes = ()
    permission_classes = [AllowAny]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> NoReturn:
        # Do not redirect to the URL with a slash: the redirect would turn a POST into a GET.
        path = f"{request.path}/"
        try:
            there = not path.endswith("//") and getattr(resolve(path).func, "cls", None) is not NothingHereView
        except Resolver404:
            there = False
        raise NotFound(f"Not found. Add the slash at the end: {path}" if there else None)


class SchemaView(SpectacularAPIView):
    """The OpenAPI description, as YAML or JSON."""

    content_negotiation_class = DefaultContentNegotiation
    permission_classes = [IsAuthenticated]


class DocsView(SpectacularSwaggerSplitView):
    """The API's documentation, where people can try requests. Its script has its own URL."""

    content_negotiation_class = DefaultContentNegotiation
    permission_classes = [IsAuthenticated]
    url_name = "api-schema"
