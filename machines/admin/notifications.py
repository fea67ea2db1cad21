"""Notifications: the rules and the messages."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from machines.admin.auditing import AuditingModelAdmin
from machines.admin.lookups import OfferedLookups, ReadOnly
from machines.models import Delivery, NotificationRule
from machines.notifications.channels import CHANNELS, FORM_FIELDS
from machines.notifications.events import TEST, Event
from rescuesite.actors import actor_of

_FIELDS = (
    *("name", "is_active", "events", "overdue_minutes", "all_machines", "machines"),
    *("kind", *FORM_FIELDS),
)
#: The CSS class of each state.
_STATE_CLASSES = {"waiting": "booting", "delivered": "up", "given_up": "refused"}


class NotificationRuleForm(forms.ModelForm[NotificationRule]):
    events = forms.MultipleChoiceField(
        choices=Event,
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one event."},
    )

    class Meta:
        model = NotificationRule
        fields = _FIELDS
        widgets = FORM_FIELDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fields = {kind: [*channel.form_fields] for kind, channel in CHANNELS.items()}
        # The field is missing if the user may only view the rule.
        if "kind" in self.fields:
            self.fields["kind"].widget.attrs["data-fields"] = json.dumps(fields)

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if not values.get("all_machines") and not values.get("machines"):
            self.add_error("machines", "Choose at least one machine, or all machines.")
        return values


@admin.register(NotificationRule)
class NotificationRuleAdmin(AuditingModelAdmin):
    form = NotificationRuleForm
    list_display = ("name", "is_active", "destination", "event_names", "machine_names", "owner_text", "undelivered")
    list_filter = ("is_active", "kind")
    search_fields = ("name", *FORM_FIELDS)
    ordering = ("name",)
    autocomplete_fields = ("machines",)
    actions = ("send_test", "renew_secret")
    fieldsets = (
        (
            None,
            {
                "fields": ("name", "is_active"),
                "description": "A rule reports only what its owner may see. If you change the recipients, you become "
                "the owner.",
            },
        ),
        ("Events", {"fields": ("events", "overdue_minutes", "all_machines", "machines")}),
        ("Recipients", {"fields": ("kind", *FORM_FIELDS)}),
    )

    class Media:
        js = ("machines/notification_rule.js",)

    def get_fieldsets(self, request: HttpRequest, obj: NotificationRule | None = None) -> Any:
        shown = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return shown
        # The path of a webhook may be a secret. Only users who may change the rule see it.
        return (*shown[:2], ("Recipients", {"fields": ("kind", "destination")}))

    def get_search_fields(self, request: HttpRequest) -> Any:
        return super().get_search_fields(request) if self.has_change_permission(request) else ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[NotificationRule]:
        rules: QuerySet[NotificationRule] = super().get_queryset(request).prefetch_related("machines")
        rules = rules.select_related("owner")
        states = {"waiting_number": Delivery.State.WAITING, "given_up_number": Delivery.State.GIVEN_UP}
        return rules.annotate(
            **{name: Count("deliveries", Q(deliveries__state=state)) for name, state in states.items()}
        )

    @admin.display(description="recipients")
    def destination(self, rule: NotificationRule) -> str:
        return rule.destination

    @admin.display(description="events")
    def event_names(self, rule: NotificationRule) -> str:
        return ", ".join(rule.events)

    @admin.display(description="owner")
    def owner_text(self, rule: NotificationRule) -> str:
        if rule.has_inactive_owner:
            return f"{rule.owner_name} (no active account, so nothing is sent)"
        return rule.owner_name or "the console"

    @admin.display(description="machines")
    def machine_names(self, rule: NotificationRule) -> str:
        if rule.all_machines:
            return "all"
        names = [machine.name for machine in rule.machines.all()]
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"

    @admin.display(description="not delivered")
    def undelivered(self, rule: Any) -> SafeString | str:
        numbers = ((Delivery.State.WAITING, rule.waiting_number), (Delivery.State.GIVEN_UP, rule.given_up_number))
        where = f"{reverse('admin:machines_delivery_changelist')}?rule__id__exact={rule.pk}&state__exact="
        shown = [(where, state.value, number, state.label.lower()) for state, number in numbers if number]
        return format_html_join(", ", '<a href="{}{}">{} {}</a>', shown) or "none"

    # Changing

    def save_model(self, request: HttpRequest, obj: NotificationRule, form: Any, change: bool) -> None:
        values = {name: form.cleaned_data[name] for name in _FIELDS if name != "machines"}
        machines = list(form.cleaned_data["machines"])
        if change:
            obj.revise(values, machines, actor_of(request))
        else:
            request.secret = obj.issue(machines, actor_of(request))  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: NotificationRule, post_url_continue: str | None = None
    ) -> HttpResponse:
        if obj.channel.is_signed:
            return self._show_secret(request, obj, request.secret)  # type: ignore[attr-defined]
        return super().response_add(request, obj, post_url_continue)

    def _show_secret(self, request: HttpRequest, rule: NotificationRule, secret: str) -> HttpResponse:
        title = "The signing secret, shown only once"
        return self.page(request, "machines/webhook_secret.html", title, shows_secret=True, rule=rule, secret=secret)

    @admin.action(description="Send a test", permissions=["change"])
    def send_test(self, request: HttpRequest, queryset: QuerySet[NotificationRule]) -> None:
        for rule in queryset:
            message = rule.send_test(actor_of(request))
            where = reverse("admin:machines_delivery_change", args=[message.pk])
            text = format_html('“{}” sends a test message. <a href="{}">See whether it arrives</a>.', rule, where)
            self.message_user(request, text, messages.SUCCESS)

    @admin.action(description="Make a new signing secret", permissions=["change"])
    def renew_secret(self, request: HttpRequest, queryset: QuerySet[NotificationRule]) -> HttpResponse | None:
        if queryset.count() != 1:
            self.message_user(request, "Choose one rule. The site shows its new secret once.", messages.ERROR)
            return None
        rule = queryset.get()
        return self._show_secret(request, rule, rule.renew_secret(actor_of(request)))


class EventFilter(admin.SimpleListFilter):
    title = "event"
    parameter_name = "event"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(event, event) for event in (*Event.values, TEST)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        return queryset.filter(event=self.value()) if self.value() else queryset


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, OfferedLookups):
    """The messages. Staff can send one again."""

    list_display = ("created_at", "status", "text_and_error", "rule_name", "tries")
    list_filter = ("state", EventFilter, "rule", "created_at")
    search_fields = ("machine", "rule_name", "message_id", "event")
    list_per_page = 100
    show_full_result_count = False
    actions = ("send_again",)
    fields = (
        "event", "machine", "rule_name", "text", "status", "created_at", "delivered_at", "next", "all_tries",
        "message_id", "message",
    )  # fmt: skip

    def get_list_filter(self, request: HttpRequest) -> Any:
        offered = super().get_list_filter(request)
        may_view_rules = self.admin_site._registry[NotificationRule].has_view_permission(request)
        return offered if may_view_rules else [one for one in offered if one != "rule"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return Delivery.objects.visible_to(request.user)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Delivery | None:
        message: Delivery | None = super().get_object(request, object_id, from_field)
        if message:
            message.payload = message.payload_for(request.user)
        return message

    def has_send_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("machines.change_notificationrule")

    @admin.display(description="state", ordering="state")
    def status(self, message: Delivery) -> SafeString:
        css_class, state = _STATE_CLASSES[message.state], message.get_state_display().lower()
        return format_html('<span class="state state-{}">{}</span>', css_class, state)

    @admin.display(description="text")
    def text(self, message: Delivery) -> str:
        return str(message.payload.get("text", ""))

    @admin.display(description="text")
    def text_and_error(self, message: Delivery) -> SafeString | str:
        text = self.text(message)
        if not message.last_error:
            return text
        return format_html('{}<br><span class="quiet">{}</span>', text, message.last_error)

    @admin.display(description="next try")
    def next(self, message: Delivery) -> str:
        if message.state != Delivery.State.WAITING:
            return "none"
        if message.next_try_at <= timezone.now():
            return "as soon as a worker is free"
        return f"{timezone.localtime(message.next_try_at):%Y-%m-%d %H:%M:%S}"

    @admin.display(description="tries")
    def all_tries(self, message: Delivery) -> SafeString | str:
        lines = [
            (one["at"][:19].replace("T", " "), one["error"] or f"arrived: {one['status'] or 'sent'}")
            for one in message.log
        ]
        return format_html_join(mark_safe("<br>"), "{} UTC: {}", lines) or "none yet"

    @admin.display(description="message")
    def message(self, message: Delivery) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(message.payload, indent=2, ensure_ascii=False))

    @admin.action(description="Send selected notifications again", permissions=["send"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        sent = [message.send_again(actor_of(request)) for message in queryset]
        if any(sent):
            self.message_user(request, f"{sum(sent)} queued again.", messages.SUCCESS)
        if not all(sent):
            self.message_user(request, f"{sent.count(False)} not queued: their rules were deleted.", messages.ERROR)
