"""Cards: the list, the page of one card, and the page that reads a pasted output of lspci."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from machines.admin.auditing import AuditedAdmin
from roms.models import Card
from roms.toolchain.flash.flashrom import SupportedCard, supported_cards_if_installed
from roms.toolchain.ipxe import cards as ipxe_cards
from roms.toolchain.ipxe.cards import Advice, CardError, CatalogueCard, CuratedCard, LspciCard
from roms.wording import kib

#: Staff may change these fields of every card.
ALWAYS_EDITABLE = ("programmer", "chip_size", "notes")


class CardForm(forms.ModelForm[Card]):
    class Meta:
        model = Card
        fields = ("slug", "pci_id", "name", "driver", *ALWAYS_EDITABLE)
        labels = {
            "driver": "iPXE driver",
            "rom_name": "Name in iPXE's source",
            "programmer": "flashrom programmer",
            "conflict": "Drivers that claim this card",
        }
        help_texts = {
            "slug": "The card's key on this site. Empty: its PCI ID.",
            "pci_id": "Vendor and device, as lspci -nn shows them.",
            "driver": "Empty: the driver in iPXE's source.",
        }
        widgets = {"notes": forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "slug" in self.fields:
            text = self.fields["slug"]
            self.fields["slug"] = forms.CharField(
                required=False, max_length=40, label=text.label, help_text=text.help_text, widget=text.widget
            )
            # The validator of the model refuses capitals; clean_pci_id converts them.
            self.fields["pci_id"].validators = []

    def clean_pci_id(self) -> str:
        try:
            return ipxe_cards.pci_id(self.cleaned_data["pci_id"])
        except CardError as error:
            raise forms.ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if "slug" in self.fields and not values.get("slug") and "slug" not in self.errors:
            values["slug"] = values.get("pci_id", "")
        return values


class FlashableFilter(admin.SimpleListFilter):
    title = "flashing"
    parameter_name = "flashable"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "flashrom can write to it"), ("no", "flashrom cannot write to it")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "yes":
            return queryset.flashable()
        return queryset.filter(programmer="") if self.value() == "no" else queryset


class LspciForm(forms.Form):
    text = forms.CharField(
        label="Output of lspci",
        max_length=ipxe_cards.LONGEST_PASTE,
        help_text="Paste the whole output. The site skips other lines, and reads every form with numbers (-nn, -n, "
        "-mm, -vmm, BusyBox). With -nnk it also shows which driver to unload.",
        widget=forms.Textarea(
            attrs={"rows": 8, "class": "vLargeTextField machine-text", "spellcheck": "false", "autofocus": True}
        ),
    )


@dataclass(frozen=True)
class Found:
    """A card in a pasted text: the advice for it, and its row in the database if there is one."""

    advice: Advice
    card: Card | None
    chip: str

    @property
    def name(self) -> str:
        return self.advice.card.name or (self.card.name if self.card else "")


@admin.register(Card)
class CardAdmin(AuditedAdmin):
    form = CardForm
    list_display = ("name", "pci", "drivers", "flashed_with", "chip", "build")
    list_filter = (FlashableFilter, "origin", "programmer")
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("name", "slug", "pci_id", "driver", "programmer")
    search_help_text = "Parts of the name, PCI ID, driver or programmer, for example “intel 82574” or “8086:10d3”."
    fieldsets = (
        (None, {"fields": ("name", "pci_id", "slug", "driver")}),
        ("Flash chip", {"fields": ALWAYS_EDITABLE}),
    )
    change_list_template = "roms/card_change_list.html"
    change_form_template = "roms/card_change_form.html"

    class Media:
        css = {"all": ["roms/roms.css"]}

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # A user who builds or flashes must be able to choose a card.
        user = request.user
        return (
            super().has_view_permission(request, obj)
            or user.has_perm("roms.build_rom")
            or user.has_perm("roms.flash_rom")
        )

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Nobody may change the practice card.
        return super().has_change_permission(request, obj) and not (obj and obj.is_practice)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # The site would add cards of its lists again.
        is_own = obj is None or obj.origin == Card.Origin.OWN
        return super().has_delete_permission(request, obj) and is_own

    def get_actions(self, request: HttpRequest) -> Any:
        return {}

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        has_tree_cards = Card.objects.filter(origin=Card.Origin.TREE).exists()
        return super().changelist_view(request, {"has_tree_cards": has_tree_cards, **(extra_context or {})})

    def searched(self, request: HttpRequest, queryset: QuerySet[Card], text: str) -> tuple[QuerySet[Card], bool]:
        return queryset.filter(pk__in=Card.objects.named(text).values("pk")), False

    # The list

    @admin.display(description="PCI id", ordering="pci_id")
    def pci(self, card: Card) -> SafeString:
        return format_html("<code>{}</code>", card.pci_id)

    @admin.display(description="chip", ordering="chip_size")
    def chip(self, card: Card) -> str:
        return kib(card.chip_size) or "?"

    @admin.display(description="flashed with", ordering="programmer")
    def flashed_with(self, card: Card) -> SafeString:
        if not card.programmer:
            return format_html('<span class="quiet">{}</span>', "cannot be flashed")
        return format_html("<code>{}</code>", card.programmer)

    @admin.display(description="iPXE driver", ordering="driver")
    def drivers(self, card: Card) -> SafeString | str:
        if not card.conflict:
            return card.driver or "?"
        shown = '{} <span class="state state-armed" title="These drivers claim it: {}.">two drivers</span>'
        return format_html(shown, card.driver, card.conflict)

    @admin.display(description="")
    def build(self, card: Card) -> SafeString:
        url = reverse("admin:roms_build_add")
        return format_html('<a class="nowrap" href="{}?card={}">Build a ROM</a>', url, card.pk)

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = super().get_list_display(request)
        return shown if request.user.has_perm("roms.build_rom") else [name for name in shown if name != "build"]

    # The page of one card

    def get_fieldsets(self, request: HttpRequest, obj: Card | None = None) -> Any:
        known = ("Source", {"fields": ("origin", "rom_name", "conflict")})
        return (*super().get_fieldsets(request, obj), *((known,) if obj else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: Card | None = None) -> Any:
        known = ("origin", "rom_name", "conflict") if obj else ()
        if obj is None or obj.origin == Card.Origin.OWN:
            return known
        # If two drivers claim the card, staff choose one.
        return ("name", "pci_id", "slug", *(() if obj.conflict else ("driver",)), *known)

    def save_model(self, request: HttpRequest, obj: Card, form: Any, change: bool) -> None:
        if change and form.changed_data:
            # Otherwise the site's own list would undo the change.
            obj.origin = Card.Origin.OWN
        super().save_model(request, obj, form, change)

    def snapshot(self, obj: Card) -> dict[str, Any]:
        return {**obj.snapshot(), "origin": obj.origin}

    # The page for lspci

    def get_urls(self) -> list[URLPattern]:
        lspci = path("lspci/", self.admin_site.admin_view(self.lspci_view), name="roms_card_lspci")
        return [lspci, *super().get_urls()]

    def lspci_view(self, request: HttpRequest) -> HttpResponse:
        """Shows which cards in a pasted output of lspci can be flashed, and how."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = LspciForm(request.POST if request.method == "POST" else None)
        knows_the_tree = Card.objects.filter(origin=Card.Origin.TREE).exists()
        pasted = ipxe_cards.read_lspci(form.cleaned_data["text"]) if form.is_valid() else None
        context = {
            **self.admin_site.each_context(request),
            "title": "Which of these cards can be flashed?",
            "opts": self.opts,
            "form": form,
            "pasted": pasted,
            "found": advised(pasted.cards, knows_the_tree) if pasted else [],
            "knows_the_tree": knows_the_tree,
            "media": self.media + form.media,
        }
        return TemplateResponse(request, "roms/lspci.html", context)


