"""A build whose source tree is hostile: what it reaches of the host, in namespaces and without them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse

from machines.models import Actor
from rescuesite import locks
from roms.models import Build, Card, JobState
from roms.toolchain import runner, sandbox
from roms.toolchain.ipxe import build as ipxe_build
from roms.toolchain.ipxe.script.spec import from_json
from roms.toolchain.sandbox import Sandbox
from roms.worker.building import BuildRun
from tests.roms.conftest import SCRIPT

STAND_IN = Path(__file__).parent / "stand_in"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a build has an account of its own only where we are root")

#: Says of each attempt whether it succeeded. The last one leaves a process in a session of its own that holds a file.
ATTACK = r"""
use strict; use Fcntl qw(:flock); use IO::Socket::INET; use IO::Socket::UNIX; use POSIX;
$| = 1;
my ($data, $port, $abstract, $site) = @ARGV;
sub told { my ($what, $done) = @_; print "attack $what: ", $done ? "DONE" : "failed ($!)", "\n"; }
for my $name ("db.sqlite3", "secret_key") {
    told("read $name", open(my $file, "<", "$data/$name"));
}
told("list", opendir(my $folder, "$data/files"));
told("connect", IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port, Timeout => 5));
told("connect to a name", IO::Socket::UNIX->new(Peer => "\0$abstract"));
for my $name ("locks/boot.lock", "ipxe/locks/source.lock") {
    my $file;
    told("hold $name", open($file, "<", "$data/$name") && flock($file, LOCK_EX | LOCK_NB));
}
told("write outside its tree", open(my $file, ">", "../../support/FindBin.pm"));
my $status;
told("see the site's process", open($status, "<", "/proc/$site/status") && <$status> !~ /perl|make/);
open(my $held, ">", "../../tmp/held") or die;
flock($held, LOCK_EX) or die;
if (!fork) {
    POSIX::setsid();
    exit if fork;
    open(STDOUT, ">", "/dev/null");
    open(STDERR, ">", "/dev/null");
    sleep 1000;
    exit;
}
"""
ATTEMPTS = {
    *("read db.sqlite3", "read secret_key", "list", "connect", "connect to a name", "see the site's process"),
    *("hold locks/boot.lock", "hold ipxe/locks/source.lock", "write outside its tree"),
}


@dataclass
class Attack:
    """A hostile tree, and what it has done."""

    data_dir: Path
    done: dict[str, bool] = field(default_factory=dict)

    def build(self, card: Card) -> Build:
        job = Build.of(from_json(SCRIPT), card=card, profile="minimal").submit(Actor("alice"))
        BuildRun.claim_and_run(job.pk)
        job.refresh_from_db()
        found = re.findall(r"(?m)^attack ([^:]+): (DONE|failed)", job.log_from()[0])
        self.done = {what: outcome == "DONE" for what, outcome in found}
        assert set(self.done) == ATTEMPTS, job.log_from()[0]
        return job

    @property
    def has_outlived_its_job(self) -> bool:
        (held,) = (self.data_dir / "ipxe" / "trees").glob("*/tmp/held")
        with held.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


@pytest.fixture
def attack(data_dir: Path, settings: LazySettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """The tree, and a site in which all that it is after is there, with the modes that a site gives it."""
    source = tmp_path_factory.mktemp("hostile") / "tree"
    shutil.copytree(STAND_IN, source)
    settings.RESCUESITE_IPXE_SOURCE = str(source)
    data_dir.chmod(0o710)
    for name in ("db.sqlite3", "secret_key"):
        (data_dir / name).write_text("secret")
        (data_dir / name).chmod(0o600)
    with locks.held("boot"):
        pass
    name = f"rescuesite-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        (source / "src" / "util" / "attack.pl").write_text(ATTACK)
        arguments = f'"{data_dir}" {inet.getsockname()[1]} {name} {os.getpid()}'
        with (source / "src" / "Makefile").open("a") as makefile:
            makefile.write(f"\n$(BIN)/blib.a : attack\n.PHONY : attack\nattack :\n\t@perl util/attack.pl {arguments}\n")
        yield Attack(data_dir)


def open_to_everybody(folder: Path) -> None:
    """Let no mode hold anything back: what is left are the namespaces."""
    above = [parent for parent in folder.parents if parent.stat().st_uid == os.geteuid() and len(parent.parts) > 2]
    for path in (*above, folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def test_a_hostile_build_in_namespaces_reaches_nothing_and_leaves_nothing(attack: Attack, card: Card) -> None:
    open_to_everybody(attack.data_dir)
    built = attack.build(card)
    assert built.isolation == ipxe_build.IN_NAMESPACES
    assert (built.state, built.error) == (JobState.SUCCEEDED, "")
    assert attack.done == dict.fromkeys(ATTEMPTS, False)
    assert not attack.has_outlived_its_job


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A kernel that lets nobody make namespaces, as bwrap tells of it."""
    program = tmp_path_factory.mktemp("bin") / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sandbox, "PROGRAM", str(program))


@pytest.mark.usefixtures("forbidden")
def test_without_namespaces_the_log_and_the_page_say_so(attack: Attack, card: Card, admin_client: Client) -> None:
    built = attack.build(card)
    assert (built.state, built.error) == (JobState.SUCCEEDED, "")
    assert "without its own namespaces, under the account" in built.isolation
    assert "(bwrap: No permissions to create new namespace)" in built.isolation
    assert built.isolation in built.log_from()[0]
    page = admin_client.get(reverse("admin:roms_build_change", args=[built.pk])).content.decode()
    assert "without its own namespaces, under the account" in page
    # And the other test's attack is one that works.
    assert attack.done["connect"]


@as_root
@pytest.mark.usefixtures("forbidden")
def test_without_namespaces_the_account_reads_no_data_holds_no_lock_and_leaves_nothing(
    attack: Attack, card: Card
) -> None:
    attack.build(card)
    reached = {what for what, done in attack.done.items() if done}
    assert reached == {"connect", "connect to a name", "see the site's process"}
    assert not attack.has_outlived_its_job


def test_where_bubblewrap_is_missing_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROGRAM", "no-such-program")
    assert "no-such-program is not installed" in sandbox.problem()
    assert "apt-get install bubblewrap" in sandbox.problem()


# Programs in a sandbox


def test_a_signal_that_kills_the_program_is_told_as_one() -> None:
    assert Sandbox().run(["sh", "-c", "kill -9 $$"]).returncode == -9
    assert Sandbox().run(["sh", "-c", "exit 3"]).returncode == 3
    assert Sandbox().run(["perl", "-e", "exit 255"]).returncode == 255


def test_a_program_that_is_cancelled_can_clean_up(tmp_path: Path) -> None:
    heard = bytearray()
    (tmp_path / "half").write_text("")
    script = "trap 'rm half; exit 7' TERM; echo waiting; while :; do sleep 0.1; done"
    finished = Sandbox(writable=(tmp_path,)).run(
        ["sh", "-c", script], cwd=tmp_path, log=heard.extend, should_stop=lambda: b"waiting" in heard
    )
    assert finished.stopped is runner.Stopped.CANCELLED
    assert finished.returncode == 7
    assert not (tmp_path / "half").exists()


def test_a_folder_among_the_systems_is_hidden() -> None:
    seen = Sandbox().run(["ls", "/usr/share"]).output
    hidden = Sandbox(hidden=(Path("/usr/share"),)).run(["ls", "/usr/share"]).output
    assert (bool(seen), hidden) == (True, b"")
