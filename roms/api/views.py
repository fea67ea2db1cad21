"""Builds and flash jobs over HTTP; and, to read, the cards, the stations and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from django.db.models import QuerySet
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from machines.models import StoredFile
from rescuesite.actors import actor_of
from rescuesite.api.exceptions import ConflictError
from rescuesite.api.views import Resource
from roms.api import filters, serializers
from roms.downloads import padded
from roms.models import Build, Card, FlashJob, InstalledROM, Job, Station

J = TypeVar("J", bound=Job)

#: Of a log so much is in memory at a time.
_CHUNK = 256 << 10

_LOG = extend_schema(
    summary="Its log, or what has come since",
    parameters=[
        OpenApiParameter("offset", int, description="In bytes: where to begin; negative: so far from the end."),
        OpenApiParameter("X-Log-Offset", int, "header", response=True, description="Where to read on from."),
    ],
    responses={(200, "text/plain"): OpenApiResponse(OpenApiTypes.STR)},
    filters=False,
)
_FILE = OpenApiResponse(OpenApiTypes.BINARY)


class JobViewSet(Resource[J]):
    """What builds and flash jobs do alike."""

    lookup_value_regex = "[0-9]+"
    ordering = ["-created_at"]
    ordering_fields = ["id", "created_at", "started_at", "finished_at"]

    @_LOG
    @action(detail=True, methods=["get"])
    def log(self, request: Request, pk: int) -> StreamingHttpResponse:
        job = self.get_object()
        start, end = self._range(job)
        return StreamingHttpResponse(
            _log_chunks(job, start, end),
            content_type="text/plain; charset=utf-8",
            headers={"X-Log-Offset": str(end), "X-Content-Type-Options": "nosniff"},
        )

    def _range(self, job: Job) -> tuple[int, int]:
        text = self.request.query_params.get("offset", "0")
        try:
            offset = int(text) if len(text) < 19 else None
        except ValueError:
            offset = None
        if offset is None:
            raise ValidationError({"offset": ["A whole number is required."]})
        try:
            size = job.log_path.stat().st_size
        except FileNotFoundError:
            size = 0
        return (min(offset, size) if offset >= 0 else max(0, size + offset)), size

    @extend_schema(summary="Stop it", request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: int) -> Response:
        job = self.get_object()
        if job.is_finished or not job.cancel(actor_of(request)):
            raise ConflictError(f"It is {job.status_at()} already.")
        return Response(self.get_serializer(job).data)

    def _finished_object(self) -> J:
        """The job, to be done once more."""
        job: J = self.get_object()
        if not job.is_finished:
            raise ConflictError(f"It is still {job.status_at()}.")
        return job


@extend_schema_view(list=extend_schema(summary="Builds, newest first"), retrieve=extend_schema(summary="One build"))
@extend_schema(tags=["rom-builds"])
class BuildViewSet(JobViewSet[Build]):
    """ROMs and bootable media, made from iPXE's source tree and an embedded script."""

    queryset = Build.objects.select_related("card")
    serializer_class = serializers.BuildSerializer
    filterset_class = filters.BuildFilter
    ordering_fields = [*JobViewSet.ordering_fields, "size"]
    permissions = {"GET": "roms.view_build", "POST": "roms.build_rom"}

    @extend_schema(
        summary="Have a ROM made",
        request=serializers.BuildWriteSerializer,
        responses={201: serializers.BuildSerializer},
    )
    def create(self, request: Request) -> Response:
        build = serializers.BuildWriteSerializer.of(request).submit(actor_of(request))
        return self.created(build, build.pk)

    @extend_schema(summary="Have it made once more", request=None, responses={201: serializers.BuildSerializer})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: int) -> Response:
        build = self._finished_object().again().submit(actor_of(request))
        return self.created(build, build.pk)

    @extend_schema(
        summary="What was made, as a file",
        parameters=[
            OpenApiParameter("pad", str, description="Fill it up with ff to so many bytes, or to the `chip`'s size.")
        ],
        responses={(200, "application/octet-stream"): _FILE},
        filters=False,
    )
    @action(detail=True, methods=["get"])
    def rom(self, request: Request, pk: int) -> HttpResponse | FileResponse:
        build = self.get_object()
        if build.artifact is None:
            raise NotFound(f"This build has no ROM: it is {build.status_at()}.")
        pad = request.query_params.get("pad")
        if pad is None:
            return _download(build.artifact, build.file_name)
        _check_intact(build.artifact)
        headers = {"Content-Disposition": f'attachment; filename="{build.file_name}"'}
        return HttpResponse(padded(build, pad), content_type="application/octet-stream", headers=headers)

    def get_queryset(self) -> QuerySet[Build]:
        builds = super().get_queryset()
        return builds.select_related("card", "artifact") if self.action == "rom" else builds