def advised(pasted: Sequence[LspciCard], knows_the_tree: bool = True) -> list[Found]:
    """The advice for each of these cards. One query."""
    rows = [card for card in Card.objects.filter(pci_id__in={card.id for card in pasted}) if not card.is_practice]
    by_id = {card.pci_id: card for card in rows}
    known = [_catalogued(card) for card in rows if card.driver]
    curated = [_curated(card) for card in rows if card.origin != Card.Origin.TREE]
    flashable = [
        SupportedCard(card.programmer, card.name, card.pci_id, is_tested=True) for card in rows if card.programmer
    ]
    if {card.id for card in pasted} - {card.id for card in flashable}:
        flashable = [*supported_cards_if_installed(), *flashable]
    return [
        Found(advice, by_id.get(advice.card.id), kib(advice.chip_size))
        for advice in ipxe_cards.advise(pasted, known, curated, flashable, knows_the_tree=knows_the_tree)
    ]


def _catalogued(card: Card) -> CatalogueCard:
    drivers = tuple(card.conflict.split(", ")) if card.conflict else (card.driver,)
    return CatalogueCard(card.pci_id, card.name, card.rom_name, drivers)


def _curated(card: Card) -> CuratedCard:
    return CuratedCard(
        card.slug, card.pci_id, card.name, card.driver, card.programmer, chip_size=card.chip_size, notes=card.notes
    )
