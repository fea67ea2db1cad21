"""The archives that the site makes are what the real cpio reads."""

import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from machines.boot.newc import archive

FILES = {
    "root/.ssh/authorized_keys": (0o600, b"ssh-ed25519 AAAA me\n"),
    "etc/rescuesite/machine": (0o600, b"web01\n"),
    "etc/empty": (0o644, b""),
    "init": (0o755, bytes(range(256)) * 5),
}
DIRECTORIES = {"root": 0o700, "root/.ssh": 0o700}


def cpio(data: bytes, *arguments: str, cwd: Path | None = None) -> str:
    run = subprocess.run(["cpio", "--quiet", *arguments], input=data, capture_output=True, check=True, cwd=cwd)
    assert run.stderr == b""
    return run.stdout.decode()


def unpacked(data: bytes, into: Path) -> dict[str, tuple[int, bytes | None]]:
    """What cpio makes of an archive: path -> permission bits, contents (None for a directory)."""
    cpio(data, "-i", "-d", "--no-absolute-filenames", cwd=into)
    return {
        str(path.relative_to(into)): (path.stat().st_mode & 0o7777, None if path.is_dir() else path.read_bytes())
        for path in into.rglob("*")
    }


def test_files_and_directories_come_out_with_contents_and_modes(tmp_path: Path) -> None:
    assert unpacked(archive(FILES, DIRECTORIES), tmp_path) == {
        "etc": (0o755, None),
        "etc/empty": (0o644, b""),
        "etc/rescuesite": (0o755, None),
        "etc/rescuesite/machine": (0o600, b"web01\n"),
        "init": (0o755, bytes(range(256)) * 5),
        "root": (0o700, None),
        "root/.ssh": (0o700, None),
        "root/.ssh/authorized_keys": (0o600, b"ssh-ed25519 AAAA me\n"),
    }


def test_parents_come_before_what_they_hold() -> None:
    names = cpio(archive(FILES, DIRECTORIES), "-t").split()
    assert all(names.index(name.rpartition("/")[0]) < names.index(name) for name in names if "/" in name)


def test_everything_belongs_to_root() -> None:
    lines = cpio(archive(FILES, DIRECTORIES), "-t", "-v", "-n").splitlines()
    assert {tuple(line.split()[2:4]) for line in lines} == {("0", "0")}


def test_the_same_input_gives_the_same_bytes() -> None:
    assert archive(FILES, DIRECTORIES) == archive(dict(reversed(FILES.items())), DIRECTORIES)


def test_the_length_is_a_multiple_of_512() -> None:
    assert len(archive(FILES, DIRECTORIES)) % 512 == 0


def test_an_archive_of_nothing_is_read_too(tmp_path: Path) -> None:
    assert unpacked(archive({}, {}), tmp_path) == {}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.binary(max_size=40), max_size=5))
def test_names_and_contents_of_any_length_keep_the_alignment(contents: dict[str, bytes]) -> None:
    data = archive({f"d/{name}": (0o600, content) for name, content in contents.items()}, {"d": 0o700})
    lines = cpio(data, "-t", "-v", "-n").splitlines()
    sizes = {line.split()[-1]: int(line.split()[4]) for line in lines}
    assert sizes == {"d": 0, **{f"d/{name}": len(content) for name, content in contents.items()}}
