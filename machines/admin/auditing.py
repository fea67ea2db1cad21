"""Base classes of admin pages that add audit entries for changes, in the same transaction."""

from __future__ import annotations

from typing import Any

from django.db import models, transaction
from django.http import HttpRequest

from machines.admin.lookups import OfferedLookups
from machines.models import AuditEntry, Machine
from machines.models.audit import differences
from rescuesite.actors import actor_of


class AuditingModelAdmin(OfferedLookups):
    """For a model whose methods add the audit entries."""

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        obj.delete_audited(actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        with transaction.atomic():
            for obj in queryset:
                self.delete_model(request, obj)


class AuditedAdmin(OfferedLookups):
    """Adds the audit entries `<model>_added`, `_changed` and `_deleted`. A subclass defines `snapshot`."""

    def snapshot(self, obj: Any) -> dict[str, Any]:
        """Return the values of `obj` for an audit entry, without secrets."""
        return {}

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        obj = super().get_object(request, object_id, from_field)
        if obj is not None and request.method == "POST":
            request.audit_before = self.snapshot(obj)  # type: ignore[attr-defined]
        return obj

    def log_addition(self, request: HttpRequest, object: Any, message: Any) -> Any:  # noqa: A002 - Django's name
        self._record(request, object, "added", self.snapshot(object))
        return super().log_addition(request, object, message)

    def log_change(self, request: HttpRequest, object: Any, message: Any) -> Any:  # noqa: A002 - Django's name
        if message:
            fresh = self.model._default_manager.get(pk=object.pk)
            changes = differences(getattr(request, "audit_before", {}), self.snapshot(fresh))
            self._record(request, object, "changed", changes or {"message": message})
        return super().log_change(request, object, message)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self._record(request, obj, "deleted", self.snapshot(obj))
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        with transaction.atomic():
            for obj in queryset:
                self._record(request, obj, "deleted", self.snapshot(obj))
            super().delete_queryset(request, queryset)

    def _record(self, request: HttpRequest, obj: Any, what: str, details: dict[str, Any]) -> None:
        AuditEntry.objects.record(
            f"{self.opts.model_name}_{what}",
            actor=actor_of(request),
            machine=obj if isinstance(obj, Machine) else None,
            subject=str(obj)[:150],
            details=details,
        )
