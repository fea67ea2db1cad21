"""Fixtures for all tests."""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from machines.boot import handler
from machines.boot.unknown_clients import UnknownClientLimiter
from machines.models import Actor, Machine, RescueImage
from roms.toolchain import runner, sandbox

MAC = "00:02:b3:9d:94:8c"

# Only the programs of listed packages: tests/only_listed.py. The site's own PATH for programs is a fixed one otherwise.
if _only := os.environ.get("RESCUESITE_ONLY_LISTED"):
    runner.SAFE_PATH = _only
    sandbox._SYSTEM = (*sandbox._SYSTEM, _only)

# Machines are shared: how long an example takes says nothing.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _fresh_limiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's strangers used up is not missing in the next."""
    monkeypatch.setattr(handler, "limiter", UnknownClientLimiter())


@pytest.fixture
def actor() -> Actor:
    return Actor("tester")


@pytest.fixture
def image(db: None) -> RescueImage:
    """A default image of a kernel and an initrd that does not report."""
    image = RescueImage.objects.create(name="tiny", is_default=True, command_line="console=ttyS0")
    image.attach("kernel", [b"kernel bytes"])
    image.attach("initrd", [b"initrd bytes"])
    return image


@pytest.fixture
def machine(db: None, actor: Actor) -> Machine:
    """A machine that may ask from 127.0.0.1, where the test client asks from."""
    return Machine.objects.add("web01", macs=[MAC], allowed_networks=["127.0.0.1"], actor=actor)


@pytest.fixture
def add_machine(db: None, actor: Actor) -> Callable[[int], Machine]:
    """Add the machine number n, with an address of its own."""

    def add(number: int) -> Machine:
        mac = f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"
        return Machine.objects.add(f"node{number}", macs=[mac], allowed_networks=["127.0.0.1"], actor=actor)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what tests have measured: each is a line of its own."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [str(told) for report in reports for name, told in report.user_properties if name == "measured"]
    if lines:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(sorted(lines)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another database, only what uses one is tested again."""
    if "DATABASE_URL" in os.environ:
        kept = [item for item in items if _uses_database(item) or item.get_closest_marker("e2e")]
        config.hook.pytest_deselected(items=list(set(items).difference(kept)))
        items[:] = kept


def _uses_database(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("django_db") is not None or not {"db", "transactional_db"}.isdisjoint(fixtures)
