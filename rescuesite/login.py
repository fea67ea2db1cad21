"""Logging in to the admin: not without end from one address."""

from __future__ import annotations

import math
from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError

from machines.models import LoginFailure
from rescuesite.client_address import source_of


class LoginForm(AdminAuthenticationForm):
    """Asks for a password, unless too many from this address were wrong: then it is not even looked at."""

    def clean(self) -> dict[str, Any]:
        assert self.request
        source = source_of(self.request)
        if wait := LoginFailure.objects.reserve(source):
            minutes = math.ceil(wait.total_seconds() / 60)
            when = f"{minutes} minute{'s' if minutes > 1 else ''}"
            raise ValidationError(f"Too many log-ins from your address failed. Try again in {when}.", code="blocked")
        try:
            cleaned = super().clean()
        except ValidationError:
            LoginFailure.objects.failed(source)
            raise
        LoginFailure.objects.give_back(source)
        return cleaned
