"""This Controller's part in the cluster: its member of the store, and who leads.

Nothing of it is there on a single Controller. The first follower that asks to come in makes it (`Cluster.found`): a
store of one member, to which everything is moved in one step (`cluster.move`). A failure anywhere leaves the single
Controller as it was. The other rooms of it: `admission` (the leader's side of coming in), `arrival` (the follower's),
`roster` (what an operator sees), `desk` (leader-only work).
"""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from fairlead.base import files
from fairlead.base.clock import SECOND, Clock
from fairlead.base.errors import OperatorError, Refused
from fairlead.cluster import clocks
from fairlead.cluster import note as notes
from fairlead.cluster.etcd import (
    Etcd,
    Plan,
    check_etcd,
    client_url,
    folder,
    member_context,
    peer_url,
    put_identity,
)
from fairlead.cluster.leadership import Leadership
from fairlead.cluster.leases import GatewayLeases
from fairlead.cluster.members import Member, Members
from fairlead.cluster.move import MovableStore, Moved, Shifted
from fairlead.cluster.note import Note
from fairlead.cluster.tenure import MARGIN, Timing
from fairlead.controller.initialise import STORE
from fairlead.controller.mesh import Mesh
from fairlead.controller.reissue import reissue
from fairlead.controller.settings import ControllerSettings
from fairlead.controller.signing import Signing
from fairlead.enrol.trust import Trust
from fairlead.nodes.node import Node
from fairlead.pki.chain import is_issued_by, read
from fairlead.pki.request import new_request
from fairlead.store.etcd import EtcdStore
from fairlead.store.fence import NotLeading, unfenced
from fairlead.store.gateway import Gateway
from fairlead.store.protocol import Compare, StoreUnavailable
from fairlead.store.sqlite import SQLiteStore, files_of

TIMING = Timing()
BIRTH_S = 20.0
"""For a new member to come up."""
STEP_DOWN_S = 10.0
ASK_AGAIN_S = 0.25

log = structlog.get_logger("fairlead.cluster")


