"""An engine's bundles: fetched from any Controller that it has a link to, verified by what this engine has pinned."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fairlead.base.clock import Clock
from fairlead.base.errors import Refused
from fairlead.upgrade.bringing import Bringing, Ways
from fairlead.upgrade.images import Images
from fairlead.upgrade.seen import Seen


class Own(Protocol):
    """What this node has on its disk (`upgrade.versions`)."""

    def root(self) -> bytes | None:
        """The root that it has pinned."""
        ...

    def pin(self, root: bytes, *, replace: bool = False) -> None:
        """Pin that one. Raises Refused, OperatorError."""
        ...

    def seen(self) -> Seen:
        """What it has seen. Raises OperatorError."""
        ...

    def remember(self, seen: Seen) -> None:
        """That, too. Raises OperatorError."""
        ...


class OwnTrust:
    """What is on this disk, and nothing else: no Controller has a say in it."""

    def __init__(self, own: Own) -> None:
        self._own = own

    async def trusted(self) -> tuple[bytes, Seen]:
        """The pinned root, and what was seen. Raises Refused FL-UPGRADE-UNTRUSTED, OperatorError."""
        root = await asyncio.to_thread(self._own.root)
        if root is None:
            raise Refused("FL-UPGRADE-UNTRUSTED", "this node does not know yet whose upgrade bundles are good",
                          "`fairlead upgrade trust ROOT.json` on a Controller pins the root on every node, once")
        return root, await asyncio.to_thread(self._own.seen)

    async def remember(self, root: bytes, seen: Seen) -> None:
        """Both were shown by a verification. Raises OperatorError."""
        def work() -> None:
            self._own.pin(root, replace=True)
            self._own.remember(seen)

        await asyncio.to_thread(work)


def bringing(state: Path, ways: Ways, own: Own, clock: Clock, now: Callable[[], int],
             record: Callable[..., None]) -> Bringing:
    """Who has bundles brought to the engine in *state*. *now*: store time. *record*: writes to its journal."""
    async def lying(controller: str, sha256: str) -> None:
        record("image.other-bytes", controller=controller, sha256=sha256)

    async def store_time() -> int:
        return now()

    return Bringing(Images(state), ways, OwnTrust(own), clock, store_time, lying=lying)
