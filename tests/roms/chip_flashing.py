"""What tests of flashing share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from roms.toolchain.flash.flashing import (
    Phase,
)
from tests.roms.chips import KIB, Bench, changed, contents

ALL = [Phase.PROBE, Phase.SAVE, Phase.WRITE, Phase.VERIFY]
OLD, NEW = contents(64 * KIB, 1), contents(64 * KIB, 2)
OLD_128, NEW_128 = contents(128 * KIB, 1), changed(contents(128 * KIB, 1))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
