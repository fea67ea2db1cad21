"""A site with one virtual machine, for the measurements that boot it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e import vm
from tests.e2e.site import Site


@contextmanager
def site_with_a_machine(folder: Path) -> Iterator[Site]:
    """A site in a folder, not yet started, whose only machine is `web01`."""
    with Site(folder) as site:
        folder.mkdir()
        site.manage("migrate", "--verbosity", "0")
        site.manage("machine", "add", "web01", "--mac", vm.MAC, "--network", "127.0.0.1")
        yield site
