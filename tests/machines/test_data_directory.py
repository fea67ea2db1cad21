"""What other accounts of the host may read of the site's data: nothing."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core import checks
from django.core.management import call_command

from rescuesite import data_directory, locks
from rescuesite.checks import data_directory_is_private, secret_key_is_private

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("db.sqlite3", "db.sqlite3-wal", "db.sqlite3-shm", "secret_key", "before-the-upgrade.sqlite3")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory as mkdir and a umask of 022 make it."""
    path = tmp_path / "var"
    path.mkdir()
    path.chmod(0o755)
    for name in ("files", "static", "tmp", "job-logs", "stations"):
        (path / name).mkdir()
        (path / name).chmod(0o755)
    for name in SECRETS:
        (path / name).write_text("")
        (path / name).chmod(0o644)
    (path / "secret_key").write_text("k" * 50)
    # An empty file is a database without tables, and no log belongs to it.
    (path / "db.sqlite3-wal").unlink()
    (path / "db.sqlite3-shm").unlink()
    return path


def process(data_dir: Path, *command: str, **environment: str) -> str:
    """Run one of the site's programs; returns what it said."""
    variables = {**os.environ, "RESCUESITE_DATA_DIR": str(data_dir), "DJANGO_SETTINGS_MODULE": "rescuesite.settings"}
    variables.pop("DATABASE_URL", None)
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=variables | environment, capture_output=True, text=True, umask=0o022
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def opened(data_dir: Path) -> list[str]:
    """What others may use."""
    return [str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file() and mode(path) & 0o077]


@pytest.mark.parametrize(
    "command",
    [
        ("manage.py", "migrate", "-v0"),
        ("-c", "import rescuesite.wsgi"),  # as gunicorn alone does
        ("manage.py", "worker", "--help"),
    ],
)
def test_whatever_starts_takes_an_existing_directory_from_others(command: tuple[str, ...], old: Path) -> None:
    process(old, *command)
    assert mode(old) == 0o710
    assert {path.name: mode(path) for path in old.iterdir() if path.is_dir()} == {
        "files": 0o750,
        **dict.fromkeys(("static", "tmp", "job-logs", "stations", "locks"), 0o700),
    }
    assert opened(old) == []


def test_what_a_new_site_writes_is_its_own(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"
    writes = "import django; django.setup(); from machines.models import *; c = AuditEntry.objects.count(); "
    look = "import os, pathlib, sys; print({p.name: oct(p.stat().st_mode & 0o777) for p in "
    look += "pathlib.Path(os.environ['RESCUESITE_DATA_DIR']).glob('db.sqlite3*')})"
    process(data_dir, "manage.py", "migrate", "-v0")
    said = process(data_dir, "-c", writes + look)
    assert "db.sqlite3-wal" in said
    assert set(eval(said).values()) == {"0o600"}
    assert mode(data_dir) == 0o710
    assert opened(data_dir) == []


def test_a_stricter_directory_stays_as_it_is(old: Path) -> None:
    old.chmod(0o700)
    process(old, "manage.py", "migrate", "-v0")
    assert mode(old) == 0o700


def test_the_bit_that_hands_the_group_down_stays(old: Path) -> None:
    old.chmod(0o2755)
    data_directory.secure(old)
    assert mode(old) == 0o2710


def test_a_database_elsewhere_is_taken_from_others_with_what_lies_beside_it(old: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("site.db", "site.db-wal", "site.db-shm", "unrelated"):
        (elsewhere / name).write_text("")
        (elsewhere / name).chmod(0o644)
    data_directory.secure(old, elsewhere / "site.db")
    assert {path.name: mode(path) for path in elsewhere.iterdir()} == {
        **dict.fromkeys(("site.db", "site.db-wal", "site.db-shm"), 0o600),
        "unrelated": 0o644,
    }


# Where it cannot be done


@pytest.fixture
def stubborn(old: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As on a file system that keeps no modes, or where the files are another account's."""
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    settings.RESCUESITE_DATA_DIR, settings.RESCUESITE_DATABASE_FILE = old, old / "db.sqlite3"
    return old


def test_the_deploy_check_names_what_cannot_be_taken_from_others(stubborn: Path) -> None:
    data_directory.secure(stubborn)
    found = data_directory_is_private(None)
    assert {message.id for message in found} == {"rescuesite.W001"}
    said = "\n".join(message.msg for message in found)
    assert f"Other accounts of this host can use {stubborn}: its mode is 0755, but must not be wider than 0710." in said
    assert f"{stubborn / 'db.sqlite3'}: its mode is 0644" in said


def test_check_deploy_says_it(stubborn: Path) -> None:
    output = io.StringIO()
    call_command("check", deploy=True, tags=[checks.Tags.security], stderr=output)
    assert "rescuesite.W001" in output.getvalue()


@as_root
def test_what_is_another_accounts_stays_and_is_told(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (old, *old.iterdir()):
        os.chown(path, 65533, 65533)
    os.chown(old / "before-the-upgrade.sqlite3", 65534, 65534)
    # pytest's folders above are closed to others.
    monkeypatch.chdir(old)
    os.seteuid(65533)
    try:
        (told,) = data_directory.secure(Path())
    finally:
        os.seteuid(0)
    assert str(told) == (
        "Other accounts of this host can use before-the-upgrade.sqlite3: its mode is 0644, but must not be wider than "
        "0600. Its owner is account 65534. This process runs as account 65533."
    )
    assert mode(old) == 0o710


def test_a_key_file_that_all_may_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 50)
    monkeypatch.setenv("RESCUESITE_SECRET_KEY_FILE", str(key))
    key.chmod(0o640)
    assert secret_key_is_private(None) == []
    key.chmod(0o644)
    (message,) = secret_key_is_private(None)
    assert message.id == "rescuesite.W002"
    assert mode(key) == 0o644


# Locks


def test_a_lock_is_for_the_site_alone(tmp_path: Path, settings: LazySettings) -> None:
    settings.RESCUESITE_DATA_DIR = tmp_path
    with locks.held("boot"), pytest.raises(BlockingIOError), locks.held("boot", wait=False):
        pass
    assert mode(tmp_path / "locks") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "locks").iterdir()} == {"boot.lock": 0o600}


@as_root
def test_a_lock_that_root_makes_belongs_to_the_site(tmp_path: Path, settings: LazySettings) -> None:
    settings.RESCUESITE_DATA_DIR = tmp_path
    os.chown(tmp_path, 65533, 65533)
    with locks.held("boot"):
        pass
    assert {path.stat().st_uid for path in (tmp_path / "locks", *(tmp_path / "locks").iterdir())} == {65533}
