"""Network namespaces: each has its name in a folder of ours, where it is mounted, and a thread gets in and out again.

A file instead of a name in /run/netns: nobody else has it, it needs no root there, and whoever may mount may make it.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from fairlead.base.errors import OperatorError

_CLONE_NEWNET = 0x40000000


def refusal(why: str, what_to_do: str) -> OperatorError:
    """FL-NAMESPACES: hosts cannot be made here."""
    return OperatorError("FL-NAMESPACES", f"this needs network namespaces of its own: {why}", what_to_do)


def make(place: Path) -> None:
    """A network namespace that lasts for as long as *place* is its name. Raises OperatorError FL-NAMESPACES."""
    place.touch(mode=0o600)
    run(["unshare", f"--net={place}", "true"])


def unmake(place: Path) -> None:
    """Take the name away; the kernel removes the namespace when its last process has ended."""
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
    place.unlink(missing_ok=True)


def within(place: Path) -> tuple[str, ...]:
    """Before a command, it runs the command there, whoever starts it."""
    return ("nsenter", f"--net={place}")


@contextlib.contextmanager
def inside(place: Path) -> Iterator[None]:
    """This thread is there: sockets that it makes belong there for good, processes that it starts too."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _go(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _go(home)
    finally:
        os.close(home)


def _go(namespace: int) -> None:
    """setns(2), for this thread: Python has it from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(place: Path, *lines: str) -> None:
    """Each of these lines by ip(8), in one go. Raises OperatorError FL-NAMESPACES."""
    run([*within(place), "ip", "-batch", "-"], "".join(f"{line}\n" for line in lines))


def run(command: Sequence[str], given: str = "") -> None:
    """Run a tool that has nothing to do but succeed. Raises OperatorError FL-NAMESPACES with what it said."""
    done = subprocess.run(command, input=given, text=True, capture_output=True, check=False, timeout=30)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise refusal(f"`{' '.join(command)}` ended with exit code {done.returncode}: {said}",
                      "see that iproute2 and util-linux are whole, and that /dev/net/tun may be opened")
