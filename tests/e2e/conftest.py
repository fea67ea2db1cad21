"""Fixtures for the tests that use the real parts."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e import guest, vm
from tests.e2e.site import Site

#: The key of alice, who may log in to every rescue.
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBgpRzGy3PmIlAPBu0zy1RkqmzwzlwqdtnBDCsQMnnCI alice@example.net"
PASSWORD = "e2e-password"
_USER = f"""
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from machines.models import SSHKey
alice = get_user_model().objects.create_superuser("alice", "", {PASSWORD!r})
alice.user_permissions.add(Permission.objects.get(codename="login_rescue"))
key = SSHKey(user=alice, public_key={KEY!r})
key.full_clean(exclude=["fingerprint"])
key.save()
"""

MakeSite = Callable[..., Site]


#: These files take longest, and one process runs a whole file. They come first, so that both processes end together.
_LONGEST = (
    *("test_rescue_system", "test_embedded_specs", "test_gunicorn"),
    *("test_isolation", "test_browser", "test_hostile"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory to copy: user alice (a superuser with a key), image `debian`, machine `web01` on loopback."""
    base = tmp_path_factory.mktemp("furnished")
    site = Site(base / "data")
    site.manage("migrate", "--verbosity", "0")
    site.shell(_USER)
    initrd = guest.initrd(base / "initrd")
    parts = ("--kernel", str(guest.kernel()), "--initrd", str(initrd), "--command-line", "console=ttyS0 quiet")
    site.manage("image", "add", "debian", *parts, "--reports", "--default", "--by", "alice")
    site.manage("machine", "add", "web01", "--mac", vm.MAC, "--network", "127.0.0.1", "--by", "alice")
    return site.data_dir


@pytest.fixture
def make_site(furnished: Path, tmp_path: Path) -> Iterator[MakeSite]:
    """Make sites from the furnished directory; each is ended after the test, and its log looked at."""
    made: list[Site] = []
    with ExitStack() as stack:

        def make(environment: Mapping[str, str] | None = None, *, start: bool = True) -> Site:
            data_dir = tmp_path / f"site{len(made)}"
            shutil.copytree(furnished, data_dir)
            site = stack.enter_context(Site(data_dir, environment))
            made.append(site)
            if start:
                site.start()
            return site

        yield make
    for site in made:
        site.check_log()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A furnished site, running."""
    return make_site()


@pytest.fixture(scope="module")
def furnished_copy(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSite]:
    """Start furnished sites for all tests of a module; their logs are looked at when it ends."""
    made: list[Site] = []
    with ExitStack() as stack:

        def make(name: str, environment: Mapping[str, str] | None = None) -> Site:
            data_dir = tmp_path_factory.mktemp(name) / "site"
            shutil.copytree(furnished, data_dir)
            site = stack.enter_context(Site(data_dir, environment))
            made.append(site)
            site.start()
            return site

        yield make
    for site in made:
        site.check_log()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The local disk of a BIOS machine; it prints guest.DISK_MARKER."""
    return guest.disk_image(tmp_path / "disk")
