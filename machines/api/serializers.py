"""What the API's JSON looks like. Whether a change can be made is for the models to say."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from machines import machine_fields, representation
from machines.machine_fields import NETWORK_FIELDS, TEXTS
from machines.models import Actor, AuditEntry, ImageFile, Machine, Rescue, RescueImage, Sighting, StoredFile
from machines.models.identity import IDENTITY_NAMES
from machines.models.image import Upload
from machines.models.rescue_terms import MAX_REASON, MAX_TRIES
from machines.models.validation import Errors, collecting
from machines.timeline import Event
from rescuesite.api.errors import renamed
from rescuesite.api.serializers import ReadSerializer, WriteSerializer

#: No machine has more network cards, or asks from more places.
_MANY = 100
STATES = ("local", *(state for state in Rescue.State.values if state != Rescue.State.ENDED))


def texts(**options: Any) -> serializers.ListField:
    """A list of short texts."""
    return serializers.ListField(child=serializers.CharField(max_length=100), max_length=_MANY, **options)


# Machines


class RescueNetworkSerializer(WriteSerializer):
    """The rescue system's own network; without an address it asks DHCP."""

    addresses = texts(required=False, help_text="With prefix length: 192.0.2.7/24.")
    gateways = texts(required=False)
    dns = texts(required=False)


class MachineSerializer(ReadSerializer[Machine]):
    name = serializers.CharField()
    macs = serializers.ListField(child=serializers.CharField())
    allowed_networks = serializers.ListField(
        child=serializers.CharField(), help_text="Hosts and CIDR blocks from which it may ask; empty: from anywhere."
    )
    image = serializers.CharField(allow_null=True, help_text="Null: the default image.")
    identity = serializers.DictField(child=serializers.CharField())
    rescue_network = RescueNetworkSerializer()
    state = serializers.ChoiceField(STATES)
    unverified = serializers.BooleanField(help_text="Whoever knows a MAC of it can ask in its name.")
    last_seen = serializers.DateTimeField(allow_null=True)

    represent = staticmethod(representation.machine_json)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return super().get_fields() | {name: serializers.CharField() for name in TEXTS}


@extend_schema_field(
    {
        "type": "object",
        "description": "What the machine must say of itself to be believed.",
        "properties": {name: {"type": "string"} for name in IDENTITY_NAMES},
        "additionalProperties": False,
    }
)
class IdentityField(serializers.DictField):
    """Names that a NIC can send, and what this machine sends."""


class MachineWriteSerializer(WriteSerializer):
    """A machine as it shall be."""

    name = serializers.CharField(max_length=63)
    macs = texts(required=False)
    allowed_networks = texts(required=False)
    image = serializers.SlugRelatedField(
        slug_field="name", queryset=RescueImage.objects.all(), required=False, allow_null=True
    )
    identity = IdentityField(child=serializers.CharField(), required=False)
    rescue_network = RescueNetworkSerializer(required=False)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        text: dict[str, Any] = {"required": False, "allow_blank": True, "max_length": 10_000}
        return super().get_fields() | {name: serializers.CharField(**text) for name in TEXTS}

    def check(self, values: dict[str, Any], exclude: Collection[str]) -> None:
        machine = Machine.objects.get(pk=self.instance.pk) if self.instance else Machine()
        try:
            machine.take(values, [*exclude, *(NETWORK_FIELDS if "rescue_network" in exclude else ())])
        except ValidationError as error:
            raise _renamed(error) from error

    def add(self, actor: Actor) -> Machine:
        """Raises ValidationError."""
        try:
            return Machine.objects.add(actor=actor, **self.validated_data)
        except ValidationError as error:
            raise _renamed(error) from error

    def revise(self, machine: Machine, actor: Actor, *, whole: bool) -> None:
        """Change what is named; the `whole` machine: what is not named is emptied. Raises ValidationError."""
        try:
            machine.revise((machine_fields.empty() if whole else {}) | dict(self.validated_data), actor)
        except ValidationError as error:
            raise _renamed(error) from error


