"""What tests of the ROMs' commands share."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from machines.models import Actor, StoredFile
from roms.management import terminal
from roms.management.commands import rom as rom_command
from roms.models import Build, FlashJob, Job, JobState

ALICE = Actor("alice")
SITE = ("--site", "http://192.0.2.10")
ROM = b"\x55\xaa" + bytes(1022)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def manage(*arguments: Any, err: io.StringIO | None = None) -> str:
    """What a command prints."""
    out = io.StringIO()
    call_command(*[str(argument) for argument in arguments], stdout=out, stderr=err or io.StringIO(), no_color=True)
    return out.getvalue()


def manage_json(*arguments: Any) -> Any:
    return json.loads(manage(*arguments, "--json"))


def refused(*arguments: Any) -> str:
    """Why a command orders nothing."""
    before = Build.objects.count() + FlashJob.objects.count()
    with pytest.raises(CommandError) as raised:
        manage(*arguments)
    assert raised.value.returncode == 2
    assert Build.objects.count() + FlashJob.objects.count() == before
    return str(raised.value)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What happens, step by step, while a command waits; after the last step nothing does, and time goes by."""
    steps: list[Callable[[], object]] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if steps:
            steps.pop(0)()

    class Time:
        monotonic = staticmethod(lambda: clock[0])

    Time.sleep = staticmethod(sleep)  # type: ignore[attr-defined]
    monkeypatch.setattr(terminal, "time", Time)
    monkeypatch.setattr(rom_command, "time", Time)
    return lambda *more: steps.extend(more)


def the(model: type[Job]) -> Any:
    return model._default_manager.latest("pk")


def end_build(rom: bytes = ROM) -> None:
    """The queued build is made."""
    build = the(Build)
    stored = StoredFile.objects.store([rom])
    build.claim("worker")
    build.finish(JobState.SUCCEEDED, artifact=stored, size=len(rom), sha256=stored.sha256)


def fail_build() -> None:
    build = the(Build)
    build.claim("worker")
    build.finish(JobState.FAILED, "The compiler says no.\x1b[31m")
