from typing import Any

from django.apps import AppConfig

from machines.signals import audit_recorded


class MachinesConfig(AppConfig):
    name = "machines"
    verbose_name = "Rescue"

    def ready(self) -> None:
        audit_recorded.connect(_queue_notifications, dispatch_uid="notifications")


def _queue_notifications(sender: Any, *, entry: Any, rescue: Any, **_: Any) -> None:
    from machines.models import Delivery

    Delivery.objects.queue_for_entry(entry, rescue)
