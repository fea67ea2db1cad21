"""What tests of a rescue's files share."""

from __future__ import annotations

import pytest
from django.test import Client

from machines.models import Machine, Rescue, RescueImage
from tests.machines.support import (
    ask,
    enable,
)


@pytest.fixture
def rescue(client: Client, machine: Machine, image: RescueImage) -> Rescue:
    """One whose script has been served."""
    rescue = enable(machine)
    ask(client)
    return rescue
