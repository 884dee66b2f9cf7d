"""This Controller's part in the cluster: its member of the store, who leads, who comes in.

Rules, and what each stops:

1. Nothing of it is there on a single Controller. The first follower that asks to come in makes it: a store of one
   member, to which everything is moved in one step (`cluster.move`). A failure anywhere leaves the single Controller.
2. Who comes in has committed its join, is reached by the leader and reaches it, and follows the store before it votes:
   a Controller that cannot be reached takes nobody's majority away. Only then does it get the cluster key, sealed to a
   key of its own.
3. A member of the store whose node is not in the cluster any more is removed; so is a learner that has gone away.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from fairlead.base import files
from fairlead.base.clock import SECOND, Clock
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.cluster import note as notes
from fairlead.cluster.etcd import (
    QUOTA_BYTES,
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
from fairlead.cluster.members import Member, Members, Status, status
from fairlead.cluster.move import MovableStore, Moved, Shifted
from fairlead.cluster.note import Note
from fairlead.cluster.tenure import MARGIN, MOST_OFFSET, Timing
from fairlead.cluster.upkeep import Upkeep
from fairlead.controller import secrets
from fairlead.controller.mesh import Mesh
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.trust import Trust
from fairlead.keys.seal import hpke_open, hpke_seal, new_key, new_recipient, recipient_public
from fairlead.keys.wire import b64, from_b64, string
from fairlead.nodes.node import Node
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import der_of, names
from fairlead.pki.request import new_request, read_request
from fairlead.store.etcd import EtcdStore
from fairlead.store.fence import NotLeading, unfenced
from fairlead.store.gateway import Gateway
from fairlead.store.protocol import Compare, StoreUnavailable
from fairlead.store.sqlite import SQLiteStore
from fairlead.transport.peer import Peer

TIMING = Timing()
BIRTH_S = 20.0
"""For a new member to come up."""
STEP_DOWN_S = 10.0
SETTLE_S = 10.0
"""etcd changes its members only while all that run have been connected for some seconds."""
ASK_AGAIN_S = 0.25
PATIENCE_S = 10.0
"""So long a step of coming in may fail silently; then the log says why."""
GONE_S = 30.0
"""A learner that has not asked for so long is taken out."""
SEAL_LABEL = "fairlead-cluster-key-v1"
OLD_STORE = ("store.db", "store.db-wal", "store.db-shm")

log = structlog.get_logger("fairlead.cluster")


class Admitting(Protocol):
    """Who changes the node's record."""

    async def admit(self, node_id: str, by: str) -> Node:
        """Make a Controller that has caught up one of the cluster. Raises Refused."""
        ...


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
    version: str = ""
    founded: Callable[[], None] = lambda: None
    """Called at once when the store has been moved."""
    cluster_key: bytes = field(default=b"", repr=False)
    leadership: Leadership | None = None
    etcd: Etcd | None = None
    _gateway: Gateway | None = None
    _own: Gateway | None = None
    _others: dict[str, Gateway] = field(default_factory=dict)
    _founding: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: dict[str, float] = field(default_factory=dict)
    _step: str = ""
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

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
        return [*found, self._step] if self._step else found

    @property
    def time_step(self) -> int:
        """By how much (microseconds) this machine's clock was found behind store time at worst."""
        if self.sqlite is not None:
            return self.sqlite.time_step
        return self.leadership.time_step if self.leadership is not None else 0

    # -- begin and end ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Be a member as the note says: its process, and from now on the store. Raises OperatorError."""
        assert self.note is not None
        me = self.trust.internal_address
        addresses = [me, *(address for address in self.note.members.values() if address != me)]
        if self.note.stage == "learning":
            addresses.reverse()  # its own member answers nothing yet
        context = member_context(self.state)
        self._own = Gateway([client_url(me)], context)
        self._gateway = Gateway([client_url(address) for address in addresses], context)
        plan = Plan(self.trust.node, me, self.trust.cluster_uuid, self.note.members,
                    existing=len(self.note.members) > 1)
        self.etcd = Etcd(check_etcd(), self.state, plan, self._own)
        self._tasks.append(self.group.create_task(self.etcd.run(), name="etcd"))
        self.store.found(Shifted(self._new_store(), self.note.base))

    def lead(self) -> None:
        """Stand for leader from now on, and do what the leader does."""
        assert self._gateway is not None
        self.leadership = Leadership(
            self.store, GatewayLeases(self._gateway), self.clock, node=self.trust.node_id, name=self.trust.node,
            timing=TIMING, offsets=lambda: [int(offset * SECOND) for offset in self.mesh.peers.offsets.values()])
        self._tasks += [self.group.create_task(self.leadership.run(), name="leadership"),
                        self.group.create_task(self._keep_house(), name="members")]
        self.mesh.directory.listen(self._reach_all)
        self._reach_all()

    async def close(self) -> None:
        """Resign, and end this node's member of the store."""
        for task in reversed(self._tasks):  # the leader resigns while its member still answers
            task.cancel()
            await asyncio.wait([task])
        for gateway in (self._gateway, self._own, *self._others.values()):
            if gateway is not None:
                await gateway.close()

    def _new_store(self) -> EtcdStore:
        assert self._gateway is not None
        return EtcdStore(self._gateway, deadline_s=TIMING.patience_s)

    def _reach_all(self) -> None:
        """The store is asked at this node's own member first, then at the others'."""
        if self._gateway is not None:
            others = [n.internal_address for n in self.mesh.directory.controllers() if n.id != self.trust.node_id]
            self._gateway.reach([client_url(address) for address in (self.trust.internal_address, *others)])

    # -- the first of several -----------------------------------------------------------------------------------------

    async def found(self) -> None:
        """Make the store one of many members; of one, to begin with. Raises FairleadError; then nothing has changed."""
        async with self._founding:
            if self.sqlite is None:
                return
            if self.settings.view is not None:
                raise Refused("FL-CLUSTER-VIEW", f"{self.trust.node} sees internal addresses in a --view of its own",
                              "Controllers of a cluster need a host, or a network namespace, each")
            binary = await asyncio.to_thread(check_etcd)
            old, me = self.sqlite, self.trust.internal_address
            log.info("cluster.founding", step="a store of one member")
            shutil.rmtree(folder(self.state), ignore_errors=True)
            key, request = new_request()
            await self._put_identity(await self.certify(self.mesh.me, request), key)
            context = member_context(self.state)
            self._own, self._gateway = Gateway([client_url(me)], context), Gateway([client_url(me)], context)
            plan = Plan(self.trust.node, me, self.trust.cluster_uuid, {self.trust.node: me}, existing=False)
            self.etcd = Etcd(binary, self.state, plan, self._own)
            running = self.group.create_task(self.etcd.run(), name="etcd")
            try:
                async with asyncio.timeout(BIRTH_S):
                    await self.etcd.ready()
                moved = await self.store.move(old, self._new_store(), self._moved)
            except BaseException as error:
                running.cancel()
                await asyncio.wait([running])
                problems = "; ".join(self.etcd.problems)
                self.etcd = None
                shutil.rmtree(folder(self.state), ignore_errors=True)
                if isinstance(error, TimeoutError):
                    raise OperatorError("FL-ETCD-DOWN", f"etcd does not come up: {problems or 'it does not answer'}",
                                        "see its lines in the log, then ask again") from None
                raise
            self._tasks.append(running)
            self.lead()
            self.mesh.cluster()
            await old.close()
            for name in OLD_STORE:
                files.remove(self.state / name)
            log.info("cluster.founded", records=moved.records, checksum=moved.checksum)
        assert self.leadership is not None
        async with asyncio.timeout(BIRTH_S):
            await self.leadership.wait_leading()

    def _moved(self, moved: Moved) -> None:
        """The step that makes it last."""
        note = Note(stage="member", base=moved.base, members={self.trust.node: self.trust.internal_address})
        note.save(self.state)
        self.note, self.sqlite = note, None
        self.founded()

    async def certify(self, node: Node, request: bytes) -> bytes:
        """A certificate for the member of *node*, PEM. Raises Refused FL-CSR."""
        root = await secrets.open_certified(self.store, self.cluster_key, secrets.ROOT)
        authority = Authority.load(root.certificate_pem, root.key_pem)
        return authority.certify_member(self.trust.cluster_uuid, node.name, node.internal_address,
                                        read_request(request), await self.store.now())

    async def issue_client(self) -> tuple[Issued, bytes]:
        """A certificate and key for an operator's etcdctl, and the CA. Raises Refused FL-CLUSTER-SINGLE."""
        if not self.clustered:
            raise Refused("FL-CLUSTER-SINGLE", "a single Controller has no etcd",
                          "`fairlead controller join` on another machine makes it one of several")
        root = await secrets.open_certified(self.store, self.cluster_key, secrets.ROOT)
        authority = Authority.load(root.certificate_pem, root.key_pem)
        return authority.issue_client(self.trust.cluster_uuid, await self.store.now()), root.certificate_pem

    async def api_certificate(self) -> secrets.Certified:
        """What this Controller's API presents: it has to name this Controller's own addresses."""
        hosts = {host for host, _ in self.settings.endpoint.places}
        own = f"{secrets.CERTIFICATES}{secrets.API}/{self.trust.node_id}"
        for place in (own, secrets.CERTIFICATES + secrets.API):
            if await self.store.get(place) is not None:
                found = await secrets.open_certified(self.store, self.cluster_key, place)
                if hosts <= set(names(der_of(found.certificate_pem))):
                    return found
        root = await secrets.open_certified(self.store, self.cluster_key, secrets.ROOT)
        issued = Authority.load(root.certificate_pem, root.key_pem).issue_api(
            self.trust.cluster_uuid, sorted(hosts), await self.store.now())
        made = secrets.Certified(issued.certificate_pem, issued.key_pem)
        await self.store.transact([], [secrets.sealed(self.cluster_key, own, made)])
        return made

    async def _put_identity(self, certificate: bytes, key: bytes) -> None:
        root = await secrets.certificate_of(self.store, secrets.ROOT)
        put_identity(self.state, certificate, key, root)

    # -- the leader's side of coming in -------------------------------------------------------------------------------

    async def admit(self, peer: Peer, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Let *peer*, whose join is committed, follow the store. Raises Refused: what is in the way."""
        self.fence()
        node = self._candidate(peer)
        if fields.get("version") != self.version:
            raise Refused("FL-CLUSTER-VERSION", f"{node.name} runs fairlead {str(fields.get('version'))[:20]!r}, this "
                          f"cluster {self.version}", "install the cluster's version there, then run it again")
        if node.name not in self.mesh.peers.connected:
            raise self._unreached(node)
        apart = self.mesh.peers.offsets.get(node.name, 0.0)
        if abs(apart) * SECOND > MOST_OFFSET:
            raise Refused("FL-CLUSTER-CLOCK", f"the clock of {node.name} is {apart:+.0f} s off that of "
                          f"{self.trust.node}", "set the clocks right; they may be 30 s apart at most")
        await self.found()
        members = self._members()
        url = peer_url(node.internal_address)
        for member in await members.list():
            if url in member.peer_urls and (fields.get("fresh") or not member.learner):
                await members.remove(member.id)  # it has nothing of what that member knew
        with contextlib.suppress(FairleadError):
            await members.add_learner(url)
        there = await members.list()
        if not any(url in member.peer_urls for member in there):
            raise Refused("FL-CLUSTER-BUSY", "another Controller is just coming in", "it is tried again")
        self._asked[node.id] = self.clock.monotonic()
        log.info("cluster.admitting", about=node.name, step="its member of the store follows")
        assert self.note is not None
        return {"certificate": (await self.certify(node, str(fields.get("request", "")).encode())).decode(),
                "ca": (await secrets.certificate_of(self.store, secrets.ROOT)).decode(), "base": self.note.base,
                "members": self._names(there)}

    async def enter(self, peer: Peer, fields: Mapping[str, Any], admitting: Admitting) -> dict[str, Any]:
        """Let *peer* vote, once its member has all of the store, and hand it the cluster key. Raises Refused."""
        self.fence()
        node = self._candidate(peer)
        self._asked[node.id] = self.clock.monotonic()
        members = self._members()
        url = peer_url(node.internal_address)
        member = next((one for one in await members.list() if url in one.peer_urls), None)
        if member is None:
            raise Refused("FL-MEMBER-UNKNOWN", f"the store has no member of {node.name}", "it is admitted anew")
        if member.learner:
            await members.promote(member.id)
        await admitting.admit(node.id, self.trust.node)
        log.info("cluster.admitted", about=node.name, step="it votes")
        try:
            recipient = from_b64(str(fields.get("recipient", "")))
        except ValueError:
            recipient = b""
        return {"cluster_key": b64(hpke_seal(recipient, _purpose(node.id), self.cluster_key))}

    def _candidate(self, peer: Peer) -> Node:
        node = self.mesh.directory.nodes.get(peer.node_id)
        if node is None or node.role != "controller" or not (node.learning or node.state == "up"):
            raise Refused("FL-NODE-STATE", f"{peer.node} is no Controller that may come in",
                          f"see `fairlead node show {peer.node}`")
        return node

    def _unreached(self, node: Node) -> Refused:
        why = next((error.message for c, _, _, _, error in self.mesh.supervisor.routes
                    if c.name == node.name and error is not None), "there is no connection yet")
        return Refused("FL-CLUSTER-REACH", f"{self.trust.node} does not reach {node.name}: {why}",
                       "Controllers reach each other's SSH port both ways: see --address and --ssh-port there, and the "
                       "firewall")

    def _names(self, members: Sequence[Member]) -> dict[str, str]:
        """Name and internal address of each member's node."""
        names = {peer_url(n.internal_address): n for n in self.mesh.directory.nodes.values() if n.role == "controller"}
        found = [names[url] for member in members for url in member.peer_urls if url in names]
        return {node.name: node.internal_address for node in found}

    def _members(self) -> Members:
        if self._gateway is None:
            raise StoreUnavailable("the store has no members")
        return Members(self._gateway)

    # -- the follower's side ------------------------------------------------------------------------------------------

    async def come_in(self, ask: Callable[..., Awaitable[dict[str, Any]]]) -> None:
        """From a committed join to a member that votes, whatever is stopped on the way. *ask*: the leader is asked.

        Raises FairleadError when this node is not to come in any more.
        """
        while True:
            assert self.note is not None
            if self.note.stage == "committed":
                await self._be_admitted(ask)
            if self.etcd is None:
                self.open()
            if await self._enter(ask):
                self._step = ""
                return
            await self._begin_anew()

    async def _be_admitted(self, ask: Callable[..., Awaitable[dict[str, Any]]]) -> None:
        log.info("cluster.joining", step="asks for admission")
        shutil.rmtree(folder(self.state), ignore_errors=True)
        key, request = new_request()
        answer = await self._until_answered(ask, "admit", request=request.decode(), fresh=True,
                                            version=self.version)
        put_identity(self.state, str(answer["certificate"]).encode(), key, str(answer["ca"]).encode())
        self._note(stage="learning", base=answer["base"], members=answer["members"])

    async def _enter(self, ask: Callable[..., Awaitable[dict[str, Any]]]) -> bool:
        """Whether this node votes now; not: it has to be admitted anew."""
        log.info("cluster.joining", step="follows the store")
        recipient = new_recipient()
        try:
            answer = await self._until_answered(ask, "enter", recipient=b64(recipient_public(recipient)))
        except Refused as refusal:
            if refusal.code == "FL-MEMBER-UNKNOWN":
                return False
            raise
        self.cluster_key = hpke_open(recipient, _purpose(self.trust.node_id), from_b64(str(answer["cluster_key"])))
        node_key = new_key()
        files.write_private(self.state / secrets.NODE_KEY, node_key)
        put = secrets.wrapped(node_key, self.trust.node_id, self.cluster_key)
        while True:
            with contextlib.suppress(StoreUnavailable):
                await self.store.transact([], [put])
                break
            await asyncio.sleep(ASK_AGAIN_S)
        assert self.note is not None
        self._note(stage="member", base=self.note.base, members=self.note.members)
        log.info("cluster.joined", step="this Controller votes")
        return True

    async def _until_answered(self, ask: Callable[..., Awaitable[dict[str, Any]]], op: str,
                              **fields: Any) -> dict[str, Any]:
        """Ask again until the answer is yes. What is in the way is a problem of this node meanwhile."""
        began, said = self.clock.monotonic(), ""
        while True:
            try:
                return await ask(op, **fields)
            except FairleadError as error:
                if error.code in ("FL-MEMBER-UNKNOWN", "FL-NODE-REMOVED"):
                    raise
                line = error.line()
                if line != said and self.clock.monotonic() - began > PATIENCE_S:
                    said = self._step = line
                    log.warning("cluster.waiting", step=op, code=error.code, reason=error.message)
            await asyncio.sleep(ASK_AGAIN_S)

    async def _begin_anew(self) -> None:
        for task in self._tasks:
            task.cancel()
            await asyncio.wait([task])
        self._tasks.clear()
        self.etcd = None
        self._note(stage="committed", base=0, members={})

    def _note(self, *, stage: notes.Stage, base: int, members: dict[str, str]) -> None:
        self.note = Note(stage=stage, base=base, members=members)
        self.note.save(self.state)

    # -- the leader's house -------------------------------------------------------------------------------------------

    async def step_down(self) -> None:
        """Let another Controller lead. Raises NotLeading, for whoever asked to ask that one."""
        if self.leadership is not None:
            await self.leadership.step_down(STEP_DOWN_S)
        raise NotLeading(None)

    async def expel(self, node: Node) -> None:
        """Take the member of *node* out of the store. Raises Refused when the others would have no majority."""
        url = peer_url(node.internal_address)
        end = self.clock.monotonic() + SETTLE_S
        while True:
            try:
                for member in await self._members().list():
                    if url in member.peer_urls:
                        await self._members().remove(member.id)
            except Refused as refusal:
                if refusal.code != "FL-MEMBER-UNSETTLED" or self.clock.monotonic() > end:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                return

    async def _keep_house(self) -> None:
        """While this Controller leads: members without a node go, the store is kept small."""
        assert self.leadership is not None
        while True:
            await self.leadership.wait_leading()
            upkeep = self.group.create_task(
                Upkeep(self._members(), self._endpoint, QUOTA_BYTES, self.clock).run(), name="upkeep")
            try:
                while self.leading:
                    with contextlib.suppress(FairleadError):
                        await self._sweep_members()
                    await asyncio.sleep(GONE_S / 6)
            finally:
                upkeep.cancel()

    async def _sweep_members(self) -> None:
        controllers = {peer_url(n.internal_address): n for n in self.mesh.directory.nodes.values()
                       if n.role == "controller" and (n.state == "up" or n.learning)}
        for member in await self._members().list():
            node = next((controllers[url] for url in member.peer_urls if url in controllers), None)
            if node is None:
                why = "its node is not in the cluster"
            elif member.learner and self.clock.monotonic() - self._asked.setdefault(
                    node.id, self.clock.monotonic()) > GONE_S:
                why = "it has gone away before it had caught up"
            else:
                continue
            await self._members().remove(member.id)
            log.warning("cluster.member-removed", about=node.name if node else member.name, reason=why)

    def _endpoint(self, member: Member) -> Gateway:
        url = member.client_urls[0]
        if url not in self._others:
            self._others[url] = Gateway([url], member_context(self.state))
        return self._others[url]

    # -- what an operator sees ----------------------------------------------------------------------------------------

    async def describe(self) -> dict[str, Any]:
        """The object of `fairlead cluster status`."""
        controllers = self.mesh.directory.controllers()
        learning = [n for n in self.mesh.directory.nodes.values() if n.learning]
        shown: dict[str, Any] = {
            "cluster_uuid": str(self.trust.cluster_uuid), "node": self.trust.node, "leader": self.leader,
            "term": self.leadership.term if self.leadership is not None else 0,
            "store": "etcd" if self.clustered else "sqlite", "quorum": True, "tolerates": 0, "alarms": [],
            "members": []}
        if not self.clustered:
            shown["members"] = [_shown(self.mesh.me, "leader", "up", None, 0)]
            return shown
        members: Sequence[Member] = ()
        with contextlib.suppress(FairleadError):
            members = await self._members().list()
        by_url = {url: member for member in members for url in member.peer_urls}
        found = await asyncio.gather(*(self._health(by_url.get(peer_url(n.internal_address)))
                                       for n in [*controllers, *learning]))
        newest = max((one.raft_index for one in found if one is not None), default=0)
        for node, health in zip([*controllers, *learning], found, strict=True):
            member = by_url.get(peer_url(node.internal_address))
            voter = "leader" if node.name == self.leader else "follower"
            role = voter if member is not None and not member.learner else "learner"
            state = "down" if health is None else "up" if health.healthy else "no leader"
            shown["members"].append(_shown(node, role, state, health, newest))
            if health is not None:
                shown["alarms"] += [alarm.kind for alarm in health.alarms if alarm.kind not in shown["alarms"]]
        voters = sum(m["role"] != "learner" for m in shown["members"])
        well = sum(m["role"] != "learner" and m["state"] == "up" for m in shown["members"])
        shown["quorum"] = well > voters // 2
        shown["tolerates"] = max(0, well - (voters // 2 + 1))
        return shown

    async def _health(self, member: Member | None) -> Status | None:
        if member is None or not member.client_urls:
            return None
        try:
            async with asyncio.timeout(1.0):
                return await status(self._endpoint(member))
        except (FairleadError, TimeoutError):
            return None


def _shown(node: Node, role: str, state: str, health: Status | None, newest: int) -> dict[str, Any]:
    return {"name": node.name, "role": role, "state": state, "internal_address": node.internal_address,
            "address": ", ".join(node.endpoint.addresses) if node.endpoint else "",
            "lag": newest - health.applied_index if health is not None else None,
            "size": health.size if health is not None else None,
            "version": f"etcd {health.version}" if health is not None else None}


def _purpose(node_id: str) -> bytes:
    return string(SEAL_LABEL) + string(node_id)
