"""The API of machines, their rescues, images, and what the site has seen."""

from rest_framework.routers import BaseRouter


def register(router: BaseRouter) -> None:
    """Name this app's lists; rescuesite/api/urls.py does the rest."""
    from machines.api import images, logs, machines, notifications

    router.register("machines", machines.MachineViewSet, basename="machines")
    router.register("images", images.ImageViewSet, basename="images")
    router.register("rescues", logs.RescueViewSet, basename="rescues")
    router.register("audit", logs.AuditViewSet, basename="audit")
    router.register("sightings", logs.SightingViewSet, basename="sightings")
    router.register("notification-rules", notifications.NotificationRuleViewSet, basename="notification-rules")
    router.register("notifications", notifications.DeliveryViewSet, basename="notifications")
