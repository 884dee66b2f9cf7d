"""Engines as this Controller sees them: who is connected, since when, with which listeners, and how they are cut off.

Rules, and the attack each stops:

1. Who speaks is the key that the connection proved; no message says so. Every look-up is made in the directory as it is
   now, so that a node that was removed or frozen a moment ago is nobody.
2. A reverse listener belongs to (node, epoch). A newer epoch evicts an older one at once: the ghost of a dead
   connection holds no port. Two living holders of one key evict each other, and that raises an alarm.
3. Removal cuts: streams at once, the link after it was told why. So does the end of a key that a connection has proven
   last, of a node that has another one by now, unless it proves that one within a moment, in which nothing new begins:
   a connection of a thief is cut, that of a node that was a little late goes on.
4. Who has not heard of the cluster's store for a while lets no engine in: it may have been removed meanwhile.
5. An engine that was taken over holds a frame here, however many connections it has: one link each, short first words,
   and only the newest is listened to further. One that says more than any engine would is read later (`pace`).
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from fairlead.base.clock import SECOND, Clock
from fairlead.base.errors import FairleadError, Refused
from fairlead.fleet.pace import Pace
from fairlead.fleet.together import Together
from fairlead.keys.ssh import PublicKey
from fairlead.link import frames, spoken
from fairlead.link.controllers import SUBSYSTEM as CONTROLLERS
from fairlead.link.messages import (
    KEEPS_HEADS,
    PINS_BOTH,
    SUBSYSTEM,
    Acknowledge,
    AnyFromController,
    AnyFromEngine,
    AuditHead,
    Draining,
    Frozen,
    Heads,
    HeadsWanted,
    Heartbeat,
    Hello,
    NewPlan,
    Removed,
    StreamsWanted,
    Welcome,
    from_engine,
)
from fairlead.link.rekey import SUBSYSTEM as REKEY
from fairlead.mesh.listeners import no_carrier
from fairlead.mesh.plan import digest, plan_for
from fairlead.nodes.concerned import Concerned
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.policy import find
from fairlead.nodes.service import STORE
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer, Standing, Target
from fairlead.transport.traffic import Traffic
from fairlead.transport.tunnel import Tunnel

JOIN_SUBSYSTEM = "fairlead-join"
HEARTBEAT_S = 5.0
LATE = 2.5
"""Heartbeats without a word, and an engine is late."""
CARRIER_WAIT_S = 10.0
GATHER_S = 0.02
"""Changes that come together make one plan."""
FAREWELL_S = 0.5
CHANCE_S = 1.5
"""A connection whose key was retired may prove the new one within it; nothing begins on it meanwhile."""
SAY_S = 2.0
"""An engine that does not take a message for so long is hung up on."""
MOST_TUNNELS = 8
"""Connections of one node at once; a further one ends the oldest."""
TOGETHER = 64
"""Plans that are made before others get a turn."""
TURN_BYTES = 4 * 1024
"""Of what an engine has said, before others get a turn."""
CLONE_WINDOW_S = 60.0
CLONE_EVICTIONS = 4

log = structlog.get_logger("fairlead.fleet")

Commit = Callable[[Peer, Channel], Awaitable[None]]
Converse = Callable[[Peer, Channel], Awaitable[None]]


@dataclass(slots=True)
class Session:
    """One engine's connections to this Controller."""

    instance: str = ""
    """Of the process that speaks on the link."""
    link: Tunnel | None = None
    channel: Channel | None = None
    plan: bytes = b""
    """The digest of the last that was sent."""
    planned: tuple[Node, int, str] | None = None
    """What that was made from: the node, `Directory.common`, and the generation."""
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list)
    heard: float = 0.0
    skew_s: float = 0.0
    """The engine's clock minus store time."""
    reverse: dict[int, Tunnel] = field(default_factory=dict)
    """By port: the tunnel that serves it."""
    cloned: float = float("-inf")
    """When the alarm was last raised: once a minute at most."""
    evictions: tuple[float, ...] = ()
    """When the last few were."""
    abilities: frozenset[str] = frozenset()
    """What its software understands."""
    software: str = ""
    """``fairlead/VERSION``."""
    asked: tuple[int, asyncio.Future[list[str]]] | None = None
    """For the heads that it keeps: the question's number, and where its answer goes."""
    pace: Pace = field(default_factory=Pace)


