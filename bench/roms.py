"""ROM builds: the first, one after a changed script, one for a second card; against plain `make` in a fresh tree.

Needs a source tree: RESCUESITE_IPXE_SOURCE, where the default cannot be reached.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from django.conf import settings

from roms.toolchain.ipxe.build import Builder, BuildError, BuildRequest, BuildResult, Target
from roms.toolchain.ipxe.script.render import render
from roms.toolchain.ipxe.script.spec import ScriptSpec
from roms.toolchain.ipxe.source import SourceTree

_CARD, _SECOND_CARD = "8086:1229", "8086:100e"
_CHIP = 64 << 10


def run(base: Path) -> None:
    base.mkdir()
    base.chmod(0o711)
    source = SourceTree(settings.RESCUESITE_IPXE_SOURCE, settings.RESCUESITE_IPXE_REF, base / "ipxe")
    builder = Builder(source, base / "ipxe", user=settings.RESCUESITE_BUILD_USER)
    try:
        commit = source.obtain()
        ours = _ours(builder, base)
        sizes = {
            profile: _built(builder, base, profile=profile)[1].size for profile in ("minimal", "standard", "everything")
        }
    except BuildError as error:
        print(f"\nROM builds are left out: {error}")
        return
    peer = _by_hand(source, commit, base)
    print(f"\nROM builds, {settings.RESCUESITE_IPXE_REF} (peer: make in a fresh tree, by hand)")
    print(f"{'':40}{'seconds':>9}{'by hand':>9}{'ratio':>8}")
    for name, seconds in ours.items():
        print(f"{name:40}{seconds:9.1f}{peer[name]:9.1f}{seconds / peer[name]:8.2f}")
    print(f"\n{'ROM of 8086:1229 by profile':40}{'bytes':>9}{'64 KiB':>9}")
    for name, size in sizes.items():
        print(f"{name:40}{size:9}{'fits' if size <= _CHIP else 'no':>9}")


def _script(site: str) -> bytes:
    return render(ScriptSpec(site=site)).encode()


def _built(builder: Builder, base: Path, site: str = "http://192.0.2.10", **order: str) -> tuple[float, BuildResult]:
    request = BuildRequest(**{"target": Target.ROM, "script": _script(site), "card": _CARD, **order})  # type: ignore[arg-type]
    started = time.monotonic()
    result = builder.build(request, base)
    return time.monotonic() - started, result


def _ours(builder: Builder, base: Path) -> dict[str, float]:
    return {
        "first build": _built(builder, base)[0],
        "another script": _built(builder, base, site="http://192.0.2.11")[0],
        "another card": _built(builder, base, card=_SECOND_CARD)[0],
    }


def _by_hand(source: SourceTree, commit: str, base: Path) -> dict[str, float]:
    """The same by typing make, as root, in a tree of one's own."""
    tree = base / "by-hand"
    source.export(commit, tree)
    script = base / "boot.ipxe"

    def make(card: str, site: str) -> float:
        script.write_bytes(_script(site))
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        command = ["make", jobs, f"bin/{card.replace(':', '')}.rom", f"EMBED={script}", f"GITVERSION={commit}"]
        started = time.monotonic()
        subprocess.run(command, cwd=tree / "src", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - started

    return {
        "first build": make(_CARD, "http://192.0.2.10"),
        "another script": make(_CARD, "http://192.0.2.11"),
        "another card": make(_SECOND_CARD, "http://192.0.2.11"),
    }