def _renamed(error: ValidationError) -> ValidationError:
    return renamed(error, dict.fromkeys(NETWORK_FIELDS, "rescue_network"))


class PreviewSerializer(serializers.Serializer[Any]):
    outcome = serializers.CharField(help_text="rescue, local or refused.")
    reason = serializers.CharField()
    script = serializers.CharField(help_text="As iPXE would get it; the token is left out.")


class FactSerializer(serializers.Serializer[Any]):
    label = serializers.CharField()  # type: ignore[assignment]
    value = serializers.CharField()


class EventSerializer(ReadSerializer[Event]):
    at = serializers.DateTimeField()
    kind = serializers.CharField()
    title = serializers.CharField()
    text = serializers.CharField()
    actor = serializers.CharField()
    source = serializers.CharField(allow_null=True)  # type: ignore[assignment]
    count = serializers.IntegerField(help_text="So many times, within a minute.")
    repeated_at = serializers.DateTimeField(allow_null=True, help_text="The last time of several.")
    facts = FactSerializer(many=True)

    represent = staticmethod(representation.event_json)


# Rescues


class RescueSerializer(ReadSerializer[Rescue]):
    machine = serializers.CharField()
    state = serializers.ChoiceField(Rescue.State.choices)
    lifetime = serializers.ChoiceField(Rescue.Lifetime.choices)
    expires_at = serializers.DateTimeField(allow_null=True)
    image = serializers.CharField()
    reason = serializers.CharField()
    enabled_by = serializers.CharField()
    enabled_at = serializers.DateTimeField()
    served_at = serializers.DateTimeField(allow_null=True, help_text="When its script was first given out.")
    up_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    end_cause = serializers.ChoiceField(Rescue.EndCause.choices, allow_null=True)
    address = serializers.CharField(allow_null=True, help_text="Where to log in, once it is up.")
    host_keys = serializers.ListField(child=serializers.CharField(), help_text="OpenSSH's, as reported.")
    tries = serializers.IntegerField(
        help_text=f"Power-ons that got its script since it was last up; after {MAX_TRIES} the machine boots its disk."
    )

    represent = staticmethod(representation.rescue_json)


class EnabledRescueSerializer(RescueSerializer):
    """The answer to enabling: what is shown this once."""

    password = serializers.CharField(required=False, help_text="Of root, where one was asked for; shown this once.")
    warnings = serializers.ListField(child=serializers.CharField())

    represent = staticmethod(representation.enabled_rescue_json)


