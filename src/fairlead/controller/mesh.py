"""A Controller's place among the nodes: whom it lets in, whom it dials, what it listens on.

All of it works before the store does: the members of a cluster's store reach one another through the mesh. So the
directory begins as the copy on disk, and only the other Controllers are let in until the store has been read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from fairlead.base import files
from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, Refused
from fairlead.cluster.peers import Answer, Peers, converse
from fairlead.controller.initialise import COPY
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import Trust
from fairlead.fleet.sessions import Commit, Sessions
from fairlead.keys.ssh import PublicKey
from fairlead.link.messages import Plan, PlanController
from fairlead.mesh import plan as plans
from fairlead.mesh.dialling import dialling
from fairlead.mesh.listeners import Listeners
from fairlead.mesh.supervisor import Supervisor
from fairlead.nodes.directory import Changes, Directory, snapshot_of
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import KeyEntry
from fairlead.nodes.service import STORE_PEERS_PORT, STORE_PORT
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Way

HOSTS = "hosts"
REST, MOST_REST_S = 9.0, 3.0
"""Between two plans of its own: so many times as long as the last one took."""
STALE_S = 60.0
"""A Controller of a cluster that has not heard of the store for so long lets no engine in; those that are in stay."""

log = structlog.get_logger("fairlead.controller")


class Mesh:
    """The directory and everything that follows it."""

    def __init__(self, *, state: Path, clock: Clock, settings: ControllerSettings, trust: Trust, keyring: Keyring,
                 way: Way, store: Changes, clustered: bool, commit: Commit, cloned: Callable[[Node], Awaitable[None]],
                 answer: Answer, refused: Callable[[PlanController], Awaitable[None]],
                 removed: Callable[[], None]) -> None:
        """*answer*: what other Controllers ask for. *refused*: another Controller no longer lets us in. *removed*: this
        one is not in the directory any more.
        """
        self._state = state
        self._clock = clock
        self._settings = settings
        self._trust = trust
        self.way = way
        self._answer = answer
        self._refused = refused
        self._removed = removed
        self._keeps_copy = clustered
        self._loaded = False
        self._generation = ""
        self._changed = asyncio.Event()
        self._plan: Plan | None = None
        """The one that is in force."""
        self.problem = ""
        self.directory = Directory(store, clustered=clustered)
        self.directory.listen(self._changed.set)
        self.peers = Peers(clock)
        self.supervisor = Supervisor(dialling(trust.user, lambda: keyring.held, settings.keepalive_s, clock, way),
                                     self.peers.talk, _opened, self._failed)
        self.sessions = Sessions(
            self.directory, clock, me=trust.node_id, generation="", first_epoch=0, commit=commit, cloned=cloned,
            converse=self._converse, stale=self._is_stale, heartbeat_s=settings.heartbeat_s)
        self.listeners = Listeners(self)

    def remember(self, host_key: PublicKey, user_key: PublicKey) -> None:
        """Begin with the copy on disk, or with what the join has told; these are this node's own keys.

        Raises OperatorError when the copy is damaged.
        """
        try:
            copy = files.read_private(self._state / COPY)
        except FileNotFoundError:
            copy = _told(self._trust, self._settings, host_key, user_key)
        self.directory.restore(copy)

    async def load(self, generation: str, first_epoch: int) -> None:
        """The store is there: read it, and let everybody in. Raises StoreUnavailable."""
        await self.directory.load()
        self._loaded, self._generation = True, generation
        self.sessions.open(generation, first_epoch)
        self._changed.set()

    @property
    def loaded(self) -> bool:
        """Whether the directory is the store's, no longer a copy."""
        return self._loaded

    @property
    def generation(self) -> str:
        """Of the store; empty before it is there."""
        return self._generation

    def cluster(self) -> None:
        """From now on this Controller is one of several, or may become it."""
        self._keeps_copy = True
        self.directory.cluster()
        self._changed.set()

    def _is_stale(self) -> bool:
        return self._keeps_copy and asyncio.get_running_loop().time() - self.directory.heard > STALE_S

    @property
    def me(self) -> Node:
        """This Controller. Raises Refused FL-NODE-REMOVED when it is none any more."""
        me = self.directory.nodes.get(self._trust.node_id)
        if me is None:
            raise Refused("FL-NODE-REMOVED", f"{self._trust.node} is no longer in the cluster")
        return me

    def plan(self) -> Plan:
        """This Controller's own plan."""
        return plans.plan_for(self.me, self.directory.nodes.values(), self.directory.services.values(),
                              generation=self._generation, revision=self.directory.revision)

    @property
    def problems(self) -> list[str]:
        """What is not as planned, one line each."""
        return [*([self.problem] if self.problem else []), *self.peers.problems, *self.listeners.problems]

    def ready(self, owner: str, address: str, port: int) -> Tunnel | None:
        """The tunnel that `carrier` gives, where it is open already."""
        node = self.directory.named(owner)
        if node is None or node.role == "engine":
            return self.sessions.ready(owner, address, port)
        return None if port in (STORE_PORT, STORE_PEERS_PORT) else self.supervisor.ready(owner, address, port)

    async def carrier(self, owner: str, address: str, port: int) -> Tunnel:
        """The tunnel for a stream to *owner*'s *address*, *port*. Raises Refused FL-STREAM-DOWN.

        The store's own traffic goes beside the questions of the Controllers: bulk does not hold it up.
        """
        node = self.directory.named(owner)
        if node is None or node.role == "engine":
            return await self.sessions.carrier(owner, address, port)
        if port in (STORE_PORT, STORE_PEERS_PORT):
            return self.supervisor.link_to(owner)
        return await self.supervisor.carrier(owner, address, port)

    async def follow_plan(self) -> None:
        """Dial and listen as this Controller's own plan says, and render its hosts file, at every change."""
        self._changed.set()
        took = 0.0
        while True:
            await self._changed.wait()
            await asyncio.sleep(min(REST * took, MOST_REST_S))  # thousands may join: there is other work
            self._changed.clear()
            began = asyncio.get_running_loop().time()
            self._keep_copy()
            if self._trust.node_id in self.directory.nodes:
                await self._follow(self.plan())
            elif self._loaded:  # or nothing has been read yet
                self._removed()
            took = asyncio.get_running_loop().time() - began

    async def _follow(self, plan: Plan) -> None:
        if self._plan is not None and plans.same(self._plan, plan):
            return
        self._plan = plan
        self.supervisor.want(plan.controllers)
        try:
            await self.listeners.apply(plans.listeners(plan, self._settings.see()))
            files.write_private(self._state / HOSTS, plans.hosts(plan, self._settings.see()).encode(), synced=False)
            self.problem = ""
        except FairleadError as error:
            self.problem = error.line()
            log.error("plan.problem", code=error.code, reason=error.message)

    async def drain(self, within_s: float) -> None:
        """Open no more streams, let those that are open end."""
        await asyncio.gather(self.listeners.close(within_s), self.sessions.drain(within_s),
                             self.supervisor.drain(within_s))

    async def close(self) -> None:
        """Close all connections."""
        await self.supervisor.close()
        await self.sessions.close()

    def _keep_copy(self) -> None:
        if not (self._keeps_copy and self._loaded):
            return
        copy, file = self.directory.snapshot(), self._state / COPY
        try:
            if not file.exists() or file.read_bytes() != copy:
                files.write_private(file, copy)
        except (FairleadError, OSError) as error:  # a full disk: what runs goes on
            log.error("directory.unsaved", reason=str(error))

    async def _converse(self, peer: Peer, channel: Channel) -> None:
        """Another Controller has come and asks: if we do not reach it, now is the time to try."""
        self.supervisor.nudge(peer.node)
        await converse(self._answer, self._clock, peer, channel)

    async def _failed(self, controller: PlanController, error: FairleadError) -> None:
        if error.code == "FL-SSH-REFUSED":
            await self._refused(controller)


