"""Rescue images and their files."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString

from machines.admin.auditing import AuditingModelAdmin
from machines.models import ImageFile, RescueImage, StoredFile
from machines.models.image import MACHINES_NAMED
from rescuesite.actors import actor_of


class ImageFileForm(forms.ModelForm[ImageFile]):
    """The form of one file. An upload replaces an existing file."""

    upload = forms.FileField(required=False, label="upload", help_text="Choose a file to replace this one.")

    class Meta:
        model = ImageFile
        fields = ("kind", "name", "position")
        widgets = {"name": forms.TextInput(attrs={"size": 18}), "position": forms.NumberInput(attrs={"size": 3})}
        help_texts = {"name": "Only for a further file. If empty, the name of the uploaded file."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The name that the formset assigns to a kernel or an initrd.
        self.assigned_name = ""
        self.stored: StoredFile | None = None
        self.fields["name"].required = False
        self.fields["position"].label = "order"

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        upload = values.get("upload")
        if not self.instance.pk and not upload:
            raise ValidationError("Choose a file to upload.")
        name = self.assigned_name or values.get("name") or (upload.name if upload else "")
        try:
            ImageFile.check_name(values.get("kind", ""), name)
        except ValidationError as error:
            self.add_error("name", error)
        values["name"] = name
        if problem := getattr(upload, "problem", None):
            self.add_error("upload", problem)
        self.stored = getattr(upload, "stored", None)
        return values

    def save(self, commit: bool = True) -> ImageFile:
        if self.stored:
            self.instance.stored = self.stored
        return super().save(commit)


def keep_uploads(request: HttpRequest) -> None:
    """Store each uploaded file, or keep the error. Call it before the transaction: other writers need not wait then."""
    for upload in request.FILES.values():
        try:
            upload.stored = StoredFile.objects.store(upload.chunks())  # type: ignore[union-attr]
        except OSError as error:
            upload.problem = f"The site cannot store the file: {error.strerror}."  # type: ignore[union-attr]


class ImageFileFormSet(forms.BaseInlineFormSet[ImageFile, RescueImage, ImageFileForm]):
    """Assigns the names of kernels and initrds."""

    def full_clean(self) -> None:
        taken = {form.instance.name for form in self.initial_forms}
        for form in self.forms:
            kind, name = form["kind"].value(), form.instance.name
            if kind == ImageFile.Kind.KERNEL:
                form.assigned_name = "kernel"
            elif kind == ImageFile.Kind.INITRD and (form.has_changed() or form.instance.pk):
                numbered = ("initrd" if n == 1 else f"initrd-{n}" for n in range(1, 1000))
                is_named = form.instance.pk and form.instance.kind == ImageFile.Kind.INITRD
                form.assigned_name = name if is_named else next(one for one in numbered if one not in taken)
                taken.add(form.assigned_name)
        super().full_clean()


class ImageFileInline(admin.TabularInline[ImageFile, RescueImage]):
    model = ImageFile
    form = ImageFileForm
    formset: Any = ImageFileFormSet
    fields = ("kind", "upload", "name", "position", "size", "sha256")
    readonly_fields = ("size", "sha256")
    extra = 0
    verbose_name_plural = "files"

    def get_extra(self, request: HttpRequest, obj: RescueImage | None = None, **kwargs: Any) -> int:
        return 0 if obj else 2

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[ImageFile]:
        return super().get_queryset(request).select_related("stored")

    # The permissions of an image apply to its files too.
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machines.view_rescueimage") or self.has_change_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machines.add_rescueimage" if obj is None else "machines.change_rescueimage")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machines.change_rescueimage")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machines.change_rescueimage")

    @admin.display(description="size")
    def size(self, file: ImageFile) -> str:
        return filesizeformat(file.stored.size) if file.pk else ""

    @admin.display(description="SHA-256")
    def sha256(self, file: ImageFile) -> SafeString | str:
        return format_html('<code class="sha256">{}</code>', file.stored.sha256) if file.pk else ""


class RescueImageForm(forms.ModelForm[RescueImage]):
    make_default = forms.BooleanField(
        required=False,
        label="Default image",
        help_text="The site uses this image if neither the machine nor the rescue has another one. It replaces the "
        "current default image.",
    )

    class Meta:
        model = RescueImage
        fields = ("name", "description", "architecture", "command_line", "chain_script", "reports")
        widgets = {
            "command_line": forms.TextInput(attrs={"class": "vLargeTextField"}),
            "chain_script": forms.Textarea(attrs={"rows": 8, "class": "vLargeTextField machine-text"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "chain_script" in self.fields:
            # Keep the line break at the end of the script.
            self.fields["chain_script"].strip = False  # type: ignore[attr-defined]
        if "make_default" in self.fields:
            self.fields["make_default"].initial = self.instance.is_default


@admin.register(RescueImage)
class RescueImageAdmin(AuditingModelAdmin):
    form = RescueImageForm
    inlines = (ImageFileInline,)
    list_display = ("name", "is_default", "architecture", "reports", "contents", "whole", "description")
    search_fields = ("name", "description", "files__name", "files__stored__sha256")
    list_filter = ("architecture", "is_default", "reports")
    fieldsets = (
        (None, {"fields": ("name", "description", "architecture", "make_default", "reports", "command_line")}),
        ("Chain an iPXE script instead of booting a kernel", {"fields": ("chain_script",), "classes": ("collapse",)}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if self.has_change_permission(request, obj) or (obj is None and self.has_add_permission(request)):
            return super().get_fieldsets(request, obj)
        plain = ("name", "description", "architecture", "is_default", "reports", "command_line", "chain_script")
        return ((None, {"fields": plain}),)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[RescueImage]:
        return super().get_queryset(request).prefetch_related("files__stored")

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method == "POST" and (self.has_add_permission(request) or self.has_change_permission(request)):
            keep_uploads(request)
        return super().changeform_view(request, *args, **kwargs)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        image = self.get_object(request, object_id) if request.method == "GET" else None
        if image and (problem := image.problem()):
            messages.warning(request, problem)
        return super().change_view(request, object_id, form_url, extra_context)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        image = self.get_object(request, object_id) if request.method == "GET" else None
        if image and self.has_delete_permission(request, image):
            names = [machine.name for machine in image.machines.all()[: MACHINES_NAMED + 1]]
            if names and request.user.has_perm("machines.view_machine"):
                more = " and more" if len(names) > MACHINES_NAMED else ""
                named = f"{', '.join(names[:MACHINES_NAMED])}{more}"
                messages.warning(request, f"These machines will use the default image instead: {named}.")
            elif names:
                messages.warning(request, "Some machines use this image. They will use the default image instead.")
        return super().delete_view(request, object_id, extra_context)

    @admin.display(description="files")
    def contents(self, image: RescueImage) -> str:
        if image.chain_script:
            return "iPXE script"
        return ", ".join(f"{file.name} ({filesizeformat(file.stored.size)})" for file in image.files.all())

    @admin.display(description="files intact", boolean=True)
    def whole(self, image: RescueImage) -> bool:
        return all(file.stored.is_intact() for file in image.files.all())

    def save_model(self, request: HttpRequest, obj: RescueImage, form: Any, change: bool) -> None:
        """Does nothing: `save_related` saves the image together with its files."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        image: RescueImage = form.instance
        default = form.cleaned_data["make_default"]
        save = image.change if change else image.addition
        with save(actor_of(request), default=default):
            super().save_model(request, image, form, change)
            super().save_related(request, form, formsets, change)
        if problem := image.problem():
            messages.warning(request, problem)
