"""What tests of the commands at a terminal share."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command


def manage(*arguments: str | Path) -> str:
    """What a command prints."""
    out = io.StringIO()
    call_command(*[str(argument) for argument in arguments], stdout=out, stderr=io.StringIO())
    return out.getvalue()


def manage_json(*arguments: str | Path) -> Any:
    return json.loads(manage(*arguments, "--json"))


def warned(*arguments: str) -> str:
    """What a command prints on standard error."""
    err = io.StringIO()
    call_command(*arguments, stdout=io.StringIO(), stderr=err)
    return err.getvalue()


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_user("ada")