class Subject(Protocol):
    """Something that is spoken of with engines beside plans: configuration, say."""

    @property
    def ability(self) -> str:
        """What an engine says of its software that understands it; others are left out."""
        ...

    async def greeted(self, node_id: str) -> None:
        """The link of that engine is there."""
        ...

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """That engine has said something; perhaps of another subject."""
        ...

    def left(self, node_id: str) -> None:
        """The link of that engine has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Health:
    """What the fleet knows of a node's life."""

    state: str
    since: int
    address: str = ""
    problems: tuple[str, ...] = ()
    skew_s: float = 0.0
    acknowledged: int = 0


class Sessions:
    """Everybody who is logged in here. It is the door of the SSH server, and the carrier of streams to engines."""

    def __init__(self, directory: Directory, clock: Clock, *, me: str, generation: str, first_epoch: int,
                 commit: Commit, cloned: Callable[[Node], Awaitable[None]], converse: Converse | None = None,
                 stale: Callable[[], bool] = lambda: False, heartbeat_s: float = HEARTBEAT_S) -> None:
        """*stale*: whether the directory may have missed who was removed meanwhile."""
        self._heartbeat_s = heartbeat_s
        self._directory = directory
        self._clock = clock
        self._me = me
        self._generation = generation
        self._epoch = first_epoch
        self._commit = commit
        self._cloned = cloned
        self._converse = converse
        self._stale = stale
        self._sessions: dict[str, Session] = {}
        self._tunnels: dict[str, dict[Tunnel, None]] = {}
        """By the id of the node; oldest first."""
        self._speaking: set[Tunnel] = set()
        """On which there is a link, or the beginning of one."""
        self._traffic = Traffic()
        self._concerned = Concerned(directory, lambda: directory.common)
        self._dirty = asyncio.Event()
        self._together = Together()
        self._arrived = asyncio.Condition()
        """Somebody serves one more port."""
        self._head = ""
        """Where this Controller's audit log ends, for the engines to keep."""
        self._questions = 0
        self._subjects: list[Subject] = []
        self._offered: dict[str, Converse] = {}
        self._for_controllers: set[str] = set()
        self._asking: set[Tunnel] = set()
        """On which another Controller asks: control connections."""
        self._rekey: Callable[[Tunnel, Channel], Awaitable[None]] | None = None
        self._ending = False
        self._farewells: set[asyncio.Task[None]] = set()
        directory.listen(self._changed)

    def open(self, generation: str, first_epoch: int) -> None:
        """The store is there: from now on engines and joining nodes come in, too, and all plans are of *generation*.

        Without a *generation*, only the other Controllers are let in: the store is what they come to make.
        """
        self._generation, self._epoch = generation, max(self._epoch, first_epoch)
        self._concerned.all()
        self._dirty.set()

    def offer(self, subsystem: str, serve: Converse, *, controllers: bool = False) -> None:
        """Serve engines, and perhaps the other *controllers*, a *subsystem* of their stream connections."""
        self._offered[subsystem] = serve
        if controllers:
            self._for_controllers.add(subsystem)

    def rekey(self, serve: Callable[[Tunnel, Channel], Awaitable[None]]) -> None:
        """Have *serve* ask connections of nodes which of their keys they are of."""
        self._rekey = serve

    def add(self, subject: Subject) -> None:
        """From now on it is spoken of, too."""
        self._subjects.append(subject)

    def linked(self, ability: str) -> list[str]:
        """The ids of the engines that are connected and have that *ability*; of all, for an empty one."""
        return [node_id for node_id, session in self._sessions.items()
                if session.channel is not None and (not ability or ability in session.abilities)]

    def abilities(self, node_id: str) -> frozenset[str] | None:
        """What the software of an engine that is connected understands; None: it is not."""
        session = self._sessions.get(node_id)
        return session.abilities if session is not None and session.channel is not None else None

    def version_of(self, node_id: str) -> str:
        """Of the software of an engine, as it said when it was last connected here; empty: it was not."""
        session = self._sessions.get(node_id)
        return session.software.partition("/")[2] if session is not None else ""

    def tunnels_of(self, node_id: str) -> list[Tunnel]:
        """Every live connection of a node."""
        return list(self._tunnels.get(node_id, ()))

    def link_of(self, node_id: str) -> Tunnel | None:
        """The link of an engine."""
        session = self._sessions.get(node_id)
        return session.link if session is not None else None

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say *message* to an engine, if it is connected."""
        await self.send(node_id, frames.encode(message.model_dump()))

    async def send(self, node_id: str, frame: bytes) -> None:
        """The same of a message that is encoded already, because many are sent it."""
        if (session := self._sessions.get(node_id)) is not None:
            await self._send(session, frame)

    @property
    def waiting(self) -> int:
        """How many nodes are not connected here: in a storm, those that are about to come."""
        return max(0, len(self._directory.nodes) - len(self._tunnels))

    @property
    def count(self) -> int:
        """How many engines have been here."""
        return len(self._sessions)

    def state(self, node: Node) -> str:
        """How *node*, an engine, is doing, in a word."""
        session = self._sessions.get(node.id)
        if node.state != "up":
            return node.state
        if session is None or session.link is None:
            return "down"
        return "late" if self._clock.monotonic() - session.heard > LATE * self._heartbeat_s else "up"

    @property
    def tunnels(self) -> list[Tunnel]:
        """Every live connection."""
        return [tunnel for theirs in self._tunnels.values() for tunnel in theirs]

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes that streams have brought from nodes, and taken to them, on connections that they opened to us."""
        return self._traffic.total(self.tunnels)

    def is_link(self, tunnel: Tunnel) -> bool:
        """Whether *tunnel* is a control connection, which carries no streams."""
        session = self._sessions.get(tunnel.peer.node_id)
        return session is not None and session.link is tunnel

    def standing(self, node: Node) -> Health:
        """How *node*, an engine, is doing."""
        state, session = self.state(node), self._sessions.get(node.id)
        if state not in ("up", "late") or session is None or session.link is None:
            return Health(state, node.joined_at)
        return Health(state, session.link.since, session.link.address, tuple(session.problems), session.skew_s,
                      session.acknowledged)

    # -- the door -----------------------------------------------------------------------------------------------------

    def admit(self, user: str, key: PublicKey, source: str) -> Peer | None:  # noqa: ARG002 - Door
        """Who logs in as *user* with *key*; None: nobody that is known here."""
        entry = self._directory.keys.get(key.fingerprint)
        node = self._directory.nodes.get(entry.node_id) if entry else None
        if entry is None or node is None or entry.use != "user" or node.user != user:
            return None
        standing: Standing | None
        if (not self._generation or self._stale()) and (node.role == "engine" or entry.state != "active"):
            standing = None
        elif entry.state == "pending":
            standing = "pending" if self._clock.now() < entry.commit_by else None
        elif entry.state == "active" and (node.state == "up" or node.learning):
            standing = "active"  # what a Controller may that is not admitted yet is policy's to say
        elif entry.state == "active" and node.state == "joining":
            standing = "pending"
        else:
            standing = None
        if standing is None:
            return None
        return Peer(node_id=node.id, node=node.name, role=node.role, user=user, standing=standing,
                    fingerprint=key.fingerprint)

    def arrived(self, tunnel: Tunnel) -> None:
        """A peer has logged in."""
        self._epoch += 1
        tunnel.epoch = self._epoch
        same = self._tunnels.setdefault(tunnel.peer.node_id, {})
        for oldest in list(same)[:max(0, len(same) + 1 - MOST_TUNNELS)]:
            oldest.close("the node has too many connections")
        same[tunnel] = None
        log.info("ssh.up", peer=tunnel.peer.node, address=tunnel.address, standing=tunnel.peer.standing)

    def left(self, tunnel: Tunnel) -> None:
        """A connection is gone."""
        self._asking.discard(tunnel)
        theirs = self._tunnels.get(tunnel.peer.node_id, {})
        if tunnel in theirs:
            del theirs[tunnel]
            self._traffic.ended(tunnel)
            if not theirs:
                del self._tunnels[tunnel.peer.node_id]
        session = self._sessions.get(tunnel.peer.node_id)
        if session is not None:
            if session.link is tunnel:
                self._unlink(tunnel.peer.node_id, session)
            session.reverse = {port: t for port, t in session.reverse.items() if t is not tunnel}
        log.info("ssh.down", peer=tunnel.peer.node, address=tunnel.address)

    def target(self, tunnel: Tunnel, host: str, port: int) -> Target | None:
        """Where a stream that asks for *host*, *port* goes on this Controller; None: there is no such service."""
        node, me = self._directory.nodes.get(tunnel.peer.node_id), self._directory.nodes.get(self._me)
        if node is None or me is None or self.is_link(tunnel) or self._ending or self._is_retired(tunnel):
            return None
        reach = find(node, [me], self._directory.services.values(), host, port)
        if reach is None or (reach.service == STORE and (not self._generation or self._stale())):
            return None  # who comes may have been removed: he would write
        return Target(*reach.service.target_at(me.internal_address), reach.service.name)

    def reverse(self, tunnel: Tunnel, host: str, port: int) -> bool:
        """Whether the peer serves *port* at its own internal address from now on."""
        node = self._directory.nodes.get(tunnel.peer.node_id)
        if node is None or node.state != "up" or host != node.internal_address or self.is_link(tunnel):
            return False
        if self._is_retired(tunnel):
            return False
        if not any(s.port == port and s.owner in (node.name, f"role:{node.role}")
                   for s in self._directory.services.values()):
            return False
        session = self._session(node.id)
        other = session.reverse.get(port)
        if other is not None and other is not tunnel:
            if other.epoch > tunnel.epoch:
                return False
            other.close("a newer connection of the node serves this port")
        session.reverse[port] = tunnel
        self._later(self._announce())
        return True

    def reverse_ended(self, tunnel: Tunnel, host: str, port: int) -> None:  # noqa: ARG002 - Door
        """The peer no longer serves *port*."""
        session = self._sessions.get(tunnel.peer.node_id)
        if session is not None and session.reverse.get(port) is tunnel:
            del session.reverse[port]

    def subsystem(self, tunnel: Tunnel, name: str) -> Callable[[Channel], Awaitable[None]] | None:
        """What answers the subsystem *name* for this peer."""
        rekey = self._rekey
        if name == REKEY and tunnel.peer.standing == "active" and rekey is not None:
            return lambda channel: rekey(tunnel, channel)
        if self._is_retired(tunnel):
            return None
        if name == JOIN_SUBSYSTEM:
            return lambda channel: self._commit(tunnel.peer, channel)
        if name == CONTROLLERS and tunnel.peer.standing == "active" and tunnel.peer.role == "controller":
            converse = self._converse
            self._asking.add(tunnel)
            return (lambda channel: converse(tunnel.peer, channel)) if converse else None
        if name == SUBSYSTEM and tunnel.peer.standing == "active" and tunnel.peer.role == "engine":
            return lambda channel: self._link(tunnel, channel)
        offered = self._offered.get(name)
        if offered is None or tunnel.peer.standing != "active" or self.is_link(tunnel) or tunnel in self._asking:
            return None
        if tunnel.peer.role == "engine" or name in self._for_controllers:
            return lambda channel: offered(tunnel.peer, channel)
        return None

    # -- streams to engines -------------------------------------------------------------------------------------------

    def ready(self, owner: str, address: str, port: int) -> Tunnel | None:  # noqa: ARG002 - Carriers
        """The tunnel on which the engine *owner* serves *port*, if there is one."""
        session = self._named(owner)
        tunnel = session.reverse.get(port) if session else None
        return tunnel if tunnel and not tunnel.closed.is_set() else None

    async def carrier(self, owner: str, address: str, port: int) -> Tunnel:
        """The tunnel on which the engine *owner* serves *port*; it is asked for one if need be. Raises Refused."""
        if tunnel := self.ready(owner, address, port):
            return tunnel
        session = self._named(owner)
        if session is None or session.channel is None:
            raise no_carrier(owner)
        await self._say(session, StreamsWanted())
        try:
            async with asyncio.timeout(CARRIER_WAIT_S), self._arrived:
                await self._arrived.wait_for(lambda: port in session.reverse)
                return session.reverse[port]
        except TimeoutError:
            raise no_carrier(owner) from None

    def _named(self, engine: str) -> Session | None:
        node = self._directory.named(engine)
        return self._sessions.get(node.id) if node else None

    async def _announce(self) -> None:
        async with self._arrived:
            self._arrived.notify_all()

    # -- the link -----------------------------------------------------------------------------------------------------

    async def _link(self, tunnel: Tunnel, channel: Channel) -> None:
        """The Controller's end of one engine's link, until it ends."""
        node_id = tunnel.peer.node_id
        try:
            if tunnel in self._speaking:
                raise Refused("FL-LINK-MESSAGE", "a second link on one connection")
            self._speaking.add(tunnel)
            await self._listen(tunnel, channel)
        except FairleadError as refusal:
            log.warning("link.refused", peer=tunnel.peer.node, code=refusal.code, reason=refusal.message)
        finally:
            self._speaking.discard(tunnel)
            session = self._sessions.get(node_id)
            if session is not None and session.link is tunnel:
                self._unlink(node_id, session)
            tunnel.close("the link ended")

    async def _listen(self, tunnel: Tunnel, channel: Channel) -> None:
        decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
        pace = self._session(tunnel.peer.node_id).pace
        session: Session | None = None
        while chunk := await channel.receive():
            for start in range(0, len(chunk), TURN_BYTES):
                said = decoder.feed(chunk[start:start + TURN_BYTES])
                await asyncio.sleep(pace.spend(len(said), min(TURN_BYTES, len(chunk) - start), self._clock.monotonic()))
                for fields in said:
                    message = from_engine(fields)
                    if session is None:
                        if not isinstance(message, Hello):
                            raise Refused("FL-LINK-VERSION", "the engine does not say which version it speaks")
                        session = await self._welcome(tunnel, channel, message)
                        decoder.most = frames.MOST_BYTES  # it says nothing more before it is welcomed
                    await self._heed(tunnel.peer.node_id, session, message)

    async def _heed(self, node_id: str, session: Session, message: AnyFromEngine) -> None:
        session.heard = self._clock.monotonic()
        match message:
            case Acknowledge():
                session.acknowledged, session.problems = message.revision, list(message.problems)
            case Heartbeat():
                session.problems = list(message.problems)
                session.skew_s = (message.time - self._clock.now()) / SECOND
                await self._say(session, Heartbeat(sequence=message.sequence, time=self._clock.now()))
            case Heads(number=number, heads=heads):
                if session.asked and session.asked[0] == number and not session.asked[1].done():
                    session.asked[1].set_result(heads)
            case _:
                for subject in self._spoken(session):
                    await subject.heard(node_id, message)

    async def _welcome(self, tunnel: Tunnel, channel: Channel, hello: Hello) -> Session:
        node_id, instance = tunnel.peer.node_id, hello.instance
        version = spoken.both(spoken.said(hello.software, hello.v), tunnel.peer.node)
        session = self._session(node_id)
        older = session.link
        if older is not None and older is not tunnel:
            if older.epoch > tunnel.epoch:
                raise Refused("FL-LINK-EPOCH", "a newer connection of the node is here")
            older.close("a newer connection of the node is here")
            await self._count_eviction(session, node_id)
        if session.instance not in ("", instance):
            for ghost in [t for t in self._tunnels.get(node_id, ()) if t.epoch < tunnel.epoch]:
                ghost.close("the node's process was started anew")
                session.reverse = {port: t for port, t in session.reverse.items() if t is not ghost}
        session.instance = instance
        session.link, session.channel, session.plan = tunnel, channel, b""
        session.heard = self._clock.monotonic()
        session.software, *abilities = hello.software.split() or [""]
        session.abilities = frozenset((session.software, *abilities))
        await self._say(session, Welcome(v=version, epoch=tunnel.epoch, server_time=self._clock.now(),
                                         heartbeat_s=self._heartbeat_s))
        await self._send_plan(node_id, session, self._directory.controllers())
        if KEEPS_HEADS in session.abilities and self._head:
            await self._say(session, AuditHead(head=self._head))
        for subject in self._spoken(session):
            await subject.greeted(node_id)
        return session

    def _unlink(self, node_id: str, session: Session) -> None:
        session.link, session.channel, session.plan = None, None, b""
        for subject in self._spoken(session):
            subject.left(node_id)

    def _spoken(self, session: Session) -> list[Subject]:
        return [subject for subject in self._subjects if subject.ability in session.abilities]

    async def _count_eviction(self, session: Session, node_id: str) -> None:
        """Two machines with one key evict each other for ever; a machine that was cut off evicts its ghost once."""
        now = self._clock.monotonic()
        session.evictions = (*session.evictions, now)[-CLONE_EVICTIONS:]
        if len(session.evictions) == CLONE_EVICTIONS and now - session.evictions[0] < CLONE_WINDOW_S \
                and now - session.cloned > CLONE_WINDOW_S:
            session.cloned = now
            node = self._directory.nodes.get(node_id)
            if node is not None:
                await self._cloned(node)

    async def _send_plan(self, node_id: str, session: Session, controllers: Sequence[Node]) -> None:
        node = self._directory.nodes.get(node_id)
        if node is None:
            return
        made_from = node, self._directory.common, self._generation
        if session.plan and session.planned == made_from:  # thousands join: what concerns one changes no other's plan
            return
        session.planned = made_from
        if PINS_BOTH not in session.abilities:
            controllers = [replace(controller, next_host_key="") for controller in controllers]
        plan = plan_for(node, [*controllers, node], self._directory.services.values(),
                        generation=self._generation, revision=self._directory.revision)
        if session.plan != (asks := digest(plan)):
            session.plan = asks
            await self._say(session, NewPlan(plan=plan))

    async def _say(self, session: Session, message: AnyFromController) -> None:
        await self._send(session, frames.encode(message.model_dump()))

    async def _send(self, session: Session, frame: bytes) -> None:
        channel, link = session.channel, session.link
        if channel is None or link is None:
            return
        try:
            if not channel.send_now(frame):
                async with asyncio.timeout(SAY_S):
                    await channel.send(frame)
        except TimeoutError:
            link.close("the engine does not read")  # nobody waits for it for ever
        except FairleadError:
            pass  # the link ends by itself; its reader notices

    # -- heads of audit logs ------------------------------------------------------------------------------------------

    async def show(self, head: str) -> None:
        """Give every engine the text of a head to keep, now or when it comes."""
        self._head = head
        witnesses = self._witnesses()
        for start in range(0, len(witnesses), TOGETHER):
            await self._together.do(self._say(session, AuditHead(head=head))
                                    for _, session in witnesses[start:start + TOGETHER])

    async def witnessed(self, most: int, within_s: float) -> dict[str, list[str]]:
        """The heads that engines keep, by name: of *most* of those that are connected, who answer *within_s*."""
        asked = self._witnesses()
        asked = random.SystemRandom().sample(asked, min(most, len(asked)))
        answers = await asyncio.gather(*(self._ask_heads(session, within_s) for _, session in asked))
        return {name: heads for (name, _), heads in zip(asked, answers, strict=True) if heads is not None}

    def _witnesses(self) -> list[tuple[str, Session]]:
        nodes = self._directory.nodes
        return [(nodes[node_id].name, session) for node_id, session in self._sessions.items()
                if KEEPS_HEADS in session.abilities and session.channel is not None and node_id in nodes]

    async def _ask_heads(self, session: Session, within_s: float) -> list[str] | None:
        if session.asked is None or session.asked[1].done():
            self._questions += 1
            session.asked = self._questions, asyncio.get_running_loop().create_future()
        number, answer = session.asked
        try:
            async with asyncio.timeout(within_s):
                await self._say(session, HeadsWanted(number=number))
                return await asyncio.shield(answer)
        except TimeoutError:
            return None

    # -- changes ------------------------------------------------------------------------------------------------------

    async def push(self) -> None:
        """Send changed plans to whom they concern, until cancelled."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(GATHER_S)
            self._dirty.clear()
            concerned = self._concerned.take()
            known = self._sessions.items() if concerned is None else [
                (node_id, self._sessions[node_id]) for node_id in concerned if node_id in self._sessions]
            linked = [(n, s) for n, s in known if s.channel is not None and s.link is not None]
            controllers = self._directory.controllers()
            for start in range(0, len(linked), TOGETHER):
                await self._together.do(self._send_plan(node_id, session, controllers)
                                        for node_id, session in linked[start:start + TOGETHER])

    def _changed(self) -> None:
        """Cut whoever is no longer what it logged in as; then let everybody have the new plan."""
        touched = self._directory.touched
        for tunnel in self.tunnels if touched is None else [
                tunnel for node_id in touched for tunnel in self._tunnels.get(node_id, ())]:
            entry = self._directory.keys.get(tunnel.peer.fingerprint)
            node = self._directory.nodes.get(tunnel.peer.node_id)
            allowed = ("pending", "active") if tunnel.peer.standing == "pending" else ("active",)
            if node is not None and node.state != "frozen" and entry is not None and entry.state == "revoked":
                self._later(self._retire(tunnel))  # the node is a member all the same
            elif entry is None or entry.state not in allowed or node is None or node.state == "frozen":
                self._cut(tunnel, frozen=node is not None and node.state == "frozen")
        self._concerned.note()
        self._dirty.set()

    def _cut(self, tunnel: Tunnel, *, frozen: bool) -> None:
        session = self._sessions.get(tunnel.peer.node_id)
        if session is not None and session.link is tunnel:
            message: AnyFromController = Frozen() if frozen else Removed()
            self._later(self._farewell(session, tunnel, message))
        else:
            tunnel.close("the node is frozen" if frozen else "the node was removed")

    async def _retire(self, tunnel: Tunnel) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHANCE_S):
                await tunnel.wait_closed()
        if self._is_retired(tunnel):
            log.info("ssh.retired", peer=tunnel.peer.node, address=tunnel.address, fingerprint=tunnel.peer.fingerprint)
            tunnel.close("this user key was retired")

    def _is_retired(self, tunnel: Tunnel) -> bool:
        entry = self._directory.keys.get(tunnel.peer.fingerprint)
        return entry is not None and entry.state == "revoked"

    async def _farewell(self, session: Session, tunnel: Tunnel, message: AnyFromController) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._say(session, message)
                await tunnel.wait_closed()  # the engine hangs up when it has read it
        tunnel.close("the node was removed")

    async def drain(self, within_s: float) -> None:
        """Tell every engine that this Controller goes away, open no more streams, let those that are open end."""
        self._ending = True
        await asyncio.gather(*(self._say(s, Draining()) for s in self._sessions.values() if s.channel))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(tunnel.idle() for tunnel in self.tunnels))

    async def close(self) -> None:
        """Close all connections."""
        for tunnel in self.tunnels:
            tunnel.close("the Controller is shutting down")
        for task in list(self._farewells):
            task.cancel()

    def _session(self, node_id: str) -> Session:
        return self._sessions.setdefault(node_id, Session())

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
