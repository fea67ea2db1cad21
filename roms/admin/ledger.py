"""Installed ROMs: which card of which machine holds which ROM, and whether its script is outdated."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from machines.admin.auditing import AuditedAdmin
from machines.models import Machine
from roms.admin.flashing import ask_url
from roms.models import InstalledROM
from roms.wording import card_code


class InstalledROMForm(forms.ModelForm[InstalledROM]):
    class Meta:
        model = InstalledROM
        fields = ("machine", "mac", "notes")
        widgets = {"notes": forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"})}

    def _get_validation_exclusions(self) -> set[str]:
        # The form has no field for the card, but the constraint on machine and card needs it.
        return super()._get_validation_exclusions() - {"card"}  # type: ignore[misc,no-any-return]


class OutdatedFilter(admin.SimpleListFilter):
    title = "script"
    parameter_name = "outdated"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "outdated"), ("no", "current or unknown")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "yes":
            return queryset.filter(is_outdated=True)
        return queryset.filter(is_outdated=False) if self.value() == "no" else queryset


class ROMColumns:
    """The columns of installed ROMs, in their own list and on the page of a machine."""

    @admin.display(description="card", ordering="card__slug")
    def card_short(self, installed: InstalledROM) -> SafeString | str:
        return card_code(installed.card)

    @admin.display(description="ROM", ordering="build")
    def rom(self, installed: InstalledROM) -> SafeString | str:
        if installed.build is None:
            return installed.description or "?"
        url = reverse("admin:roms_build_change", args=[installed.build.pk])
        text = f"build {installed.build.pk} ({installed.build.profile})"
        return format_html('<a href="{}">{}</a>', url, text)

    @admin.display(description="script")
    def script(self, installed: Any) -> SafeString | str:
        if installed.build is None:
            return "-"
        short = installed.build.script_sha256[:8]
        if not installed.is_outdated:
            return format_html("<code>{}</code>", short)
        return format_html('<code>{}</code> <span class="state state-armed">outdated</span>', short)

    @admin.display(description="since", ordering="since")
    def since_shown(self, installed: InstalledROM) -> str:
        return f"{timezone.localtime(installed.since):%Y-%m-%d %H:%M}"

    @admin.display(description="")
    def flash_anew(self, installed: InstalledROM) -> SafeString:
        return format_html('<a href="{}">Flash…</a>', ask_url(installed=str(installed.pk)))


def with_related(queryset: Any) -> Any:
    """The rows with everything that the columns show."""
    return queryset.with_outdated().select_related("machine", "card", "build__card", "flash_job")


@admin.register(InstalledROM)
class InstalledROMAdmin(ROMColumns, AuditedAdmin):
    form = InstalledROMForm
    list_display = ("machine_shown", "card_short", "mac", "rom", "script", "since_shown", "by", "flash_anew")
    list_filter = (OutdatedFilter, "build__profile", "since")
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("machine__name", "card__name", "card__slug", "mac", "by", "sha256", "notes", "description")
    search_help_text = "Machine, card, MAC address, user, notes, or a part of the chip's SHA-256."
    fields = ("machine", "mac", "notes", "card", "rom", "script", "sha256", "since_shown", "by", "job")
    readonly_fields = ("card", "rom", "script", "sha256", "since_shown", "by", "job")
    autocomplete_fields = ("machine",)

    class Media:
        css = {"all": ["roms/roms.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        # Flash jobs add the rows.
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        return with_related(super().get_queryset(request))

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = super().get_list_display(request)
        return shown if request.user.has_perm("roms.flash_rom") else [name for name in shown if name != "flash_anew"]

    @admin.display(description="machine", ordering="machine__name")
    def machine_shown(self, installed: InstalledROM) -> str:
        return installed.machine.name if installed.machine else "not in a machine"

    @admin.display(description="flash job")
    def job(self, installed: InstalledROM) -> SafeString | str:
        if installed.flash_job is None:
            return "-"
        url = reverse("admin:roms_flashjob_change", args=[installed.flash_job.pk])
        return format_html('<a href="{}">{}</a>', url, installed.flash_job)

    def snapshot(self, obj: InstalledROM) -> dict[str, Any]:
        return obj.snapshot()


class _NothingPosted(forms.BaseInlineFormSet[InstalledROM, Machine, Any]):
    """A read-only formset: it ignores everything that is posted."""

    new_objects: list[Any] = []
    changed_objects: list[Any] = []
    deleted_objects: list[Any] = []

    def __init__(self, data: Any = None, files: Any = None, **kwargs: Any) -> None:
        super().__init__(None, None, **kwargs)

    def is_valid(self) -> bool:
        return True

    def save(self, commit: bool = True) -> list[Any]:
        return []


class InstalledROMInline(ROMColumns, admin.TabularInline[InstalledROM, Machine]):
    """The installed ROMs on the page of a machine."""

    model = InstalledROM
    formset: Any = _NothingPosted
    fields = ("card_short", "mac", "rom", "script", "since_shown", "by")
    readonly_fields = fields
    extra = 0
    can_delete = False
    show_change_link = True
    verbose_name_plural = "ROMs in its cards"

    def get_queryset(self, request: HttpRequest) -> Any:
        # Django's method checks the view permission without the machine, which has_view_permission needs.
        return with_related(InstalledROM.objects.all())

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # A new machine has no ROMs.
        return obj is not None and super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
