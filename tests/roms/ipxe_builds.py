"""What tests of builds share."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from roms.toolchain.ipxe import build as ipxe_build
from roms.toolchain.ipxe.build import Builder, BuildError, BuildRequest, BuildResult, Target
from roms.toolchain.ipxe.make_output import Listener, Phase
from roms.toolchain.ipxe.option_headers import Option, Value
from roms.toolchain.ipxe.source import SourceTree

STAND_IN = Path(__file__).parent / "stand_in"
KIB = 1024
SCRIPT = b"#!ipxe\necho stand-in\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")


@dataclass
class Site:
    """A data directory that only its owner may enter, a builder in it, and all that it says."""

    folder: Path
    log: bytearray = field(default_factory=bytearray)
    phases: list[Phase] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700)
        (self.folder / "out").mkdir()
        source = SourceTree(str(STAND_IN), "v2.0.0", self.folder / "ipxe")
        self.builder = Builder(source, self.folder / "ipxe", jobs=2)

    def build(
        self,
        target: str = "rom",
        card: str = "8086:1229",
        script: bytes = SCRIPT,
        profile: str = "minimal",
        driver: str = "",
        options: Mapping[str, Value] | None = None,
        *,
        stop_when: str = "",
        timeout: float = 60,
    ) -> BuildResult:
        request = BuildRequest(
            Target(target),
            script,
            card if Target(target).needs_card else "",
            driver=driver,
            profile=profile,
            options=options or {},
        )
        into = Path(tempfile.mkdtemp(dir=self.folder / "out"))

        def should_stop() -> bool:
            return bool(stop_when) and stop_when.encode() in self.log

        listener = Listener(self.log.extend, self.phases.append, self.progress.append)
        return self.builder.build(request, into, listener, should_stop, timeout)

    def error(self, kind: str, **arguments: object) -> BuildError:
        with pytest.raises(BuildError) as raised:
            self.build(**arguments)  # type: ignore[arg-type]
        assert raised.value.kind == kind, raised.value
        return raised.value

    def lock_of(self, tree: Path) -> Path:
        return self.folder / "ipxe" / "locks" / f"{tree.name}.lock"

    @property
    def trees(self) -> list[Path]:
        return sorted(path for path in (self.folder / "ipxe" / "trees").iterdir() if path.is_dir())


def switched_on(options: Mapping[str, Option], changes: Mapping[str, Value], platform: str) -> frozenset[str]:
    """The flags that are on in a build for one platform: what its scripts can rely on."""
    return frozenset(
        name
        for name, option in options.items()
        if platform in option.platforms and changes.get(name, option.default(platform)) is True
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site in which the minimal ROM has been built."""
    site = Site(tmp_path_factory.mktemp("template") / "site")
    site.build()
    return site


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Site:
    """A site of this test's own in which the minimal ROM has been built."""
    site = Site(tmp_path / "site")
    subprocess.run(["cp", "-a", str(template.folder / "ipxe"), str(site.folder)], check=True)
    # What is known of the commit is the same.
    site.builder._known.update(template.builder._known)
    return site


@pytest.fixture
def fresh(tmp_path: Path) -> Site:
    """Another site, elsewhere, in which nothing has been built."""
    return Site(tmp_path / "fresh")


@pytest.fixture(autouse=True)
def nothing_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools for disk images need not be here: the stand-in does not use them."""
    monkeypatch.setattr(ipxe_build, "missing_tools", lambda target: [])
