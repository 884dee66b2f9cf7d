"""Hosts of our own for a test, as `fairlead.cli.netns.network` makes them; skipped where that cannot be."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairlead.cli.netns.network import Network
from tests.conftest import lacking, need


@contextlib.contextmanager
def network(*names: str, joined: Iterable[tuple[str, str]] | None = None, seed: int = 1) -> Iterator[Network]:
    """Hosts of these *names*. Skips without root; fails then in CI."""
    need("ip", "nsenter", "setpriv", "unshare")
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        lacking("links need root and /dev/net/tun")
    with (tempfile.TemporaryDirectory(prefix="fl-net-") as folder,
          Network(Path(folder, "hosts"), *names, joined=joined, seed=seed) as net):
        yield net
