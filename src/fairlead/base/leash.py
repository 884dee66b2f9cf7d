"""Become another program that dies with the process that started it: ``leash.py PARENT PROGRAM ARGUMENT...``.

A Controller that is killed takes its etcd along (prctl(2), PR_SET_PDEATHSIG): an orphan would go on voting, and keep
the data from the next life. This is a program of its own because it cannot be done between fork and exec of a process
with threads: nothing of Python is safe to run there. It imports nothing of ours: it is run by its path, ``-I -S``.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> str:
    """Bind this process's life to that of *parent*, then be *command*. Returns why that failed, if it did."""
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        return f"prctl: {os.strerror(ctypes.get_errno())}"
    if os.getppid() != parent:  # it died before we asked for the signal
        return "the parent is gone"
    try:
        os.execv(command[0], command)  # noqa: S606 - that is what we are for
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return ""


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
