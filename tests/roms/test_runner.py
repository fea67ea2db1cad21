"""Running programs: real processes throughout."""

from __future__ import annotations

import grp
import os
import pwd
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roms.toolchain import runner
from roms.toolchain.runner import AccountMissingError, ProgramMissingError, Stopped, run
from tests.roms.processes import ends, is_freed, is_locked, line, worker

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its rights")


class Heard:
    """A log that remembers, and says when it has heard enough."""

    def __init__(self, enough: Callable[[bytes], bool] = lambda text: text.endswith(b"\n")) -> None:
        self.text = b""
        self.enough = enough

    def __call__(self, chunk: bytes) -> None:
        self.text += chunk

    def is_enough(self) -> bool:
        return self.enough(self.text)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A named pipe that a program waits at: opening it for writing lets it go on."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path
    # A program that nobody may kill still waits where its test has failed.
    os.close(os.open(path, os.O_RDWR))


def open_gate(path: Path) -> None:
    path.write_text("go\n")


# Output


def test_stdout_and_stderr_come_merged_in_their_order() -> None:
    finished = run(["sh", "-c", "echo one; echo two >&2; echo three; printf four >&2"])

    assert finished.output == b"one\ntwo\nthree\nfour"
    assert (finished.returncode, finished.stopped) == (0, None)


def test_an_unterminated_line_is_heard_while_the_program_runs(gate: Path) -> None:
    heard: list[bytes] = []

    def log(chunk: bytes) -> None:
        heard.append(chunk)
        if len(heard) == 1:
            open_gate(gate)

    run(["sh", "-c", f"printf 'Reading... '; read x < {gate}; echo done."], log=log)

    assert heard == [b"Reading... ", b"done.\n"]


def test_the_log_hears_everything_and_the_end_of_it_comes_back() -> None:
    heard = Heard()

    finished = run(["seq", "100000"], log=heard)

    assert heard.text == b"".join(b"%d\n" % number for number in range(1, 100001))
    assert len(finished.output) == runner.TAIL
    assert heard.text.endswith(finished.output)


def test_bytes_that_are_no_text_are_passed_on() -> None:
    assert run(["printf", r"\377\000\010"]).output == b"\xff\x00\x08"


