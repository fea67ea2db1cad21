"""What the API's JSON looks like. Whether an order can be carried out is for the models to say."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from machines.models import Actor, Machine
from machines.representation import iso
from rescuesite.api.errors import renamed
from rescuesite.api.serializers import WriteSerializer
from roms.models import TARGETS, Build, Card, FlashJob, FlashKind, JobState, Profile, Station
from roms.models.build import spec_of

_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "integer"}
_SPEC: dict[str, Any] = {
    "type": "object",
    "description": "What the script asks, how and how often; the text is made of it.",
    "properties": {
        "site": {**_TEXT, "description": "The rescue site, like http://192.0.2.10."},
        "network": {
            "oneOf": [
                {"type": "string", "const": "dhcp"},
                {
                    "type": "object",
                    "properties": {"ip": _TEXT, "netmask": _TEXT, "gateway": _TEXT, "dns": _TEXT},
                    "required": ["ip", "netmask"],
                },
            ]
        },
        "variables": {"type": "array", "items": _TEXT, "description": "What is sent besides mac and ip."},
        "tries": _NUMBER,
        "timeout": {**_NUMBER, "description": "In seconds."},
        "link_wait": {**_NUMBER, "description": "In seconds."},
        "stp_wait": {**_NUMBER, "description": "In seconds."},
        "dhcp_wait": {**_NUMBER, "description": "How late DHCP may answer, in seconds, from 15 to 60."},
        "nic": {"type": ["integer", "null"]},
        "serial_console": {"type": "boolean"},
    },
    "required": ["site"],
    "additionalProperties": False,
}
_WRITTEN: dict[str, Any] = {
    "type": "object",
    "description": "A script that somebody wrote; it begins with #!ipxe.",
    "properties": {"text": _TEXT},
    "required": ["text"],
    "additionalProperties": False,
}


@extend_schema_field({"oneOf": [_SPEC, _WRITTEN]})
class ScriptField(serializers.DictField):
    """What is embedded: what it is made of, or its text."""

    def get_attribute(self, instance: Build) -> dict[str, Any]:
        return {"text": instance.script} if instance.script_spec is None else instance.script_spec


class TimeField(serializers.DateTimeField):
    """A time as all of the API tells it."""

    def to_representation(self, value: datetime) -> Any:
        return iso(value)


class FilledField(serializers.CharField):
    """A text; null where it is empty."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_null=True, **options)

    def to_representation(self, value: Any) -> Any:
        return super().to_representation(value) or None


class JobSerializer(serializers.Serializer[Any]):
    """What builds and flash jobs say alike."""

    id = serializers.IntegerField()
    state = serializers.ChoiceField(JobState.choices, source="status_at")
    phase = serializers.CharField(help_text="What a running job is at.")
    progress = serializers.FloatField(help_text="How much is done, of 1.")
    overdue = serializers.BooleanField(help_text="It takes longer than it should, and must not be stopped.")
    error = serializers.CharField(source="problem", help_text="What went wrong and what to do.")
    requested_by = serializers.CharField(source="requested_by_name")
    created_at = TimeField()
    started_at = TimeField(allow_null=True)
    finished_at = TimeField(allow_null=True)


class BuildSerializer(JobSerializer):
    card = serializers.CharField(source="card.slug", allow_null=True)
    target = serializers.ChoiceField(TARGETS)
    profile = serializers.ChoiceField(Profile.choices)
    options = serializers.ListField(child=serializers.CharField())
    banner = serializers.IntegerField(allow_null=True)
    script = ScriptField()
    script_sha256 = serializers.CharField()
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="What to know before it is flashed, of a script that somebody wrote."
    )
    ipxe_ref = serializers.CharField()
    ipxe_commit = serializers.CharField()
    commands = serializers.ListField(child=serializers.CharField())
    tool_versions = serializers.DictField(child=serializers.CharField())
    isolation = serializers.CharField()
    chip_size = serializers.IntegerField(allow_null=True, help_text="Of the card that it is for, in bytes.")
    size = serializers.IntegerField(allow_null=True, help_text="In bytes.")
    fits = serializers.BooleanField(allow_null=True, help_text="Null where a size is not known.")
    sha256 = FilledField()


class BuildWriteSerializer(WriteSerializer):
    """A ROM, or a bootable medium, to be made."""

    card = serializers.SlugRelatedField(
        slug_field="slug",
        queryset=Card.objects.all(),
        required=False,
        allow_null=True,
        help_text="A card's key, like 8086:1229; not needed for media that are not a ROM.",
    )
    target = serializers.ChoiceField(TARGETS, required=False)
    profile = serializers.ChoiceField(Profile.choices, required=False)
    options = serializers.ListField(
        child=serializers.CharField(max_length=500),
        max_length=200,
        required=False,
        help_text="NAME, NAME=off or NAME=value, as in iPXE's headers.",
    )
    banner = serializers.IntegerField(required=False, allow_null=True, help_text="In tenths of a second; 0: none.")
    script = ScriptField()

    def validate_script(self, script: dict[str, Any]) -> dict[str, Any]:
        if "text" not in script:
            return script
        if len(script) > 1:
            raise serializers.ValidationError("Give a text, or what to make one of; not both.")
        if not isinstance(script["text"], str):
            raise serializers.ValidationError("text: It is a text.")
        return script

    def submit(self, actor: Actor) -> Build:
        """Submit what was ordered. Raises ValidationError."""
        values = dict(self.validated_data)
        script = values.pop("script")
        return Build.of(script["text"] if "text" in script else spec_of(script), **values).submit(actor)


