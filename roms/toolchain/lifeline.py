"""Runs a program and takes along all that it has started when it ends, or when the one who asked for it is gone.

Called by path as `lifeline.py DESCRIPTOR PROGRAM ARGUMENT…` with the read end of a pipe whose other end only the caller
holds: the kernel closes that when the caller dies, however it dies, by kill -9 too. It leads the group that it kills,
so the number cannot have become another group's. PR_SET_PDEATHSIG would end with the caller's thread, and spare
grandchildren. What leaves the group (setsid) is found as a child of ours: orphans are given to us.
"""

import ctypes
import os
import resource
import select
import signal
import sys
import time

#: From linux/prctl.h.
PR_SET_CHILD_SUBREAPER = 36
#: Seconds that the killed have to be gone; one that hangs in the kernel cannot be waited for.
PATIENCE = 2.0


def main(lifeline: int, command: list[str]) -> int:
    """The program's exit status; a program that a signal killed is followed into death by the same signal."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A handler instead of SIG_IGN: what is ignored here would be ignored by the program too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        # Python ignores these two, and what is ignored stays so across exec.
        ignored = (signal.SIGPIPE, signal.SIGXFSZ)
        closed = [(os.POSIX_SPAWN_CLOSE, lifeline)]
        program = os.posix_spawn(command[0], command, os.environ, file_actions=closed, setsigdef=ignored)
    except OSError as error:
        os.write(2, f"{command[0]} cannot be run: {error.strerror}\n".encode(errors="replace"))
        return 126
    ended = os.pidfd_open(program)
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(lifeline, select.POLLIN)
    if ended not in dict(poller.poll()):
        kill_all()
        os.killpg(0, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    kill_all()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    return code


def kill_all() -> None:
    """Kill what is left of the program, its grandchildren too: they become our children when their parents die."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with open("/proc/thread-self/children") as file:  # noqa: PTH123 - pathlib takes long to load
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
            # Not reaped before it was killed: until then its number is its own.
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return
        except OSError:
            # A kernel without that file; or a setuid program, which no-new-privs keeps from being one.
            time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
