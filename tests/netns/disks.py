"""Small disks of nodes, which are filled."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.processes import Daemon

CONTROLLER_MB = 256
"""etcd takes two files of 64 MB before it has written anything."""


@contextlib.contextmanager
def disk(folder: Path, megabytes: int = CONTROLLER_MB) -> Iterator[None]:
    """The new *folder* is a disk of that size."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "fairlead-test", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def full(node: Daemon) -> Iterator[None]:
    """There is no room on the disk of its state folder while the block runs."""
    ballast = node.state / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))
        yield
    finally:
        ballast.unlink()
