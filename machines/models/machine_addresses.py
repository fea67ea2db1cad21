"""The addresses of a machine: its MAC addresses, and the networks that its requests may come from."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Length, Lower

from machines.models.fields import MACAddressField, NetworkField

models.CharField.register_lookup(Length)


class MACAddress(models.Model):
    """The address of one of a machine's network cards."""

    machine = models.ForeignKey("machines.Machine", on_delete=models.CASCADE, related_name="macs")
    address = MACAddressField(
        "MAC address",
        unique=True,
        error_messages={"unique": "This MAC address already belongs to a machine."},
    )

    class Meta:
        default_permissions = ()
        ordering = ("pk",)
        verbose_name = "MAC address"
        verbose_name_plural = "MAC addresses"
        constraints = [
            models.CheckConstraint(
                condition=Q(address=Lower("address")) & Q(address__length=17), name="mac_address_in_one_form"
            )
        ]

    def __str__(self) -> str:
        return self.address


class AllowedNetwork(models.Model):
    """A host or network (CIDR block) that the machine's requests may come from."""

    machine = models.ForeignKey("machines.Machine", on_delete=models.CASCADE, related_name="allowed_networks")
    network = NetworkField("address or network", help_text="192.0.2.7, 192.0.2.0/24 or 2001:db8::/64")

    class Meta:
        default_permissions = ()
        ordering = ("pk",)
        constraints = [
            models.UniqueConstraint(
                fields=["machine", "network"],
                name="allowed_network_once",
                violation_error_message="This network is already in the list.",
            )
        ]

    def __str__(self) -> str:
        return self.network
