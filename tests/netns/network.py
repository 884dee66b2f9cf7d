"""Hosts of our own for a test, as `fairlead.cli.netns.network` makes them; skipped where that cannot be."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairlead.cli.netns.network import Network
from tests.conftest import lacking, need


def able(*tools: str) -> None:
    """Skip the test where no hosts and links can be made, or one of *tools* is missing; fail it then in CI."""
    need("ip", "nsenter", "setpriv", "unshare", *tools)
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        lacking("hosts and links need root and /dev/net/tun")


@contextlib.contextmanager
def network(*names: str, joined: Iterable[tuple[str, str]] | None = None, seed: int = 1) -> Iterator[Network]:
    """Hosts of these *names*. Skips without root; fails then in CI."""
    able()
    with (tempfile.TemporaryDirectory(prefix="fl-net-") as folder,
          Network(Path(folder, "hosts"), *names, joined=joined, seed=seed) as net):
        yield net
