"""User keys that change: this Controller's own, and, where it leads, what is due for every node.

Rules, and what each stops:

1. A last key is retired when its node has said, on a connection of the new key, that it uses that one, and no
   Controller has a connection of it left that has not proven it. Whoever holds such a connection open with the old key,
   which may be stolen, puts this off for `GRACE_S` only.
2. A node that was off keeps its last key until it comes back and changes; it is named as long (`late`).
3. All of it is decided again from the store: a new leader goes on where the old one stopped.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import structlog

from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError
from fairlead.enrol import next_key
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.next_key import Offer
from fairlead.enrol.succession import Succession
from fairlead.fleet.others import Others
from fairlead.fleet.user_keys import EngineKeys, Register, fingerprint_of
from fairlead.keys.ssh import PrivateKey
from fairlead.link import keys as questions
from fairlead.link.engines import parse
from fairlead.link.keys import MOST_NODES, NextAsked, NextDone, Standing, StandingAsked
from fairlead.mesh.rekeying import prove_all
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.user_keys import Due, Wanted, due, late, missing
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.tunnel import Tunnel

TURN_S = 0.5
GRACE_S = 15.0
REST = 10.0
"""Between two looks through all nodes: so many times as long as the last one took."""

log = structlog.get_logger("fairlead.controller")


class Leading(Protocol):
    """The cluster, as far as it matters who leads."""

    @property
    def leading(self) -> bool:
        """Whether this Controller does."""
        ...

    @property
    def leader(self) -> str | None:
        """The name of the one that does."""
        ...


class NodeKeys:
    """What the leader does for every node, and what this Controller says of those that are connected to it."""

    def __init__(self, me: str, directory: Directory, engines: EngineKeys, succession: Succession,
                 others: Others, cluster: Leading, clock: Clock) -> None:
        self._me = me
        self._directory = directory
        self._engines = engines
        self._succession = succession
        self._others = others
        self._cluster = cluster
        self._clock = clock
        self._waiting: dict[str, float] = {}
        """By id: since when a node's last key waits for its connections, monotonic."""
        self._open = True

    async def register(self, node: Node, rotation: str, offer: Offer) -> None:
        """Have the leader take *node*'s next key, which it has shown here. Raises FairleadError."""
        if self._cluster.leading:
            await self._succession.register(node.id, rotation, offer, self._me)
        elif (leader := self._cluster.leader) is None:
            raise NotLeading(None)
        else:
            asked = NextAsked(node=node.id, rotation=rotation, key=offer.key, user_proof=offer.user_proof,
                              host_proof=offer.host_proof)
            await self._others.ask(leader, questions.NEXT, asked, NextDone, 5.0)

    async def answer(self, asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """What *asking*, a Controller, is answered; None: it is no question about keys. Raises FairleadError."""
        match op:
            case questions.NEXT:
                shown = parse(NextAsked, fields)
                offer = Offer(shown.key, shown.user_proof, shown.host_proof)
                await self._succession.register(shown.node, shown.rotation, offer, asking.name)
                return NextDone().model_dump()
            case questions.STANDING:
                return self._engines.standing(parse(StandingAsked, fields).nodes).model_dump()
            case _:
                return None

    # -- as the leader ------------------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """While this Controller leads, do what is due, until cancelled."""
        led, took, said = False, 0.0, ""
        while True:
            await asyncio.sleep(max(TURN_S, REST * took))
            leads, led = self._cluster.leading, self._cluster.leading and led
            if not leads or not (self._engines.moved.is_set() or self._open or not led):
                continue
            self._engines.moved.clear()
            began = self._clock.monotonic()
            try:
                await self.turn()
                led, said = True, ""
            except StoreUnavailable as reason:
                led = False  # what was due is due still, though nobody says anything more
                if said != (said := reason.line()):
                    log.info("keys.later", code=reason.code, reason=reason.message)
            took = min(self._clock.monotonic() - began, TURN_S)

    async def turn(self) -> int:
        """Do what is due now; for how many nodes. Raises StoreUnavailable, NotLeading."""
        wanted = self._engines.wanted
        self._open = False
        if wanted is None:
            return 0
        dues = [(node.id, what) for node in list(self._directory.nodes.values())
                if (what := due(self._engines.keys(node), wanted, used=True, settled=True))]
        retiring = [node_id for node_id, what in dues if what == "retire"]
        self._waiting = {node_id: since for node_id in retiring if (since := self._waiting.get(node_id)) is not None}
        standing = await self.standing(retiring) if retiring else Standings()
        ready: list[tuple[str, Due]] = []
        for node_id, what in dues:
            if what == "retire" and not self._settled(node_id, standing):
                self._open |= node_id in standing.here
            elif what != "ask":
                ready.append((node_id, what))
        return await self._succession.carry_out(ready, self._me)

    def _settled(self, node_id: str, standing: "Standings") -> bool:
        if node_id not in standing.used:
            return False
        since = self._waiting.setdefault(node_id, self._clock.monotonic())
        waited = self._clock.monotonic() - since > GRACE_S
        return waited or (node_id not in standing.open and not standing.silent)

    # -- how far it is ------------------------------------------------------------------------------------------------

    async def standing(self, ids: Collection[str]) -> "Standings":
        """How those nodes stand at all Controllers."""
        found, asked = Standings(), list(ids)
        for start in range(0, len(asked), MOST_NODES):
            some = asked[start:start + MOST_NODES]
            heard = await self._others.all(questions.STANDING, StandingAsked(nodes=some), Standing)
            found.silent |= set(heard.silent)
            for one in (self._engines.standing(some), *heard.answers.values()):
                found.take(one)
        return found

    async def behind(self, rotation: str, *, everywhere: bool = False) -> Mapping[str, str]:
        """By name: what the step of *rotation*, if it is the newest, still lacks of nodes that are connected, or of all
        nodes *everywhere*.
        """
        wanted = self._engines.wanted
        if wanted is None or wanted.rotation != rotation:
            return {}
        lacking = [node for node in list(self._directory.nodes.values())
                   if missing(self._engines.keys(node), wanted, used=False)]
        standing = await self.standing([node.id for node in lacking])
        words = {node.name: self._words(node, wanted, standing) for node in lacking
                 if everywhere or node.id in standing.here}
        return {name: why for name, why in sorted(words.items()) if why}

    def _words(self, node: Node, wanted: Wanted, standing: "Standings") -> str:
        why = missing(self._engines.keys(node), wanted, used=node.id in standing.used)
        return f"{why}: {trouble}" if why and (trouble := standing.troubles.get(node.id)) else why

    async def too_old(self) -> Sequence[str]:
        """Names of the engines that are connected and whose software makes no keys."""
        nodes = list(self._directory.nodes.values())
        standing = await self.standing([node.id for node in nodes])
        return sorted(node.name for node in nodes if node.id in standing.old)

    def late(self) -> Sequence[str]:
        """Names of the nodes of which an old key still logs in."""
        wanted = self._engines.wanted
        return sorted(node.name for node in list(self._directory.nodes.values())
                      if wanted is not None and late(self._engines.keys(node), wanted))


class Standings:
    """`Standing` of all Controllers together."""

    def __init__(self) -> None:
        self.here, self.used, self.open, self.old = set[str](), set[str](), set[str](), set[str]()
        self.troubles: dict[str, str] = {}
        self.silent = set[str]()
        """Controllers that did not answer."""

    def take(self, one: Standing) -> None:
        """One Controller's, too."""
        self.here.update(one.here)
        self.used.update(one.used)
        self.open.update(one.open)
        self.old.update(one.old)
        self.troubles |= one.troubles


class OwnKeys:
    """This Controller's own user keys: it follows the directory, as an engine follows what it is told."""

    def __init__(self, me: str, cluster: UUID, host_key: Callable[[], PrivateKey], keyring: Keyring,
                 directory: Directory, engines: EngineKeys, register: Register,
                 tunnels: Callable[[], Sequence[Tunnel]]) -> None:
        """*host_key*: the one that the directory has for this Controller now. *tunnels*: those that it has dialled."""
        self._me = me
        self._cluster = cluster
        self._host_key = host_key
        self._keyring = keyring
        self._directory = directory
        self._engines = engines
        self._register = register
        self._tunnels = tunnels
        self.problem = ""

    async def follow(self) -> None:
        """Until cancelled."""
        said = ""
        while True:
            await asyncio.sleep(TURN_S)
            try:
                await self.turn()
                self.problem = said = ""
            except FairleadError as error:
                if error.code in ("FL-DISK", "FL-KEY-MISSING"):
                    self.problem = error.line()
                if said != (said := error.line()):
                    log.info("keys.later", code=error.code, reason=error.message)

    async def turn(self) -> None:
        """Do what is due now. Raises FairleadError."""
        me, wanted = self._directory.nodes.get(self._me), self._engines.wanted
        if me is None or wanted is None:
            return
        if due(self._engines.keys(me), wanted, used=False, settled=False) == "ask":
            key = await asyncio.to_thread(self._keyring.next)
            try:
                await self._register(me, wanted.rotation, next_key.offer(
                    self._cluster, self._me, wanted.rotation, key, self._host_key()))
            except FairleadError as refusal:
                if refusal.code != "FL-KEY-USED":
                    raise
        fingerprint = fingerprint_of(me.user_key)
        if self._keyring.in_use.public.fingerprint != fingerprint:
            await asyncio.to_thread(self._keyring.use, fingerprint)
        if revoked := [one.public.fingerprint for one in self._keyring.held[1:]
                       if (entry := self._directory.keys.get(one.public.fingerprint)) and entry.state == "revoked"]:
            await asyncio.to_thread(self._keyring.drop, revoked)
        failed: list[FairleadError] = []
        for one in await asyncio.gather(*(self._prove(tunnel) for tunnel in self._tunnels())):
            failed += one
        if failed:
            raise failed[0]
        self._engines.says(self._me, fingerprint)

    async def _prove(self, tunnel: Tunnel) -> list[FairleadError]:
        try:
            await prove_all([tunnel], self._keyring.in_use, self._cluster, self._me)
        except FairleadError as error:
            return [] if tunnel.closed.is_set() else [error]
        return []
