"""Build the rescue system from Debian packages: a kernel and an initrd."""

from __future__ import annotations

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machines.boot import newc

HERE = Path(__file__).resolve().parent
PROFILES = ("small", "full")
#: The required programs and their Debian packages.
TOOLS = {"mmdebstrap": "mmdebstrap", "mksquashfs": "squashfs-tools"}
#: The kernel modules that the init program needs to mount the root.
EARLY_MODULES = ("loop", "squashfs", "overlay")
#: The default of SOURCE_DATE_EPOCH, for reproducible images: 2025-01-01.
EPOCH = 1735689600
#: The disk space in bytes that a build needs at most, for the unpacked root, its archive and the compressed file.
SPACE = 4 << 30


class BuildError(Exception):
    """The image cannot be built. The message says why and what to do."""


@dataclass(frozen=True)
class Recipe:
    """The contents of an image."""

    suite: str
    profile: str = "full"
    include: Sequence[str] = ()
    mirror: str = ""

    def check(self) -> None:
        """Raise BuildError for text that mmdebstrap or apt would treat as an option, a file or a command."""
        if not re.fullmatch(r"[a-z][a-z0-9.-]*", self.suite):
            raise BuildError(f"“{self.suite[:60]}” is not a valid Debian suite. Enter it like bookworm.")
        for name in self.include:
            if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+(?::[a-z0-9]+)?(?:=[A-Za-z0-9.+~:-]+)?", name):
                raise BuildError(f"“{name[:60]}” is not a valid package name. Enter it like htop.")
        if self.mirror and not re.fullmatch(r"(?:https?|ftp|file|copy|mirror\+[a-z]+):/[!-~]+", self.mirror):
            raise BuildError(f"“{self.mirror[:60]}” is not a valid mirror. Enter it like http://deb.debian.org/debian.")

    def packages(self) -> list[str]:
        """Return the names of the Debian packages, sorted."""
        names = {"linux-image-amd64", *self.include}
        for profile in PROFILES[: PROFILES.index(self.profile) + 1]:
            names.update(_lines(HERE / "packages" / f"{profile}.txt"))
        return sorted(names)


@dataclass
class Built:
    """The files of a finished image, in the folder of the build."""

    kernel: Path
    initrd: Path
    version: str = ""


