"""The last accepted boot request of each machine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.db import models
from django.utils import timezone

from machines.boot.request import MAX_VALUE, BootRequest


class LastContact(models.Model):
    """The values of the last boot request that passed the address and identity checks of the machine."""

    machine = models.OneToOneField(
        "machines.Machine", on_delete=models.CASCADE, primary_key=True, related_name="contact"
    )
    at = models.DateTimeField(default=timezone.now)
    mac = models.CharField("MAC", max_length=17)
    source = models.GenericIPAddressField(null=True)
    ip = models.GenericIPAddressField("claimed address", null=True)
    serial = models.CharField(max_length=MAX_VALUE, blank=True)
    uuid = models.CharField("UUID", max_length=MAX_VALUE, blank=True)
    user_agent = models.CharField("firmware", max_length=MAX_VALUE, blank=True)
    said: models.JSONField[dict[str, str], dict[str, str]] = models.JSONField(default=dict)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.machine_id} at {self.at:%Y-%m-%d %H:%M:%S}"

    @classmethod
    def record(cls, requests: Mapping[int, BootRequest], at: datetime) -> None:
        """Store the values of boot requests, by the keys of their machines, in one SQL statement."""
        contacts = [
            LastContact(
                machine_id=machine,
                at=at,
                mac=boot_request.mac or "",
                source=str(boot_request.source) if boot_request.source else None,
                ip=str(boot_request.ip) if boot_request.ip else None,
                serial=boot_request.value("serial"),
                uuid=boot_request.value("uuid"),
                user_agent=boot_request.user_agent,
                said=dict(boot_request.params),
            )
            for machine, boot_request in requests.items()
        ]
        values = ["at", "mac", "source", "ip", "serial", "uuid", "user_agent", "said"]
        LastContact.objects.bulk_create(
            contacts, update_conflicts=True, unique_fields=["machine"], update_fields=values
        )
