"""Engines change their versions: each is told in its turn, and heard about how it stands. A subject of the link.

Rules, and what each stops:

1. Whose turn it is stands in the store, written by the leader (`upgrade.stages`). Every Controller tells the engines
   that are linked to it: one that has no link to the leader is told all the same.
2. It is told again until the engine says that it has begun, or how it ended. A lost message changes nothing.
3. What an engine says of itself is waited for and shown, and decides nothing else: what it runs is its own to judge, by
   what it verifies. Its words are shortened, and printed with nothing that moves a cursor.
4. Who has no root to verify bundles by is told the cluster's, before anything else. It is the first that it hears
   that counts there.
5. Who was away while all others changed is told when it comes, as long as that version is what the cluster wants and
   its bundle is kept; one that has failed at it is not told again, and one that waits comes after those that were not
   told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from fairlead.base.errors import FairleadError
from fairlead.fleet.others import Others
from fairlead.link.engines import parse
from fairlead.link.messages import (
    UPGRADES,
    AnyFromController,
    AnyFromEngine,
    UpgradeRoot,
    UpgradeStanding,
    UpgradeWanted,
)
from fairlead.link.report import Report
from fairlead.link.upgrade import MOST_NODES, STANDING, Standing, StandingAsked
from fairlead.nodes.node import Node
from fairlead.upgrade import stages
from fairlead.upgrade.stages import Order, Upgrade

RETRY_S = 1.0
LATE_AT_ONCE = 8
"""Engines that come late and are told of here, at once."""

log = structlog.get_logger("fairlead.fleet")


class Engines(Protocol):
    """Who is connected here."""

    def linked(self, ability: str) -> list[str]:
        """The ids of the engines that have that *ability*; of all, for an empty one."""
        ...

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say it to one, if it is there."""
        ...


class Nodes(Protocol):
    """The directory."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """By id."""
        ...


@dataclass(slots=True)
class EngineUpgrades:
    """See the module. *records*: ``now`` and ``wanted``, as the store has them."""

    records: Mapping[str, Upgrade]
    engines: Engines
    nodes: Nodes
    newer: Callable[[str, str], bool]
    """Whether the first version is newer than the second."""
    root: Callable[[], Awaitable[bytes | None]]
    """By which bundles are verified, if one was pinned. Raises FairleadError."""
    kept: Callable[[str], bool]
    """Whether the bundle of that sha256 is on record: what was deleted nobody can fetch."""
    ability: str = UPGRADES
    _said: dict[str, Report] = field(default_factory=dict)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody has said something; whoever waits for it clears it."""

    # -- a subject of the link ----------------------------------------------------------------------------------------

    async def greeted(self, node_id: str) -> None:
        """An engine has come: it is to say how it stands."""
        self._said.pop(node_id, None)
        await self.engines.tell(node_id, UpgradeWanted())

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """It says so."""
        if isinstance(message, UpgradeStanding):
            self._said[node_id] = message.report
            self.moved.set()

    def left(self, node_id: str) -> None:
        """It says how it stands when it comes back."""
        self._said.pop(node_id, None)
        self.moved.set()

    # -- telling ------------------------------------------------------------------------------------------------------

    async def push(self) -> None:
        """Tell whoever's turn it is, until they have begun; until cancelled."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self.turn()

    async def turn(self) -> None:
        """Tell those once."""
        await self._give_root()
        for node_id, order in self.due().items():
            await self.engines.tell(node_id, UpgradeWanted(
                id=order.id, version=order.version, sha256=order.sha256, size=order.size, back=order.back))

    async def _give_root(self) -> None:
        lacking = [node_id for node_id in self.engines.linked(UPGRADES)
                   if (said := self._said.get(node_id)) is not None and not said.pinned]
        if not lacking:
            return
        try:
            root = await self.root()
        except FairleadError as error:  # the store is electing a leader, say: with the next turn
            log.info("upgrade.no-root", code=error.code, reason=error.message)
            return
        if root is not None:
            for node_id in lacking:
                await self.engines.tell(node_id, UpgradeRoot(root=root.decode()))

    def due(self) -> Mapping[str, Order]:
        """By id: what each engine here is to be told that has not begun with it."""
        now, wanted = self.records.get("now"), self.records.get("wanted")
        linked = sorted(node_id for node_id in self.engines.linked(UPGRADES) if node_id in self._said)
        if now is not None:
            return {node_id: now.order for node_id in linked
                    if stages.told(now, node_id, "engine") and not self._has_begun(node_id, now)}
        if wanted is None or not (wanted.back or self.kept(wanted.sha256)):
            return {}
        late = sorted((node_id for node_id in linked if self._is_late(node_id, wanted)),
                      key=lambda node_id: self._said[node_id].id == wanted.id)  # who waits holds up nobody
        busy = sum(self._said[node_id].id == wanted.id and self._said[node_id].state in ("fetching", "verified",
                   "switching", "trial") for node_id in linked)
        return dict.fromkeys(late[:max(0, LATE_AT_ONCE - busy)], wanted.order)

    def _has_begun(self, node_id: str, upgrade: Upgrade) -> bool:
        report = self._said[node_id]
        return report.id == upgrade.id and report.state not in ("", "waiting")

    def _is_late(self, node_id: str, wanted: Upgrade) -> bool:
        version = self._said[node_id].version
        if self._has_begun(node_id, wanted):
            return False
        return version == wanted.before if wanted.back else self.newer(wanted.version, version)

    # -- how they stand -----------------------------------------------------------------------------------------------

    async def answer(self, asking: Node, op: str, fields: dict[str, object]) -> dict[str, object] | None:  # noqa: ARG002
        """What another Controller is answered; None: it is no question about upgrades. Raises Refused."""
        return self.standing(parse(StandingAsked, dict(fields)).after).model_dump() if op == STANDING else None

    def standing(self, after: str = "") -> Standing:
        """How those that are linked here stand, of the ids after that one."""
        linked = sorted(node_id for node_id in self.engines.linked("") if node_id > after)
        some, able = linked[:MOST_NODES], set(self.engines.linked(UPGRADES))
        return Standing(reports={one: self._said[one] for one in some if one in self._said},
                        old=[one for one in some if one not in able],
                        last=some[-1] if len(linked) > MOST_NODES else "")


async def gathered(here: EngineUpgrades, others: Others) -> Standing:
    """How all engines stand that any Controller has. The newer word of one that several have is taken.

    A Controller in wrong hands fills no memory, and its pages have an end: only engines of the directory count, and it
    is gone on from a page only if that passes many of them (half of a page: the directory may be behind a little).
    """
    engines = {node_id for node_id, node in here.nodes.nodes.items() if node.role == "engine"}
    reports: dict[str, Report] = {}
    old: set[str] = set()

    def take(standing: Standing) -> None:
        old.update(engines.intersection(standing.old))
        for node_id in engines.intersection(standing.reports):
            report = standing.reports[node_id]
            if node_id not in reports or report.since >= reports[node_id].since:
                reports[node_id] = report

    after = ""
    while True:
        own = here.standing(after)
        take(own)
        if not (after := own.last):
            break
    after, going = "", True
    while going:
        heard = await others.all(STANDING, StandingAsked(after=after), Standing)
        for standing in heard.answers.values():
            take(standing)
        # those that have more go on from the lowest end, and the others say nothing twice that matters
        lasts = [standing.last for standing in heard.answers.values()
                 if 2 * sum(after < node_id <= standing.last for node_id in engines) >= MOST_NODES]
        after, going = min(lasts, default=""), bool(lasts)
    return Standing.model_construct(reports=reports, old=sorted(old - reports.keys()), last="")