def test_output_is_appended_to_a_file_and_only_the_new_part_is_heard(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")

    finished = run(["echo", "new"], output=file)

    assert finished.output == b"new\n"
    assert file.read_text() == "before\nnew\n"


# Surroundings


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCUESITE_SECRET_KEY", "secret")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.delenv("TMPDIR", raising=False)

    output = run(["env"], environment={"EXTRA": "yes"}).output.decode()

    assert sorted(output.splitlines()) == [
        "EXTRA=yes",
        "HOME=/nonexistent",
        "LC_ALL=C.UTF-8",
        f"PATH={runner.SAFE_PATH}",
    ]


def test_tmpdir_is_passed_on_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/tmp")

    assert run(["printenv", "TMPDIR"]).output == b"/var/tmp\n"


@pytest.mark.parametrize("killable", [True, False])
def test_a_program_has_its_own_session_and_the_usual_signals(*, killable: bool) -> None:
    """Python ignores SIGPIPE, and an ignored signal stays ignored in what it runs."""
    script = "ps -o sid= -p $$; grep SigIgn /proc/self/status"

    finished = run(["sh", "-c", script], killable=killable)

    session, ignored = finished.output.split(b"SigIgn:")
    assert int(session) != os.getsid(0)
    assert not int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_a_program_cannot_read_our_input(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("a password")
    ours = os.dup(0)
    try:
        with (tmp_path / "input").open() as file:
            os.dup2(file.fileno(), 0)
        assert run(["cat"]).output == b""
    finally:
        os.dup2(ours, 0)
        os.close(ours)


def test_a_program_runs_in_the_folder_that_is_asked_for(tmp_path: Path) -> None:
    assert run(["pwd"], cwd=tmp_path).output.decode().strip() == str(tmp_path)


def test_only_the_descriptors_to_be_kept_are_inherited(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("w") as kept, (tmp_path / "other").open("w") as other:
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003
        output = run(["sh", "-c", "ls -l /proc/$$/fd"], keep_fds=[kept.fileno()]).output.decode()

    assert str(tmp_path / "kept") in output
    assert str(tmp_path / "other") not in output
    assert "pipe:" not in output


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ProgramMissingError, match="no-such-program is not installed"):
        run(["no-such-program"])


def test_what_is_no_program_says_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\x7fnothing to run")
    file.chmod(0o755)

    finished = run([str(file)])

    assert finished.returncode == 126
    assert b"cannot be run: Exec format error" in finished.output


def test_exit_status_and_signal_are_told() -> None:
    assert run(["sh", "-c", "exit 3"]).returncode == 3
    assert run(["sh", "-c", "kill -SEGV $$"]).returncode == -signal.SIGSEGV


@as_root
def test_roots_rights_are_dropped_for_good() -> None:
    account = pwd.getpwnam("nobody")
    groups = os.getgroups()
    os.setgroups([*groups, grp.getgrnam("disk").gr_gid])

    try:
        output = run(["sh", "-c", "id -u; id -G; grep NoNewPrivs /proc/self/status"], user="nobody").output
    finally:
        os.setgroups(groups)

    assert output.split() == [b"%d" % account.pw_uid, b"%d" % account.pw_gid, b"NoNewPrivs:", b"1"]


@as_root
def test_an_account_that_does_not_exist_is_named() -> None:
    with pytest.raises(AccountMissingError, match="no account no-such-account"):
        run(["true"], user="no-such-account")


# Stopping

GRANDCHILD = "trap 'exit 9' TERM; sleep 1000 & echo $!; wait"


def test_cancelling_ends_the_whole_group() -> None:
    heard = Heard()

    finished = run(["sh", "-c", GRANDCHILD], log=heard, should_stop=heard.is_enough)

    assert (finished.returncode, finished.stopped) == (9, Stopped.CANCELLED)
    assert ends(int(heard.text))


def test_a_time_out_ends_the_whole_group() -> None:
    heard = Heard()

    finished = run(["sh", "-c", GRANDCHILD], log=heard, timeout=0.5)

    assert finished.stopped is Stopped.TIMED_OUT
    assert 0.5 <= finished.seconds < 5
    assert ends(int(heard.text))


def test_what_ignores_the_request_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.2)
    heard = Heard()

    finished = run(["sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait"], log=heard, should_stop=heard.is_enough)

    assert (finished.returncode, finished.stopped) == (-signal.SIGKILL, Stopped.CANCELLED)
    assert ends(int(heard.text))


def test_whether_to_stop_is_asked_once_a_second() -> None:
    """Not each time that the output is looked at: the answer may come from a database."""
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return False

    run(["sleep", "0.7"], should_stop=should_stop)

    assert len(asked) == 1


def test_what_a_program_leaves_behind_is_ended() -> None:
    finished = run(["sh", "-c", "sleep 1000 & echo $!"])

    assert (finished.returncode, finished.stopped) == (0, None)
    assert ends(int(finished.output))


def test_a_failing_callback_ends_the_program() -> None:
    heard = Heard()

    def log(chunk: bytes) -> None:
        heard(chunk)
        raise RuntimeError("the database is down")

    with pytest.raises(RuntimeError, match="the database is down"):
        run(["sh", "-c", GRANDCHILD], log=log)

    assert ends(int(heard.text))


# What must not be stopped


def test_what_is_not_killable_is_waited_for_and_overdue_once(gate: Path) -> None:
    overdue: list[str] = []
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return True

    def tell() -> None:
        overdue.append("overdue")
        open_gate(gate)

    # It takes a second longer than the first question, so there is time for a second one.
    script = f"trap '' TERM; read x < {gate}; sleep 1.3; echo written"
    finished = run(["sh", "-c", script], killable=False, should_stop=should_stop, timeout=0.5, overdue=tell)

    assert overdue == ["overdue"]
    assert finished.output == b"written\n"
    assert (finished.returncode, finished.stopped) == (0, None)


def test_time_makes_it_overdue_as_well(gate: Path) -> None:
    finished = run(
        ["sh", "-c", f"read x < {gate}; echo written"], killable=False, timeout=0.3, overdue=lambda: open_gate(gate)
    )

    assert finished.output == b"written\n"
    assert finished.stopped is None


def test_a_failing_callback_does_not_end_the_wait(gate: Path, caplog: pytest.LogCaptureFixture) -> None:
    def log(chunk: bytes) -> None:
        if chunk == b"begun\n":
            open_gate(gate)
        raise RuntimeError("the database is down")

    finished = run(["sh", "-c", f"echo begun; read x < {gate}; echo written"], killable=False, log=log)

    assert finished.returncode == 0
    assert finished.output == b"begun\nwritten\n"
    assert "A callback failed" in caplog.text


# When we are killed with -9

WORKER = """
import fcntl, sys
from pathlib import Path
from roms.toolchain.runner import run
killable, lock, output, script = sys.argv[1:]
with open(lock, "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    run(["sh", "-c", script], killable=killable == "killable", keep_fds=[file.fileno()], output=Path(output),
        log=lambda chunk: print(chunk.decode(), end=""))
"""


def test_what_is_not_killable_survives_us_goes_on_writing_and_keeps_the_lock(tmp_path: Path, gate: Path) -> None:
    lock, output = tmp_path / "lock", tmp_path / "log"
    script = f"echo $$; read x < {gate}; echo written; echo to the end >&2"

    with worker(WORKER, "not", lock, output, script) as process:
        pid = int(line(process))
        process.kill()
        process.wait()
        assert is_locked(lock)
        open_gate(gate)
        assert ends(pid)

    assert output.read_text() == f"{pid}\nwritten\nto the end\n"
    assert is_freed(lock)


def test_what_is_killable_dies_with_us_grandchildren_too_and_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    with worker(WORKER, "killable", lock, tmp_path / "log", "trap '' TERM; sleep 1000 & echo $$ $!; wait") as process:
        program, grandchild = map(int, line(process).split())
        assert is_locked(lock)
        process.kill()
        assert ends(program)
        assert ends(grandchild)

    assert is_freed(lock)