@extend_schema_view(
    list=extend_schema(summary="Flash jobs, newest first"), retrieve=extend_schema(summary="One flash job")
)
@extend_schema(tags=["flash-jobs"])
class FlashJobViewSet(JobViewSet[FlashJob]):
    """A card's flash chip being saved, written or restored, at a station."""

    queryset = FlashJob.objects.select_related("station", "card")
    serializer_class = serializers.FlashJobSerializer
    filterset_class = filters.FlashJobFilter
    permissions = {"GET": "roms.view_flashjob", "POST": "roms.flash_rom"}

    @extend_schema(
        summary="Have a card's chip written, restored or saved",
        request=serializers.FlashWriteSerializer,
        responses={201: serializers.FlashJobSerializer},
    )
    def create(self, request: Request) -> Response:
        job = serializers.FlashWriteSerializer.of(request).submit(actor_of(request))
        return self.created(job, job.pk)

    @extend_schema(
        summary="Have it done once more",
        request=serializers.ConfirmationSerializer,
        responses={201: serializers.FlashJobSerializer},
    )
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: int) -> Response:
        order = serializers.ConfirmationSerializer.of(request)
        job = self._finished_object()
        if job.machine_name and job.machine is None:
            raise ConflictError(f"The machine {job.machine_name} is gone; order anew.")
        confirmed = order.validated_data["confirm"]
        again = serializers.submit_confirmed(job.again(), actor_of(request), confirmed)
        return self.created(again, again.pk)

    @extend_schema(
        summary="What the chip held before, as a file",
        responses={(200, "application/octet-stream"): _FILE},
        filters=False,
    )
    @action(detail=True, methods=["get"])
    def backup(self, request: Request, pk: int) -> FileResponse:
        job = self.get_object()
        if job.backup is None:
            raise NotFound(f"This job has saved nothing: it is {job.status_at()}.")
        return _download(job.backup, f"chip-{job.card.target}-{job.pk}.bin")


@extend_schema_view(list=extend_schema(summary="Models of cards"), retrieve=extend_schema(summary="One model of card"))
@extend_schema(tags=["cards"])
class CardViewSet(Resource[Card]):
    """Models of network cards: what iPXE can be built for, and what flashrom can write to."""

    queryset = Card.objects.order_by("name", "slug")
    serializer_class = serializers.CardSerializer
    filterset_class = filters.CardFilter
    permissions = {"GET": "roms.view_card"}
    lookup_field = "slug"
    lookup_url_kwarg = "key"
    lookup_value_regex = "[a-z0-9:-]+"


@extend_schema_view(list=extend_schema(summary="Stations"), retrieve=extend_schema(summary="One station"))
@extend_schema(tags=["stations"])
class StationViewSet(Resource[Station]):
    """Hosts with cards plugged in, where a worker runs flash jobs."""

    queryset = Station.objects.order_by("name")
    serializer_class = serializers.StationSerializer
    permissions = {"GET": "roms.view_station"}
    lookup_field = "name"
    lookup_value_regex = "[a-z0-9-]+"


@extend_schema_view(
    list=extend_schema(summary="What cards hold"), retrieve=extend_schema(summary="What one card holds")
)
@extend_schema(tags=["installed-roms"])
class InstalledROMViewSet(Resource[InstalledROM]):
    """Which card of which machine holds which ROM, since when, and who put it there."""

    queryset = InstalledROM.objects.with_outdated().select_related("machine", "card")
    serializer_class = serializers.InstalledROMSerializer
    filterset_class = filters.InstalledROMFilter
    permissions = {"GET": "roms.view_installedrom"}
    lookup_value_regex = "[0-9]+"


def _log_chunks(job: Job, start: int, end: int) -> Iterator[str]:
    """The log from `start` to `end`; what is written meanwhile is for the next request."""
    while start < end:
        text, behind = job.log_from(start, min(_CHUNK, end - start))
        if behind <= start:
            return
        start = behind
        yield text


def _check_intact(stored: StoredFile) -> None:
    if not stored.is_intact():
        raise NotFound("The file is gone from the site's data directory.")


def _download(stored: StoredFile, name: str) -> FileResponse:
    _check_intact(stored)
    return FileResponse(
        stored.path.open("rb"), as_attachment=True, filename=name, content_type="application/octet-stream"
    )