async def _opened(controller: PlanController, tunnel: Tunnel) -> None:
    """A stream connection between Controllers: each offers its services by direct streams, so nothing is asked for."""


def _told(trust: Trust, settings: ControllerSettings, host_key: PublicKey, user_key: PublicKey) -> bytes:
    """The Controllers as the join has told of them, and this one, as a copy of the directory."""
    me = Node(id=trust.node_id, name=trust.node, role="controller", state="joining",
              internal_address=trust.internal_address, host_key=host_key.line, user_key=user_key.line, joined_at=1,
              endpoint=settings.endpoint)
    nodes = {me.id: me}
    for c in trust.controllers:
        before = nodes.get(c.node_id)
        places = before.endpoint.addresses if before is not None and before.endpoint is not None else ()
        nodes[c.node_id] = Node(
            id=c.node_id, name=c.name, role="controller", state="up", internal_address=c.internal_address,
            host_key=c.host_key, user_key=c.user_key, joined_at=1, next_host_key=c.next_host_key,
            endpoint=Endpoint((*places, c.address), settings.api_port, c.portal_port, c.ssh_port))
    keys = [entry for node in nodes.values() for entry in (
        KeyEntry(node.id, "host", "active", "", node.host_key), KeyEntry(node.id, "user", "active", "", node.user_key))]
    return snapshot_of(nodes.values(), keys)