@dataclass(slots=True)
class Cluster:
    """See the module. *sqlite*: the store of a single Controller, until it is moved."""

    state: Path
    clock: Clock
    settings: ControllerSettings
    trust: Trust
    mesh: Mesh
    store: MovableStore
    sqlite: SQLiteStore | None
    note: Note | None
    group: asyncio.TaskGroup
    founded: Callable[[], None] = lambda: None
    """Called at once when the store has been moved."""
    signing: Signing = field(init=False)
    leadership: Leadership | None = None
    etcd: Etcd | None = None
    problem: str = ""
    """What is in the way of this Controller's coming in."""
    _gateway: Gateway | None = None
    _own: Gateway | None = None
    _others: dict[str, Gateway] = field(default_factory=dict)
    _founding: asyncio.Lock = field(default_factory=asyncio.Lock)
    _standing: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    _leading_task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.signing = Signing(self.trust, self.store)

    # -- what others ask ----------------------------------------------------------------------------------------------

    @property
    def clustered(self) -> bool:
        """Whether the store is one of many members."""
        return self.sqlite is None

    @property
    def leading(self) -> bool:
        """Whether this Controller leads."""
        return not self.clustered or (self.leadership is not None and self.leadership.leading)

    @property
    def leader(self) -> str | None:
        """The name of the Controller that leads, when one is known."""
        if not self.clustered:
            return self.trust.node
        found = self.leadership.leader if self.leadership is not None else None
        return found.name if found is not None else None

    @property
    def margin(self) -> int:
        """Microseconds before a deadline at which a transaction must have taken effect."""
        return MARGIN if self.clustered else 0

    def fence(self) -> Sequence[Compare]:
        """What each of the leader's transactions compares. Raises NotLeading."""
        if not self.clustered:
            return unfenced()
        if self.leadership is None:
            raise NotLeading(None)
        return self.leadership.fence()

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line each."""
        found = list(self.etcd.problems) if self.etcd is not None else []
        if (off := clocks.astray(self.clocks).get(self.trust.node)) is not None:
            found.append(clocks.alarm(self.trust.node, off))
        return [*found, self.problem] if self.problem else found

    @property
    def clocks(self) -> dict[str, int]:
        """By name: how far the Controllers' clocks are ahead of this one's, which is among them; microseconds."""
        return {self.trust.node: 0, **self._offsets()}

    @property
    def time_step(self) -> int:
        """By how much (microseconds) this machine's clock was found behind store time at worst."""
        if self.sqlite is not None:
            return self.sqlite.time_step
        return self.leadership.time_step if self.leadership is not None else 0

    def members(self) -> Members:
        """The members of the store. Raises StoreUnavailable when it has none."""
        if self._gateway is None:
            raise StoreUnavailable("the store has no members")
        return Members(self._gateway)

    def node_of(self, member: Member) -> Node | None:
        """The Controller whose member of the store it is, by its address."""
        return next((node for node in self.mesh.directory.nodes.values()
                     if node.role == "controller" and peer_url(node.internal_address) in member.peer_urls), None)

    def endpoint(self, member: Member) -> Gateway:
        """The way to one member and no other: to its node's address, whatever it says of itself.

        Raises StoreUnavailable when it is no node's.
        """
        node = self.node_of(member)
        if node is None:
            raise StoreUnavailable("a member of the store is no Controller's")
        url = client_url(node.internal_address)
        if url not in self._others:
            self._others[url] = Gateway([url], member_context(self.state))
        return self._others[url]

    async def prove_anew(self) -> None:
        """Go to the members with the certificate, and trust the CAs, that lie in the state folder now."""
        context = member_context(self.state)
        ways = [way for way in (self._gateway, self._own, *self._others.values()) if way is not None]
        await asyncio.gather(*(way.present(context) for way in ways))

    async def wait_leading(self) -> None:
        """Until this Controller leads a cluster."""
        await self._standing.wait()
        assert self.leadership is not None
        await self.leadership.wait_leading()

    # -- begin and end ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Be a member as the note says: its process, and from now on the store. Raises OperatorError."""
        assert self.note is not None
        if self.note.stage == "member" and not (folder(self.state) / "data" / "member").is_dir():
            raise OperatorError("FL-STATE-DAMAGED", f"the data of this node's etcd in {folder(self.state)} is gone",
                                "restore the state folder, or remove this Controller on another one and join it anew")
        self._drop_old_store()  # of before the move, if that was stopped at its end
        if self.note.stage == "member":
            await reissue(self.state, self.trust, self.clock)
        await self._run_member(self.note.members)
        self.store.found(Shifted(self._new_store(), self.note.base))

    async def _run_member(self, members: Mapping[str, str]) -> Etcd:
        """Start this node's member of *members*, names and internal addresses. Raises OperatorError."""
        me = self.trust.internal_address
        plan = Plan(self.trust.node, me, self.trust.cluster_uuid, members, existing=len(members) > 1,
                    quota_bytes=self.settings.store_quota)
        binary = await asyncio.to_thread(check_etcd)
        context = member_context(self.state)
        self._own = Gateway([client_url(me)], context)
        self._gateway = Gateway(list(map(client_url, dict.fromkeys([me, *members.values()]))), context)
        self.etcd = Etcd(binary, self.state, plan, self._own)
        self._tasks.append(self.group.create_task(self.etcd.run(), name="etcd"))
        return self.etcd

    async def renew_identity(self) -> bytes:
        """Another certificate for this node's member, PEM, under the same root; it counts from the next handshake.

        Raises FairleadError.
        """
        key, request = new_request()
        made, ca = await self.signing.certify(self.mesh.me, request), files.read_private(folder(self.state) / "ca.pem")
        if not any(is_issued_by(read(made, "certificate")[0], root) for root in read(ca, "CA")):
            raise Refused("FL-ETCD-IDENTITY", "the other members do not know the root CA yet", "it is tried again")
        put_identity(self.state, made, key, ca)
        await self.prove_anew()
        return made

    def _drop_old_store(self) -> None:
        for file in files_of(self.state / STORE):
            files.remove(file)

    def lead(self) -> None:
        """Stand for leader from now on."""
        assert self._gateway is not None
        self.leadership = Leadership(
            self.store, GatewayLeases(self._gateway), self.clock, node=self.trust.node_id, name=self.trust.node,
            timing=TIMING, offsets=lambda: list(self._offsets().values()),
            controllers=lambda: len(self.mesh.directory.controllers()))
        self._leading_task = self.group.create_task(self.leadership.run(), name="leadership")
        self._standing.set()
        self.mesh.directory.listen(self._reach_all)
        self._reach_all()

    async def step_down(self) -> None:
        """Let another Controller lead. Raises NotLeading, for whoever asked to ask that one."""
        if self.leadership is not None:
            await self.leadership.step_down(STEP_DOWN_S)
        raise NotLeading(None)

    async def resign(self) -> None:
        """Lead no more, while the mesh and the store are still there."""
        if self._leading_task is not None:
            self._leading_task.cancel()
            await asyncio.wait([self._leading_task])

    async def close(self) -> None:
        """End this node's member of the store."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        await self._hang_up()

    async def _hang_up(self) -> None:
        for gateway in (self._gateway, self._own, *self._others.values()):
            if gateway is not None:
                await gateway.close()
        self._gateway = self._own = None
        self._others.clear()

    async def forget(self) -> None:
        """This node's member of the store is none any more: end it, and begin with admission."""
        await self.close()
        self.etcd = None
        self.record(Note(stage="committed"))

    def record(self, note: Note) -> None:
        """Note how far this Controller has come, for good. Raises OperatorError."""
        note.save(self.state)
        self.note = note

    def _offsets(self) -> dict[str, int]:
        """How far the clocks of the other Controllers are ahead; those that are not admitted yet have no say."""
        names = {node.name for node in self.mesh.directory.controllers()}
        return {name: int(offset * SECOND) for name, offset in self.mesh.peers.offsets.items() if name in names}

    def _new_store(self) -> EtcdStore:
        assert self._gateway is not None
        return EtcdStore(self._gateway, deadline_s=TIMING.patience_s)

    def _reach_all(self) -> None:
        """The store is asked at this node's own member first, then at the others'."""
        if self._gateway is not None:
            others = [n.internal_address for n in self.mesh.directory.controllers() if n.id != self.trust.node_id]
            self._gateway.reach([client_url(address) for address in (self.trust.internal_address, *others)])

    # -- the first of several -----------------------------------------------------------------------------------------

    async def found(self) -> Moved | None:
        """Make the store one of many members; of one, to begin with. None: it is that already.

        Raises FairleadError; then nothing has changed.
        """
        async with self._founding:
            if self.sqlite is None:
                return None
            if self.settings.view is not None:
                raise Refused("FL-CLUSTER-VIEW", f"{self.trust.node} sees internal addresses in a --view of its own",
                              "Controllers of a cluster need a host, or a network namespace, each")
            await asyncio.to_thread(check_etcd)  # before anything is made
            old, me = self.sqlite, {self.trust.node: self.trust.internal_address}
            log.info("cluster.founding", step="a store of one member")
            shutil.rmtree(folder(self.state), ignore_errors=True)
            key, request = new_request()
            made = await self.signing.certify(self.mesh.me, request)
            put_identity(self.state, made, key, await self.signing.bundle())
            etcd = await self._run_member(me)
            try:
                async with asyncio.timeout(BIRTH_S):
                    await etcd.ready()
                moved = await self.store.move(old, self._new_store(), self._moved)
            except BaseException as error:
                problems = "; ".join(etcd.problems)
                await self.close()
                files.remove(self.state / notes.FILE)  # it may be there though writing it has failed
                self.etcd = self.note = None
                shutil.rmtree(folder(self.state), ignore_errors=True)
                if isinstance(error, TimeoutError):
                    raise OperatorError("FL-ETCD-DOWN", f"etcd does not come up: {problems or 'it does not answer'}",
                                        "see its lines in the log, then ask again") from None
                raise
            self.lead()
            self.mesh.cluster()
            await old.close()
            self._drop_old_store()
            log.info("cluster.founded", records=moved.records, checksum=moved.checksum)
        try:
            async with asyncio.timeout(BIRTH_S):
                await self.wait_leading()
        except TimeoutError:
            raise NotLeading(None) from None
        return moved

    def _moved(self, moved: Moved) -> None:
        """The step that makes it last."""
        self.record(Note(stage="member", base=moved.base, members={self.trust.node: self.trust.internal_address}))
        self.sqlite = None
        self.founded()
