"""What all views of the API share, and those that belong to no resource."""

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

#: The resources' lists, by the names that their routes have.
LISTS = (
    *("machines", "images", "rescues", "audit", "sightings", "notification-rules", "notifications"),
    *("rom-builds", "flash-jobs", "cards", "stations", "installed-roms"),
)


class NotStored(APIView):
    """For views whose answers nobody on the way is to keep."""

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response.headers.setdefault("Cache-Control", "no-store")
        return super().finalize_response(request, response, *args, **kwargs)


class Resource(NotStored, FilteredLists, ListModelMixin, RetrieveModelMixin, GenericViewSet[M]):
    """What has a list, and an address of its own for each row."""

    def created(self, row: Any, name: Any, shown: Any = None) -> Response:
        """The answer to a POST that made `row`, whose address ends in `name`; `shown`: more than is read there."""
        where = reverse(f"{self.basename}-detail", args=[name], request=self.request)
        data = self.get_serializer(row).data if shown is None else shown
        return Response(data, status.HTTP_201_CREATED, headers={"Location": where})


class DeletableResource(Resource[M]):
    """Its rows are deleted by DELETE, with an audit entry."""

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        row: Any = self.get_object()
        row.delete_audited(actor_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(exclude=True)
class RootView(NotStored):
    """Where the lists are."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        names = {name: f"{name}-list" for name in LISTS} | {"schema": "api-schema", "docs": "api-docs"}
        return Response({name: reverse(route, request=request) for name, route in names.items()})


@extend_schema(exclude=True)
class NothingHereView(APIView):
    """The answer to addresses that name nothing, as JSON."""

    authentication_classes = ()
    permission_classes = [AllowAny]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> NoReturn:
        # A redirect would turn a POST into a GET, which seems to work.
        path = f"{request.path}/"
        try:
            there = not path.endswith("//") and getattr(resolve(path).func, "cls", None) is not NothingHereView
        except Resolver404:
            there = False
        raise NotFound(f"There is nothing here. Write {path} with the slash at its end." if there else None)


class SchemaView(SpectacularAPIView):
    """The OpenAPI description, as YAML or JSON."""

    content_negotiation_class = DefaultContentNegotiation
    permission_classes = [IsAuthenticated]


class DocsView(SpectacularSwaggerSplitView):
    """The API's pages for people: what there is to ask, to be tried out. Its script has an answer of its own."""

    content_negotiation_class = DefaultContentNegotiation
    permission_classes = [IsAuthenticated]
    url_name = "api-schema"
