"""Engines change their user keys: each is asked for its next one, told which one to use, and heard about it.

Rules, and what each stops:

1. What an engine shows is registered by the leader, which verifies it (`enrol.succession`); the node is the one whose
   key the link has proven, whatever a message says.
2. That an engine uses its key counts only when it says so on a link that has proven that very key: who has a key that
   is about to be retired cannot bring the retirement about, nor hold it up for long (`controller.user_keys`).
3. Everything is said again until it is so, and from the directory as it is then. A lost message changes nothing.
4. An engine has one registration under way, for a key that it was asked for, and is told of the same revoked keys once:
   it cannot make this Controller work or talk without end.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol

import structlog

from fairlead.base.errors import FairleadError
from fairlead.enrol.next_key import Offer
from fairlead.fleet.together import Together
from fairlead.keys.ssh import PublicKey
from fairlead.link.keys import Standing
from fairlead.link.messages import (
    TAKES_KEYS,
    AnyFromController,
    AnyFromEngine,
    KeyTrouble,
    NextKey,
    NextKeyWanted,
    UserKeys,
    UsingKey,
)
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.user_keys import KIND, Keys, Wanted, due, wanted_from
from fairlead.transport.tunnel import Tunnel

RETRY_S = 2.0
GATHER_S = 0.02
TOGETHER = 64

log = structlog.get_logger("fairlead.fleet")


class Engines(Protocol):
    """Who is connected here."""

    def linked(self, ability: str) -> list[str]:
        """The ids of the engines that have that *ability*."""
        ...

    def abilities(self, node_id: str) -> frozenset[str] | None:
        """Of one; None: it is not linked."""
        ...

    def tunnels_of(self, node_id: str) -> list[Tunnel]:
        """Its live connections."""
        ...

    def link_of(self, node_id: str) -> Tunnel | None:
        """Its link."""
        ...

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say it to one, if it is there."""
        ...


Register = Callable[[Node, str, Offer], Awaitable[None]]
"""Have the leader take a node's next key for a rotation. Raises FairleadError."""


