"""Rescue images, and the upload of their files."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from machines.api import filters, serializers
from machines.models import RescueImage
from rescuesite.actors import actor_of
from rescuesite.api.negotiation import BoundedJSONParser
from rescuesite.api.views import DeletableResource

_BODY = {
    "multipart/form-data": serializers.ImageWriteSerializer,
    "application/json": serializers.ImageWriteSerializer,
}
_CHANGES = {
    "multipart/form-data": serializers.ImageWriteSerializer(partial=True),
    "application/json": serializers.ImageWriteSerializer(partial=True),
}


@extend_schema_view(
    list=extend_schema(summary="Rescue images"),
    retrieve=extend_schema(summary="One rescue image", filters=False),
    destroy=extend_schema(
        summary="Delete an image", description="Machines that name it fall back to the default.", responses={204: None}
    ),
)
@extend_schema(tags=["images"])
class ImageViewSet(DeletableResource[RescueImage]):
    """Small systems to boot: a kernel with its initrds and command line, or an iPXE script to chain."""

    queryset = RescueImage.objects.all()
    serializer_class = serializers.ImageSerializer
    filterset_class = filters.ImageFilter
    parser_classes = [BoundedJSONParser, MultiPartParser]
    ordering = ["name"]
    ordering_fields = ["name", "created_at"]
    lookup_field = "name"
    lookup_value_regex = "[A-Za-z0-9][A-Za-z0-9._-]*"
    permissions = {
        "GET": "machines.view_rescueimage",
        "POST": "machines.add_rescueimage",
        "PATCH": "machines.change_rescueimage",
        "DELETE": "machines.delete_rescueimage",
    }

    def get_queryset(self) -> QuerySet[RescueImage]:
        images = super().get_queryset()
        return images.prefetch_related("files__stored") if self.action in {"list", "retrieve"} else images

    @extend_schema(summary="Add an image", request=_BODY, responses={201: serializers.ImageSerializer})
    def create(self, request: Request) -> Response:
        order = serializers.ImageWriteSerializer.of(request)
        default = order.validated_data.get("default", False)
        image = RescueImage.objects.add(order.values(), order.uploads(), actor_of(request), default=default)
        return self.created(image, image.name)

    @extend_schema(
        summary="Change what is named",
        description="A new kernel takes the old one's place, new initrds that of all old ones, a further file that of "
        "its name.",
        request=_CHANGES,
    )
    def partial_update(self, request: Request, name: str) -> Response:
        image = self.get_object()
        order = serializers.ImageWriteSerializer.of(request, image, partial=True)
        default = order.validated_data.get("default")
        image.revise(order.values(), order.uploads(), actor_of(request), default=default)
        return Response(self.get_serializer(image).data)