class FlashJobSerializer(JobSerializer):
    action = serializers.ChoiceField(FlashKind.choices)
    station = serializers.CharField(source="station.name")
    card = serializers.CharField(source="card.slug")
    slot = serializers.CharField()
    chip = serializers.CharField(source="chip_name")
    build = serializers.IntegerField(source="build_id", allow_null=True)
    restores = serializers.IntegerField(source="restores_id", allow_null=True)
    machine = FilledField(source="machine_name")
    chip_found = serializers.CharField()
    chip_size = serializers.IntegerField(allow_null=True, help_text="In bytes.")
    backup_sha256 = FilledField()
    wrote = serializers.BooleanField(allow_null=True)
    written_sha256 = FilledField()
    chip_state = FilledField(help_text="What a failed write left in the chip.")
    refusal = FilledField(help_text="Why nothing was touched.")
    choices = serializers.DictField(help_text="After a refusal: what there is to choose from.")


class ConfirmationSerializer(WriteSerializer):
    confirm = serializers.CharField(
        help_text="The machine's name, or the station's where no machine is named.",
        error_messages={"required": "Type the machine's name, or the station's where no machine is named."},
    )


class FlashWriteSerializer(ConfirmationSerializer):
    """A card's chip to be written, restored or saved."""

    action = serializers.ChoiceField(FlashKind.choices, default=FlashKind.FLASH)
    build = serializers.PrimaryKeyRelatedField(
        queryset=Build.objects.select_related("card", "artifact"), required=False, allow_null=True
    )
    restores = serializers.PrimaryKeyRelatedField(
        queryset=FlashJob.objects.select_related("card", "backup", "station", "machine"),
        required=False,
        allow_null=True,
        help_text="The flash job whose saved contents are written back; the rest is as it was there.",
    )
    station = serializers.SlugRelatedField(slug_field="name", queryset=Station.objects.all(), required=False)
    card = serializers.SlugRelatedField(
        slug_field="slug",
        queryset=Card.objects.all(),
        required=False,
        allow_null=True,
        help_text="A card's key; otherwise the build's.",
    )
    slot = serializers.CharField(required=False, allow_blank=True)
    chip = serializers.CharField(required=False, allow_blank=True, source="chip_name")
    machine = serializers.SlugRelatedField(
        slug_field="name", queryset=Machine.objects.all(), required=False, allow_null=True
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        errors = {}
        for name, action in {"build": FlashKind.FLASH, "restores": FlashKind.RESTORE}.items():
            if attrs["action"] == action and not attrs.get(name):
                errors[name] = "This field is required."
            elif attrs["action"] != action and attrs.get(name):
                errors[name] = f"It is for the action “{action}” only."
        if not attrs.get("station") and not attrs.get("restores"):
            errors["station"] = "This field is required."
        if not attrs.get("card") and not errors:
            source = attrs.get("build") or attrs.get("restores")
            attrs["card"] = source.card if source else None
            if attrs["card"] is None:
                errors["card"] = "This field is required."
        if errors:
            raise serializers.ValidationError(errors)
        return attrs

    def submit(self, actor: Actor) -> FlashJob:
        """Submit what was ordered. Raises ValidationError."""
        values = dict(self.validated_data)
        typed = values.pop("confirm")
        restores = values.get("restores")
        job = restores.restoring() if restores else FlashJob()
        for name, value in values.items():
            setattr(job, name, value)
        return submit_confirmed(job, actor, typed)


def submit_confirmed(job: FlashJob, actor: Actor, typed: str) -> FlashJob:
    try:
        return job.submit_confirmed(actor, typed)
    except ValidationError as error:
        raise renamed(error, {"chip_name": "chip"}) from error


class CardSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(source="slug")
    pci_id = serializers.CharField()
    name = serializers.CharField()
    driver = serializers.CharField(help_text="iPXE's.")
    programmer = serializers.CharField(help_text="flashrom's.")
    flashable = serializers.BooleanField(source="is_flashable")
    practice = serializers.BooleanField(source="is_practice", help_text="It is not a card, but a file.")
    chip_size = serializers.IntegerField(allow_null=True, help_text="In bytes.")
    conflict = serializers.CharField(help_text="Other drivers that claim this id.")
    notes = serializers.CharField()
    origin = serializers.ChoiceField(Card.Origin.choices)


class StationSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    has_worker = serializers.BooleanField()
    seen_at = TimeField(allow_null=True, help_text="When its worker last showed up.")
    notes = serializers.CharField()


class InstalledROMSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    machine = serializers.CharField(source="machine.name", allow_null=True)
    card = serializers.CharField(source="card.slug")
    mac = FilledField()
    build = serializers.IntegerField(source="build_id", allow_null=True)
    outdated = serializers.BooleanField(
        source="is_outdated", help_text="A later build for such a card embeds another script."
    )
    sha256 = FilledField()
    description = serializers.CharField(help_text="What it is, where it is not a build of this site.")
    since = TimeField()
    by = serializers.CharField()
    flash_job = serializers.IntegerField(source="flash_job_id", allow_null=True)
    notes = serializers.CharField()