class RescueWriteSerializer(WriteSerializer):
    """A rescue to be enabled."""

    lifetime = serializers.ChoiceField(
        Rescue.Lifetime.choices, required=False, help_text="Otherwise one-boot, or until where there is an end."
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    image = serializers.SlugRelatedField(
        slug_field="name",
        queryset=RescueImage.objects.all(),
        required=False,
        allow_null=True,
        help_text="Otherwise the machine's, or the default.",
    )
    reason = serializers.CharField(required=False, allow_blank=True, max_length=MAX_REASON)
    password = serializers.BooleanField(required=False, help_text="Make a password besides the keys.")

    def validate_expires_at(self, moment: Any) -> Any:
        # Nobody means the year 9999, and arithmetic with time zones ends there.
        if moment and moment > timezone.now() + timedelta(days=365 * 100):
            raise serializers.ValidationError("This is too far away.")
        return moment


class DisableSerializer(WriteSerializer):
    reason = serializers.CharField(required=False, allow_blank=True, max_length=MAX_REASON)


# Images


class ImageFileSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(ImageFile.Kind.choices)
    name = serializers.CharField()
    size = serializers.IntegerField(help_text="In bytes.")
    sha256 = serializers.CharField()


class ImageSerializer(ReadSerializer[RescueImage]):
    name = serializers.CharField()
    description = serializers.CharField()
    architecture = serializers.ChoiceField(RescueImage.Architecture.choices)
    command_line = serializers.CharField()
    chain_script = serializers.CharField()
    reports = serializers.BooleanField()
    default = serializers.BooleanField()
    files = ImageFileSerializer(many=True)

    represent = staticmethod(representation.image_json)


class ImageWriteSerializer(WriteSerializer):
    """An image as it shall be; its files come as multipart/form-data."""

    #: What the image itself has.
    OWN = frozenset({"name", "description", "architecture", "command_line", "chain_script", "reports"})

    name = serializers.CharField(max_length=63)
    description = serializers.CharField(required=False, allow_blank=True, max_length=10_000)
    architecture = serializers.ChoiceField(RescueImage.Architecture.choices, required=False)
    command_line = serializers.CharField(required=False, allow_blank=True)
    chain_script = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    reports = serializers.BooleanField(required=False)
    default = serializers.BooleanField(required=False, help_text="Let it be the default image.")
    kernel = serializers.FileField(required=False)
    initrd = serializers.ListField(
        child=serializers.FileField(), required=False, max_length=_MANY, help_text="Several are loaded in this order."
    )
    files = serializers.ListField(
        child=serializers.FileField(), required=False, max_length=_MANY, help_text="Further files, by their own names."
    )
    file_names = serializers.ListField(
        child=serializers.CharField(max_length=100),
        required=False,
        max_length=_MANY,
        help_text="Other names for `files`, one for each, such as live/root.squashfs.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        files = attrs.get("files", [])
        names = attrs.get("file_names") or [file.name for file in files]
        if len(names) != len(files):
            raise serializers.ValidationError({"file_names": f"Give a name for each of the {len(files)} files."})
        errors: Errors = {}
        for name in names:
            try:
                ImageFile.check_name(ImageFile.Kind.FILE, name)
            except ValidationError as error:
                errors.setdefault("files", []).extend(error.messages)
        with collecting(errors):
            self.check(attrs, ())
        if errors:
            raise serializers.ValidationError(errors)
        return {**attrs, "file_names": names}

    def check(self, values: dict[str, Any], exclude: Collection[str]) -> None:
        image = RescueImage.objects.get(pk=self.instance.pk) if self.instance else RescueImage()
        for name in self.OWN & values.keys():
            setattr(image, name, values[name])
        image.full_clean(exclude={*exclude})

    def values(self) -> dict[str, Any]:
        """What the image itself shall have."""
        return {name: value for name, value in self.validated_data.items() if name in self.OWN}

    def uploads(self) -> list[Upload]:
        """The files, stored. Raises ValidationError where the disk is full."""
        values = self.validated_data
        parts = [(ImageFile.Kind.KERNEL, values["kernel"], "")] if "kernel" in values else []
        parts += [(ImageFile.Kind.INITRD, file, "") for file in values.get("initrd", [])]
        parts += [
            (ImageFile.Kind.FILE, file, name)
            for file, name in zip(values.get("files", []), values["file_names"], strict=True)
        ]
        try:
            return [Upload(kind, StoredFile.objects.store(file.chunks()), name) for kind, file, name in parts]
        except OSError as error:
            problem = f"The files cannot be kept in the data directory: {error.strerror}."
            raise ValidationError(problem) from error


# What the site has seen


class AuditSerializer(ReadSerializer[AuditEntry]):
    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    actor = serializers.CharField()
    source = serializers.CharField(allow_null=True)  # type: ignore[assignment]
    machine = serializers.CharField(allow_null=True)
    mac = serializers.CharField(allow_null=True)
    action = serializers.CharField()
    outcome = serializers.CharField(allow_null=True)
    reason = serializers.CharField()
    count = serializers.IntegerField()
    details = serializers.DictField()

    represent = staticmethod(representation.audit_json)


class SightingSerializer(ReadSerializer[Sighting]):
    mac = serializers.CharField()
    first_seen_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField()
    count = serializers.IntegerField()
    source = serializers.CharField(allow_null=True)  # type: ignore[assignment]
    ip = serializers.CharField(allow_null=True, help_text="The address that it claimed.")
    said = serializers.DictField(child=serializers.CharField(), help_text="Nobody vouches for it.")
    ignored = serializers.BooleanField()

    represent = staticmethod(representation.sighting_json)
