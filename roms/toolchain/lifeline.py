"""Runs a program and takes its whole process group along when the one who asked for it is gone, even by kill -9.

Called by path as `lifeline.py DESCRIPTOR PROGRAM ARGUMENT…` with the read end of a pipe whose other end only the caller
holds: the kernel closes that when the caller dies, however it dies. It leads the group that it kills, so the number
cannot have become another group's. PR_SET_PDEATHSIG would end with the caller's thread, and spare grandchildren.
"""

import os
import resource
import select
import signal
import sys


def main(lifeline: int, command: list[str]) -> int:
    """The program's exit status; a program that a signal killed is followed into death by the same signal."""
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
        os.killpg(0, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
