"""The login form, with a limit of failed logins for each address."""

from __future__ import annotations

import math
from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError

from machines.models import LoginFailure
from rescuesite.client_address import source_of


class LoginForm(AdminAuthenticationForm):
    """Checks the password, unless too many logins from this address have failed."""

    def clean(self) -> dict[str, Any]:
        assert self.request
        source = source_of(self.request)
        if wait := LoginFailure.objects.reserve(source):
            minutes = math.ceil(wait.total_seconds() / 60)
            when = f"{minutes} minute{'s' if minutes > 1 else ''}"
            raise ValidationError(f"Too many failed logins from your address. Try again in {when}.", code="blocked")
        try:
            cleaned = super().clean()
        except ValidationError:
            LoginFailure.objects.failed(source)
            raise
        LoginFailure.objects.give_back(source)
        return cleaned
