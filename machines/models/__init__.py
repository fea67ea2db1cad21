"""What the site knows: machines, rescue images, rescues, keys, sightings, and the log of all that happened."""

from machines.models.api_token import APIToken
from machines.models.audit import Actor, AuditEntry
from machines.models.image import ImageFile, RescueImage
from machines.models.login_failure import LoginFailure
from machines.models.machine import AllowedNetwork, LastContact, MACAddress, Machine
from machines.models.notification import Delivery, NotificationRule
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
