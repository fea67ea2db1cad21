"""Machines, and what is done with one: its rescue, what it would be told, what happened to it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from machines.addresses import AddressError, normalise_mac, parse_ip
from machines.api import filters, serializers
from machines.models import Machine, Rescue
from machines.models.machine import ENABLE_RESCUE, MACHINE_NAME
from machines.models.rescue_terms import NoActiveRescueError, RescueRequest
from machines.preview import imagined, likely_request
from machines.timeline import machine_timeline
from rescuesite.actors import actor_of
from rescuesite.api.views import DeletableResource

_TAGS = ["machines"]
_IMAGINED = {
    "source": "The address that the request comes from; otherwise where the machine was seen last, or belongs.",
    "ip": "The address that the NIC claims.",
    "mac": "Which of the machine's; otherwise the one seen last, or the first.",
    "user_agent": "",
}


@extend_schema_view(
    list=extend_schema(summary="Machines, by name"),
    retrieve=extend_schema(summary="One machine", filters=False),
    destroy=extend_schema(summary="Delete a machine; its rescue ends", responses={204: None}),
)
@extend_schema(tags=_TAGS)
class MachineViewSet(DeletableResource[Machine]):
    """Servers that can be rescued."""

    queryset = Machine.objects.all()
    serializer_class = serializers.MachineSerializer
    filterset_class = filters.MachineFilter
    ordering = ["name"]
    ordering_fields = ["name", "created_at", ("contact__at", "last seen")]
    lookup_field = "name__iexact"
    lookup_url_kwarg = "name"
    lookup_value_regex = MACHINE_NAME

    @property
    def permissions(self) -> dict[str, str | tuple[str, ...]]:
        if self.action in {"rescue", "enable", "disable", "try_again"}:
            switch = ("machines.view_machine", ENABLE_RESCUE)
            return {"GET": "machines.view_machine", "POST": switch, "DELETE": switch}
        return {
            "GET": "machines.view_machine",
            "POST": "machines.add_machine",
            "PUT": "machines.change_machine",
            "PATCH": "machines.change_machine",
            "DELETE": "machines.delete_machine",
        }

    def get_queryset(self) -> QuerySet[Machine]:
        return Machine.objects.for_lists() if self.action in {"list", "retrieve"} else Machine.objects.all()

    # Machines themselves

    @extend_schema(
        summary="Add a machine",
        request=serializers.MachineWriteSerializer,
        responses={201: serializers.MachineSerializer},
    )
    def create(self, request: Request) -> Response:
        machine = serializers.MachineWriteSerializer.of(request).add(actor_of(request))
        return self.created(machine, machine.name)

    @extend_schema(
        summary="Replace a machine: what is not named is emptied", request=serializers.MachineWriteSerializer
    )
    def update(self, request: Request, name: str) -> Response:
        return self._revised(request, whole=True)

    @extend_schema(summary="Change what is named", request=serializers.MachineWriteSerializer(partial=True))
    def partial_update(self, request: Request, name: str) -> Response:
        return self._revised(request, whole=False)

    def _revised(self, request: Request, *, whole: bool) -> Response:
        machine = self.get_object()
        order = serializers.MachineWriteSerializer.of(request, machine, partial=not whole)
        order.revise(machine, actor_of(request), whole=whole)
        return Response(self.get_serializer(machine).data)

    # Its rescue

    @extend_schema(summary="Its latest rescue", responses=serializers.RescueSerializer, filters=False)
    @action(detail=True, methods=["get"])
    def rescue(self, request: Request, name: str) -> Response:
        machine = self.get_object()
        rescue = machine.rescues.select_related("machine").first()
        if rescue is None:
            raise NotFound(f"There has been no rescue of {machine.name}.")
        return Response(serializers.RescueSerializer(rescue).data)

    @extend_schema(
        summary="Enable rescue, from the next power-on",
        request=serializers.RescueWriteSerializer,
        responses={201: serializers.EnabledRescueSerializer},
    )
    @rescue.mapping.post
    def enable(self, request: Request, name: str) -> Response:
        machine = self.get_object()
        order = RescueRequest(**serializers.RescueWriteSerializer.of(request).validated_data)
        rescue = Rescue.objects.enable(machine, order, actor_of(request))
        return Response(serializers.EnabledRescueSerializer(rescue).data, status.HTTP_201_CREATED)

    @extend_schema(
        summary="Disable rescue: the next power-on boots the disk",
        request=serializers.DisableSerializer,
        responses={200: serializers.RescueSerializer},
    )
    @rescue.mapping.delete
    def disable(self, request: Request, name: str) -> Response:
        rescue = self._active_rescue()
        order = serializers.DisableSerializer.of(request)
        rescue.disable(actor_of(request), order.validated_data.get("reason", ""))
        return Response(serializers.RescueSerializer(rescue).data)

    @extend_schema(
        summary="Try a rescue again whose system never came up",
        request=None,
        responses={200: serializers.RescueSerializer},
        filters=False,
    )
    @action(detail=True, methods=["post"], url_path="rescue/try-again")
    def try_again(self, request: Request, name: str) -> Response:
        rescue = self._active_rescue()
        rescue.try_again(actor_of(request))
        return Response(serializers.RescueSerializer(rescue).data)

    def _active_rescue(self) -> Rescue:
        """The machine's active rescue. Raises NoActiveRescueError."""
        machine: Machine = self.get_object()
        rescue = machine.rescues.active().select_related("machine").first()
        if rescue is None:
            raise NoActiveRescueError(machine)
        return rescue

    # What it would be told, and what happened to it

    @extend_schema(
        summary="What it would be told, if it asked now",
        description="Changes nothing, and shows no token. Further parameters are what the NIC says: uuid, serial, …",
        parameters=[OpenApiParameter(name, str, description=text) for name, text in _IMAGINED.items()],
        responses=serializers.PreviewSerializer,
        filters=False,
    )
    @action(detail=True, methods=["get"])
    def preview(self, request: Request, name: str) -> Response:
        machine = self.get_object()
        boot_request = likely_request(machine)
        given = {field: str(value) for field, value in request.query_params.items()}
        own = self._checked(machine, {field: given.pop(field) for field in _IMAGINED if field in given})
        answer = imagined(boot_request._replace(**own, **({"query": urlencode(given)} if given else {})))
        shown = {"outcome": answer.outcome, "reason": answer.reason, "script": answer.script}
        return Response(serializers.PreviewSerializer(shown).data)

    @staticmethod
    def _checked(machine: Machine, given: dict[str, str]) -> dict[str, str]:
        errors: dict[str, str] = {}
        for field in ("source", "ip"):
            if given.get(field) and parse_ip(given[field]) is None:
                errors[field] = f"“{given[field][:100]}” is not a valid IP address."
        if "mac" in given:
            try:
                given["mac"] = normalise_mac(given["mac"])
                if not machine.macs.filter(address=given["mac"]).exists():
                    errors["mac"] = f"{given['mac']} is not this machine's."
            except AddressError as error:
                errors["mac"] = str(error)
        if errors:
            raise ValidationError(errors)
        return given

    @extend_schema(
        summary="What happened to it, newest first", responses=serializers.EventSerializer(many=True), filters=False
    )
    @action(detail=True, methods=["get"])
    def timeline(self, request: Request, name: str) -> Response:
        events: Any = self.paginate_queryset(machine_timeline(self.get_object()))
        return self.get_paginated_response(serializers.EventSerializer(events, many=True).data)
