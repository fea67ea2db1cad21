"""Machines, rescue images, rescues, SSH keys, API tokens, sightings, notifications and the audit log."""

from machines.models.api_token import APIToken
from machines.models.audit import Actor, AuditEntry
from machines.models.delivery import Delivery
from machines.models.image import ImageFile, RescueImage
from machines.models.last_contact import LastContact
from machines.models.login_failure import LoginFailure
from machines.models.machine import Machine
from machines.models.machine_addresses import AllowedNetwork, MACAddress
from machines.models.notification import NotificationRule
from machines.models.rescue import Rescue, RescueFile
from machines.models.sighting import Sighting
from machines.models.ssh_key import SSHKey
from machines.models.stored_file import StoredFile

__all__ = [
    "APIToken",
    "Actor",
    "AllowedNetwork",
    "AuditEntry",
    "Delivery",
    "ImageFile",
    "LastContact",
    "LoginFailure",
    "MACAddress",
    "Machine",
    "NotificationRule",
    "Rescue",
    "RescueFile",
    "RescueImage",
    "SSHKey",
    "Sighting",
    "StoredFile",
]