class EngineKeys:
    """A subject of the link; and how nodes that are connected here stand, Controllers too."""

    ability = TAKES_KEYS

    def __init__(self, me: str, directory: Directory, engines: Engines, register: Register) -> None:
        self._me = me
        self._directory = directory
        self._engines = engines
        self._register = register
        self._wanted: Mapping[str, Wanted] = directory.keep(KIND, wanted_from)
        self._seen: Wanted | None = None
        self._used: dict[str, str] = {}
        """By id: the fingerprint that the engine has said it uses."""
        self._troubles: dict[str, str] = {}
        self._told: dict[str, frozenset[str]] = {}
        """By id: the revoked keys that it was told of."""
        self._fresh: set[str] = set()
        self._open: set[str] = set()
        """To be told again if it is not as it should be."""
        self._registering: dict[str, asyncio.Task[None]] = {}
        self._dirty = asyncio.Event()
        self._together = Together()
        self.moved = asyncio.Event()
        """Somebody has said something; whoever waits for it clears it."""
        directory.listen(self._changed)

    @property
    def wanted(self) -> Wanted | None:
        """The newest rotation of user keys."""
        return self._wanted.get("wanted")

    def keys(self, node: Node) -> Keys:
        """The node's keys, and what brought them."""
        return Keys(node, self._brought(node.user_key), self._brought(node.next_key))

    # -- a subject of the link ----------------------------------------------------------------------------------------

    async def greeted(self, node_id: str) -> None:
        """An engine has come."""
        self._told.pop(node_id, None)
        self._troubles.pop(node_id, None)
        if self.wanted is not None:
            await self._tell(node_id)
            self._open.add(node_id)
            self._dirty.set()

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """An engine shows its next key, or says which one it uses."""
        node = self._directory.nodes.get(node_id)
        match message:
            case NextKey(rotation=rotation) if node is not None and node_id not in self._registering and (
                    self.wanted is not None and self.wanted.rotation == rotation) and (
                    self._asks(node) or message.key == node.next_key):
                offer = Offer(message.key, message.user_proof, message.host_proof)
                self._registering[node_id] = self._later(self._take(node, rotation, offer))
            case UsingKey(fingerprint=fingerprint, held=held) if node is not None:
                link = self._engines.link_of(node_id)
                if link is not None and link.peer.fingerprint == fingerprint == fingerprint_of(node.user_key):
                    self._used[node_id] = fingerprint
                    if not self._asks(node):
                        self._troubles.pop(node_id, None)
                    self.moved.set()
                await self._tell_revoked(node, held)
            case KeyTrouble(code=code, words=words):
                if self._troubles.get(node_id) != (said := f"{code}, {words[:400]}"):
                    self._troubles[node_id] = said
                    log.warning("key.trouble", peer=node.name if node else node_id, code=code, reason=words)
                    self.moved.set()
            case _:
                pass

    def left(self, node_id: str) -> None:
        """What it has said stays true."""
        self._open.discard(node_id)

    async def _take(self, node: Node, rotation: str, offer: Offer) -> None:
        try:
            await self._register(node, rotation, offer)
            self._troubles.pop(node.id, None)
        except FairleadError as refusal:
            self._troubles[node.id] = f"{refusal.code}, {refusal.message}"
            log.warning("key.refused", peer=node.name, code=refusal.code, reason=refusal.message)
            if refusal.code == "FL-KEY-USED":
                self._told.pop(node.id, None)
                await self._tell_revoked(node, [fingerprint_of(offer.key)])
        finally:
            self._registering.pop(node.id, None)
            self.moved.set()

    async def _tell_revoked(self, node: Node, held: Iterable[str]) -> None:
        entries = {one: self._directory.keys.get(one) for one in held}
        revoked = frozenset(one for one, entry in entries.items()
                            if entry is not None and entry.node_id == node.id and entry.state == "revoked")
        if revoked and self._told.get(node.id) != revoked:
            self._told[node.id] = revoked
            await self._engines.tell(node.id, UserKeys(use=fingerprint_of(node.user_key), revoked=sorted(revoked)))

    # -- telling ------------------------------------------------------------------------------------------------------

    async def push(self) -> None:
        """Tell whom it concerns, and again whoever is not as it should be; until cancelled."""
        loop = asyncio.get_running_loop()
        again = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, again - loop.time()) if self._open else None):
                    await self._dirty.wait()
            await asyncio.sleep(GATHER_S)
            self._dirty.clear()
            fresh, self._fresh = self._fresh, set()
            if self.wanted is None:
                self._open.clear()
                continue
            known = frozenset(self._engines.linked(TAKES_KEYS))
            self._open = {one for one in (self._open | fresh) & known if one in fresh or self._lacks(one)}
            told = fresh & known
            if loop.time() >= again:
                told, again = self._open, loop.time() + RETRY_S
            await self._tell_all(list(told))

    async def _tell_all(self, ids: list[str]) -> None:
        for start in range(0, len(ids), TOGETHER):
            await self._together.do(self._tell(node_id) for node_id in ids[start:start + TOGETHER])

    async def _tell(self, node_id: str) -> None:
        node, wanted = self._directory.nodes.get(node_id), self.wanted
        if node is None or wanted is None:
            return
        if self._asks(node):
            await self._engines.tell(node_id, NextKeyWanted(rotation=wanted.rotation))
        await self._engines.tell(node_id, UserKeys(use=fingerprint_of(node.user_key)))

    def _lacks(self, node_id: str) -> bool:
        node = self._directory.nodes.get(node_id)
        return node is not None and (self._asks(node) or not self.uses(node) or bool(self.unproven(node)))

    def _asks(self, node: Node) -> bool:
        """Whether it is to make its next key."""
        wanted = self.wanted
        return wanted is not None and due(self.keys(node), wanted, used=False, settled=False) == "ask"

    # -- how they stand -----------------------------------------------------------------------------------------------

    def uses(self, node: Node) -> bool:
        """Whether it has said here that it uses its key."""
        return self._used.get(node.id) == fingerprint_of(node.user_key)

    def says(self, node_id: str, fingerprint: str) -> None:
        """A Controller says of itself that it uses that key on all connections that it has dialled."""
        if self._used.get(node_id) != fingerprint:
            self._used[node_id] = fingerprint
            self.moved.set()

    def unproven(self, node: Node) -> list[Tunnel]:
        """Its connections that are another key's."""
        fingerprint = fingerprint_of(node.user_key)
        return [tunnel for tunnel in self._engines.tunnels_of(node.id)
                if tunnel.peer.standing == "active" and tunnel.peer.fingerprint != fingerprint]

    def standing(self, ids: Collection[str]) -> Standing:
        """How those nodes stand here."""
        nodes = [node for node in map(self._directory.nodes.get, ids) if node is not None]
        return Standing(
            here=[node.id for node in nodes if self._engines.tunnels_of(node.id) or node.id == self._me],
            used=[node.id for node in nodes if self.uses(node)],
            open=[node.id for node in nodes if self.unproven(node)],
            old=[node.id for node in nodes if (able := self._engines.abilities(node.id)) is not None
                 and TAKES_KEYS not in able],
            troubles={node.id: self._troubles[node.id] for node in nodes if node.id in self._troubles})

    def _changed(self) -> None:
        touched, wanted = self._directory.touched, self.wanted
        if wanted != self._seen or touched is None:
            self._seen = wanted
            self._fresh.update(self._engines.linked(TAKES_KEYS))
        elif wanted is not None:
            self._fresh |= touched
        else:
            return
        self._dirty.set()
        self.moved.set()

    def _brought(self, line: str) -> str:
        entry = self._directory.keys.get(fingerprint_of(line)) if line else None
        return entry.token_id if entry is not None else ""

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)


@lru_cache(maxsize=32 * 1024)
def fingerprint_of(line: str) -> str:
    """Of ``ssh-ed25519 <base64>``. Remembered: a fleet is looked through again and again."""
    return PublicKey.from_line(line).fingerprint