@dataclass
class Builder:
    """One build in a folder of its own. `say` gets a line for each step."""

    recipe: Recipe
    folder: Path
    #: A locked descriptor that the programs of the build inherit. The lock shows that they are running.
    lock: int | None = None
    say: Callable[[str], None] = field(default=lambda line: None)

    def build(self) -> Built:
        """Build the image. Raises BuildError."""
        self._check()
        tar = self._root()
        kernel = self._taken("vmlinuz")
        squashed = self._squash(tar)
        tar.unlink()
        initrd = self._initrd(squashed)
        squashed.unlink()
        return Built(kernel, initrd, (self.folder / "version").read_text().strip())

    def _check(self) -> None:
        self.recipe.check()
        missing = sorted(package for tool, package in TOOLS.items() if not shutil.which(tool))
        if missing:
            raise BuildError(f"Programs are missing. Install them: apt-get install {' '.join(missing)}")
        free = shutil.disk_usage(self.folder).free
        if free < SPACE:
            raise BuildError(f"{self.folder} has {free >> 20} MB free. A build needs {SPACE >> 20} MB.")

    # The root file system

    def _root(self) -> Path:
        """Build Debian with our files and without unneeded files, as a tar archive."""
        # No hook may empty the root's /tmp: mmdebstrap's apt would lose its configuration and clear this host's lists.
        tar = self.folder / "root.tar"
        self.say(f"Debian {self.recipe.suite}: {len(self.recipe.packages())} packages and what they need")
        overlay = self._overlay()
        # Quote the paths, because a shell runs the hooks.
        folder, modules = shlex.quote(str(self.folder)), HERE / "modules.py"
        list_modules = shlex.join([sys.executable, str(modules)])
        hooks = [
            f"sync-in {shlex.quote(str(overlay))} /",
            'chroot "$1" /bin/sh /usr/lib/rescuesite/finish-image',
            f'cp "$1"/boot/vmlinuz-* {folder}/vmlinuz',
            f'ls "$1"/usr/lib/modules > {folder}/version',
            *(
                f'find "$1"/usr/lib/modules "(" -name {name}.ko -o -name {name}.ko.xz ")" -exec cp -t {folder} {{}} +'
                for name in EARLY_MODULES
            ),
            f'cp "$1"/bin/busybox {folder}/busybox',
            f'{list_modules} "$(echo "$1"/usr/lib/modules/*)" {shlex.quote(str(HERE / "modules.txt"))}',
            f'chroot "$1" depmod "$(cat {folder}/version)"',
            'rm "$1"/usr/lib/rescuesite/finish-image',
            "rm -rf " + " ".join(f'"$1"/{path}' for path in _lines(HERE / "trim.txt")),
        ]
        command = [
            *("mmdebstrap", "--variant=minbase", "--components=main", "--format=tar"),
            f"--include={','.join(self.recipe.packages())}",
            *(
                f"--dpkgopt=path-exclude={path}"
                for path in ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
            ),
            '--aptopt=Acquire::Languages "none"',
            *(f"--customize-hook={hook}" for hook in hooks),
            *(self.recipe.suite, str(tar)),
            *([self.recipe.mirror] if self.recipe.mirror else []),
        ]
        self._run(command, "mmdebstrap")
        return tar

    def _overlay(self) -> Path:
        """Copy our files and set their modes, independent of the modes in the checkout."""
        overlay = self.folder / "overlay"
        shutil.copytree(HERE / "overlay", overlay, symlinks=True)
        programs = ("usr/local/sbin", "usr/lib/rescuesite", "usr/lib/systemd/system-generators", "etc/update-motd.d")
        for path in overlay.rglob("*"):
            runs = path.is_dir() or str(path.parent.relative_to(overlay)) in programs
            path.chmod(0o755 if runs else 0o644)
        return overlay

    def _squash(self, tar: Path) -> Path:
        """Compress the root into one file that the kernel can mount."""
        squashed = self.folder / "root.squashfs"
        self.say("compressing")
        # The times come from SOURCE_DATE_EPOCH.
        times = ["-reproducible", "-no-exports"]
        # Reading a small file unpacks a whole block. Blocks of 1 MB would save 4 MB, but start 3 s later.
        packing = ["-comp", "zstd", "-Xcompression-level", "19", "-b", "256K"]
        with tar.open("rb") as archive:
            self._run(
                ["mksquashfs", "-", str(squashed), "-tar", "-quiet", "-no-progress", *packing, *times],
                "mksquashfs",
                stdin=archive.fileno(),
            )
        return squashed

    # The initrd

    def _initrd(self, squashed: Path) -> Path:
        """Pack the init program and the root into one archive."""
        self.say("making the initrd")
        modules = {name: self._taken_module(name) for name in EARLY_MODULES}
        files = {
            "init": (0o755, (HERE / "early_init").read_bytes()),
            "bin/busybox": (0o755, self._taken("busybox").read_bytes()),
            "modules/order": (0o644, "".join(f"{name}.ko\n" for name in EARLY_MODULES).encode()),
            **{f"modules/{name}.ko": (0o644, content) for name, content in modules.items()},
            "root.squashfs": (0o644, squashed.read_bytes()),
        }
        initrd = self.folder / "initrd"
        initrd.write_bytes(newc.archive(files, {"proc": 0o755, "sys": 0o755, "dev": 0o755, "root": 0o700}))
        return initrd

    def _taken(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            raise BuildError(f"The packages of {self.recipe.suite} have no {name}. This suite is not supported.")
        return path

    def _taken_module(self, name: str) -> bytes:
        """Return an unpacked kernel module, because the init program cannot unpack it."""
        plain, packed = self.folder / f"{name}.ko", self.folder / f"{name}.ko.xz"
        return lzma.decompress(packed.read_bytes()) if packed.exists() else self._taken(plain.name).read_bytes()

    def _run(self, command: Sequence[str], name: str, stdin: int = subprocess.DEVNULL) -> None:
        """Run a program and report its progress. Raises BuildError with the end of its output."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TMPDIR": str(self.folder)}
        environment["SOURCE_DATE_EPOCH"] = str(_epoch())
        environment |= {name: os.environ[name] for name in ("http_proxy", "https_proxy", "HOME") if name in os.environ}
        said: list[str] = []
        with subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            pass_fds=[] if self.lock is None else [self.lock],
            # The files of the image need the usual modes.
            umask=0o022,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                said.append(line.rstrip())
                if line.startswith("I: ") and "hook" not in line:
                    self.say(f"  {line[3:].rstrip()}")
        if process.returncode:
            raise BuildError(f"{name} failed ({process.returncode}):\n" + "\n".join(said[-15:]))


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH)


def _lines(path: Path) -> Iterator[str]:
    """Return the lines of a list without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return (line for line in lines if line)
