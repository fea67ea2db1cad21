"""Base classes for objects of a user. Staff users manage their own. Only a superuser sees those of others."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db import models
from django.http import HttpRequest

from machines.admin.lookups import OfferedLookups


class OwnedForm(forms.ModelForm[Any]):
    """Checks the constraints with the user, even if the form has no user field."""

    #: The field that must be unique for each user.
    unique_field: str

    def _get_validation_exclusions(self) -> set[str]:
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return excluded - {"user", self.unique_field}


class OwnedAdmin(OfferedLookups):
    """For a model with a `user` field. Objects can be added and deleted, but not changed."""

    list_select_related = ("user",)
    #: The fields of the form to add an object.
    own_fields: tuple[str, ...] = ()
    #: The additional read-only fields of an existing object.
    shown_fields: tuple[str, ...] = ()

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        objects: models.QuerySet[Any] = super().get_queryset(request)
        return objects if request.user.is_superuser else objects.filter(user=request.user.pk)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        owner = ("user",) if request.user.is_superuser else ()
        return (*self.own_fields, *owner, *(self.shown_fields if obj else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.shown_fields, *((*self.own_fields, "user") if obj else ()))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"user": request.user.pk}

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if obj is None and not request.user.is_superuser:
            owner = request.user

            class OwnForm(form):  # type: ignore[misc, valid-type]
                def _post_clean(self) -> None:
                    self.instance.user = owner
                    super()._post_clean()

            return OwnForm
        return form

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_own = obj is None or request.user.is_superuser or obj.user_id == request.user.pk
        return self.has_add_permission(request) and is_own

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_view_permission(request, obj)
