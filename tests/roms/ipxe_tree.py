"""ROMs built from a real iPXE tree, for tests that need other ones than Debian's.

Only where RESCUESITE_IPXE_SOURCE names a directory, a clone or a tree: what takes minutes or a network is not for
everyone. The tree is kept in the cache, so only the first run compiles.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.e2e.guest import CACHE

REF = os.environ.get("RESCUESITE_IPXE_REF") or "v2.0.0"
#: All that v2.0.0 has on for a BIOS and a rescue does without: what is left is what `required_options` asks for, and
#: bzImage.
OFF = (
    *("NET_PROTO_EAPOL", "NET_PROTO_LACP", "NET_PROTO_STP", "DOWNLOAD_PROTO_TFTP"),
    *("HTTP_AUTH_BASIC", "HTTP_AUTH_DIGEST", "SANBOOT_PROTO_AOE", "SANBOOT_PROTO_FCP"),
    *("SANBOOT_PROTO_HTTP", "SANBOOT_PROTO_IB_SRP", "SANBOOT_PROTO_ISCSI", "AUTOBOOT_CMD"),
    *("CONFIG_CMD", "FCMGMT_CMD", "FORM_CMD", "IBMGMT_CMD"),
    *("IMAGE_ARCHIVE_CMD", "IWMGMT_CMD", "LOGIN_CMD", "MENU_CMD"),
    *("ROUTE_CMD", "SANBOOT_CMD", "SHELL_CMD", "SHIM_CMD"),
    *("SYNC_CMD", "POWEROFF_CMD", "REBOOT_CMD", "CPUID_CMD"),
    *("IMAGE_DER", "IMAGE_PEM", "IMAGE_PNG", "IMAGE_ELF"),
    *("IMAGE_MULTIBOOT", "IMAGE_PXE", "PXE_MENU", "PXE_STACK"),
    *("DNS_RESOLVER", "VNIC_IPOIB", "EAP_METHOD_MD5", "DOWNLOAD_PROTO_HTTPS"),
    *("NET_PROTO_IPV6",),
)


class Tree:
    """A tree of its own, with those options off, and others `on`."""

    def __init__(self, on: Iterable[str] = ()) -> None:
        """Skip the test where there is nothing to make it of."""
        self._source = Path(os.environ.get("RESCUESITE_IPXE_SOURCE", ""))
        if not os.environ.get("RESCUESITE_IPXE_SOURCE") or not self._source.is_dir():
            pytest.skip("RESCUESITE_IPXE_SOURCE names no directory with iPXE")
        if missing := [tool for tool in ("gcc", "make", "perl", "git") if not shutil.which(tool)]:
            pytest.skip(f"{', '.join(missing)} are not installed")
        headers = "".join(f"#undef {option}\n" for option in OFF) + "".join(f"#define {option}\n" for option in on)
        named = hashlib.sha256(f"{self._source}{REF}{headers}".encode()).hexdigest()[:12]
        self.path = CACHE / f"ipxe-{named}"
        CACHE.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if not self.path.exists():
                draft = self.path.with_suffix(".draft")
                shutil.rmtree(draft, ignore_errors=True)
                self._export(draft)
                (draft / "src" / "config" / "local" / "general.h").write_text(headers)
                draft.rename(self.path)

    def build(self, target: str, script: str = "#!ipxe\nexit\n") -> bytes:
        """Make `target` (bin/8086100e.rom), with `script` embedded."""
        with self._alone():
            # make goes by name and time, not by contents.
            embedded = self.path / f"{hashlib.sha256(script.encode()).hexdigest()}.ipxe"
            embedded.write_text(script)
            ran = subprocess.run(
                ["make", "-j2", f"EMBED={embedded}", "GITVERSION=test", target],
                cwd=self.path / "src",
                capture_output=True,
                text=True,
            )
            assert ran.returncode == 0, f"{target} is not built:\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
            return (self.path / "src" / target).read_bytes()

    def tool(self, name: str, *args: str | Path) -> bytes:
        """What a program of the tree's prints."""
        command = ["perl", str(self.path / "src" / "util" / name), *map(str, args)]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def _export(self, into: Path) -> None:
        if (self._source / "src" / "Makefile").exists() and not (self._source / ".git").exists():
            shutil.copytree(self._source, into)
            return
        into.mkdir(parents=True)
        git = ["git", "-c", "safe.directory=*", "-C", str(self._source), "archive", REF]
        archive = subprocess.run(git, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(into)], input=archive, check=True)

    def _alone(self) -> _Lock:
        return _Lock(self.path.with_suffix(".lock"))


class _Lock:
    """Held by one test process at a time: two calls of make in one tree break each other."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
