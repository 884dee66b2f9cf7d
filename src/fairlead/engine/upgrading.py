"""The engine changes its version as Controllers ask, and tells them how it stands.

What it does is decided in `upgrade.own`: nothing that a Controller says is more than a wish. Every Controller that has
asked once is told at each change, so that whichever leads knows.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fairlead.engine.telling import Told, tell
from fairlead.link.messages import UpgradeStanding, UpgradeWanted
from fairlead.upgrade.own import OwnUpgrade
from fairlead.upgrade.stages import Order
from fairlead.upgrade.taking import Bringing, Bundles
from fairlead.upgrade.versions import Versions

REPORT_S = 1.0
"""Between two reports while something moves: of how much has come."""


class Asking(Told, Protocol):
    """A Controller, while its link is there."""

    async def report_upgrade(self, standing: UpgradeStanding) -> None:
        """Tell it. Raises FairleadError: the link has ended."""
        ...


class Upgrades:
    """This engine's version, as Controllers speak of it."""

    def __init__(self, own: OwnUpgrade) -> None:
        self.own = own
        self._asking: dict[Asking, UpgradeStanding | None] = {}
        """With what each was told last."""
        self._changed = asyncio.Event()
        own.changed = self._changed.set

    @property
    def problems(self) -> list[str]:
        """What is not as it should be."""
        return [problem] if (problem := self.own.problem) else []

    def asked(self, controller: Asking, wanted: UpgradeWanted) -> None:
        """A Controller asks how this node stands, or for another version."""
        if wanted.id:
            self.own.want(Order(wanted.id, wanted.version, wanted.sha256, wanted.size, wanted.back))
        self._asking[controller] = None  # it is told even if nothing changes: what it was told before may be lost
        self._changed.set()

    def left(self, controller: Asking) -> None:
        """Its link has ended."""
        self._asking.pop(controller, None)

    async def tell(self) -> None:
        """Tell whoever has asked, at each change; until cancelled."""
        while True:
            moving = self.own.report().state == "fetching"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S if moving else None):
                    await self._changed.wait()
            self._changed.clear()
            await self.tell_all()

    async def tell_all(self) -> None:
        """Tell those to whom it is news."""
        now = UpgradeStanding(report=self.own.report())
        for controller, said in list(self._asking.items()):
            if said is None or _news(said, now):
                self._asking[controller] = now
                await tell(controller, controller.report_upgrade(now))


def upgrades(state: Path, versions: Versions, bringing: Bringing, now: Callable[[], int],
             restart: Callable[[], None], record: Callable[..., None]) -> Upgrades:
    """Those of the engine in *state*. *now*: store time. *record*: writes to its journal."""
    async def store_time() -> int:
        return now()

    # the one that is installed stays, should this be interrupted: it is found again
    bundles = Bundles(bringing, versions, "engine", now=store_time, unpacked=bringing.forget_others)
    return Upgrades(OwnUpgrade(state, versions, bundles, now=now, restart=restart, record=record))


def _news(said: UpgradeStanding, now: UpgradeStanding) -> bool:
    """But for the time that passes."""
    return said.report.model_copy(update={"seconds": 0.0}) != now.report.model_copy(update={"seconds": 0.0})
