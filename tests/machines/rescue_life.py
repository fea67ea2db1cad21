"""What tests of the life of a rescue share."""

from __future__ import annotations

import pytest

from machines.models import RescueImage


@pytest.fixture
def reporting(image: RescueImage) -> RescueImage:
    """The default image, which reports."""
    image.reports = True
    image.save()
    return image
