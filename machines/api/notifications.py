"""Notification rules, and the messages that were sent because of them."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from machines.api import filters
from machines.api import notification_serializers as serializers
from machines.models import Delivery, NotificationRule
from rescuesite.actors import actor_of
from rescuesite.api.exceptions import ConflictError
from rescuesite.api.views import DeletableResource, Resource

_NUMBER = "[0-9]{1,18}"


@extend_schema_view(
    list=extend_schema(summary="Notification rules, by name"),
    retrieve=extend_schema(summary="One notification rule", filters=False),
    destroy=extend_schema(summary="Delete a rule; what waits because of it is given up", responses={204: None}),
)
@extend_schema(tags=["notifications"])
class NotificationRuleViewSet(DeletableResource[NotificationRule]):
    """Whom to tell, of which events, of which machines."""

    queryset = NotificationRule.objects.all()
    serializer_class = serializers.NotificationRuleSerializer
    filterset_class = filters.NotificationRuleFilter
    ordering = ["name"]
    ordering_fields = ["name", "created_at"]
    lookup_value_regex = _NUMBER

    @property
    def permissions(self) -> dict[str, str]:
        changes = self.action in {"test", "secret"}
        return {
            "GET": "machines.view_notificationrule",
            "POST": "machines.change_notificationrule" if changes else "machines.add_notificationrule",
            "PUT": "machines.change_notificationrule",
            "PATCH": "machines.change_notificationrule",
            "DELETE": "machines.delete_notificationrule",
        }

    def get_queryset(self) -> QuerySet[NotificationRule]:
        return super().get_queryset().prefetch_related("machines")

    @extend_schema(
        summary="Add a rule",
        request=serializers.NotificationRuleWriteSerializer,
        responses={201: serializers.NewNotificationRuleSerializer},
    )
    def create(self, request: Request) -> Response:
        rule = serializers.NotificationRuleWriteSerializer.of(request).add(actor_of(request))
        return self.created(rule, rule.pk, serializers.NewNotificationRuleSerializer(rule).data)

    @extend_schema(summary="Replace a rule", request=serializers.NotificationRuleWriteSerializer)
    def update(self, request: Request, pk: str) -> Response:
        return self._revised(request, whole=True)

    @extend_schema(summary="Change what is named", request=serializers.NotificationRuleWriteSerializer(partial=True))
    def partial_update(self, request: Request, pk: str) -> Response:
        return self._revised(request, whole=False)

    def _revised(self, request: Request, *, whole: bool) -> Response:
        rule = self.get_object()
        order = serializers.NotificationRuleWriteSerializer.of(request, partial=not whole)
        order.revise(rule, actor_of(request), whole=whole)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        summary="Send a test, to see whether it arrives", request=None, responses={202: serializers.DeliverySerializer}
    )
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        message = self.get_object().send_test(actor_of(request))
        shown = serializers.DeliverySerializer(message, context=self.get_serializer_context())
        return Response(shown.data, status.HTTP_202_ACCEPTED)

    @extend_schema(
        summary="Sign with a new secret from now on",
        request=None,
        responses={200: serializers.NewNotificationRuleSerializer},
    )
    @action(detail=True, methods=["post"])
    def secret(self, request: Request, pk: str) -> Response:
        rule = self.get_object()
        rule.renew_secret(actor_of(request))
        return Response(serializers.NewNotificationRuleSerializer(rule).data)


@extend_schema_view(
    list=extend_schema(summary="Messages, newest first"),
    retrieve=extend_schema(summary="One message, with its tries", filters=False),
)
@extend_schema(tags=["notifications"])
class DeliveryViewSet(Resource[Delivery]):
    """What was sent, or waits to be."""

    queryset = Delivery.objects.all()
    serializer_class = serializers.DeliverySerializer
    filterset_class = filters.DeliveryFilter
    ordering = ["-created_at"]
    ordering_fields = ["created_at", "delivered_at"]
    lookup_value_regex = _NUMBER

    @property
    def permissions(self) -> dict[str, str | tuple[str, ...]]:
        return {
            "GET": "machines.view_delivery",
            "POST": ("machines.view_delivery", "machines.change_notificationrule"),
        }

    def get_queryset(self) -> QuerySet[Delivery]:
        return Delivery.objects.visible_to(self.request.user)

    @extend_schema(
        summary="Send it once more, under the same id", request=None, responses={202: serializers.DeliverySerializer}
    )
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        message = self.get_object()
        if not message.send_again(actor_of(request)):
            raise ConflictError("Its rule was deleted: nobody knows whom to send it to.")
        message.refresh_from_db()
        return Response(self.get_serializer(message).data, status.HTTP_202_ACCEPTED)
