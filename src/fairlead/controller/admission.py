"""The leader's side of a Controller's coming and going.

Rules, and what each stops:

1. Who comes in has committed its join, runs the same fairlead, has a clock that can be believed, and is reached by the
   leader: a Controller that cannot be reached takes nobody's majority away.
2. It follows the store before it votes. With the record that admits it comes the cluster key, sealed to a key of its
   own; before, nothing.
3. The leader names the member that it has made for a node, and lets that one vote and no other: a question that was
   asked twice, or of a leader of before, may have put another one in its place, which has no process.
4. A member of the store whose node is not in the cluster any more is removed; so is a learner that has gone away, or
   does not catch up: there is room for one at a time.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from fairlead.audit.record import Entry
from fairlead.base.clock import SECOND
from fairlead.base.errors import FairleadError, Refused
from fairlead.cluster.clocks import MOST_OFFSET
from fairlead.cluster.etcd import peer_url
from fairlead.cluster.members import Member
from fairlead.cluster.move import Moved
from fairlead.cluster.upkeep import PRESSED_S, Upkeep
from fairlead.controller.cluster import ASK_AGAIN_S, Cluster
from fairlead.keys.seal import hpke_seal
from fairlead.keys.wire import b64, from_b64, string
from fairlead.nodes.node import Node
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import Compare
from fairlead.transport.peer import Peer

SETTLE_S = 10.0
"""etcd changes its members only while all that run have been connected for some seconds."""
GONE_S = 30.0
"""A learner that has not asked for so long is taken out."""
LEARN_S = 600.0
"""So is one that does not come to vote in so long; it begins anew, after others that wait."""
SEAL_LABEL = "fairlead-cluster-key-v1"

log = structlog.get_logger("fairlead.cluster")


class Admitting(Protocol):
    """Who changes the node's record."""

    async def admit(self, node_id: str, by: str) -> Node:
        """Make a Controller that has caught up one of the cluster. Raises Refused."""
        ...


class Journal(Protocol):
    """The audit record."""

    async def append(self, *entries: Entry) -> None:
        """Record *entries*."""
        ...


@dataclass(slots=True)
class Admittance:
    """Lets Controllers in, and takes their members of the store out."""

    cluster: Cluster
    records: Admitting
    audit: Journal
    version: str
    _founding: set[asyncio.Future[Moved | None]] = field(default_factory=set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One member at a time is put in the place of another."""
    _asked: dict[str, float] = field(default_factory=dict)
    """By node id: when it last asked to come in, monotonic seconds."""
    _known: dict[int, float] = field(default_factory=dict)
    """By member: since when it is there."""

    async def admit(self, peer: Peer, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Let *peer*, whose join is committed, follow the store. Raises Refused: what is in the way."""
        self.cluster.fence()
        node = self._candidate(peer)
        if fields.get("version") != self.version:
            raise Refused("FL-CLUSTER-VERSION", f"{node.name} runs fairlead {str(fields.get('version'))[:20]!r}, this "
                          f"cluster {self.version}", "install the cluster's version there, then run it again")
        self._check_fit(node)
        founding = asyncio.ensure_future(self.cluster.found())
        self._founding.add(founding)  # it is not given up in the middle when the one that asked hangs up
        founding.add_done_callback(self._founding.discard)
        if (moved := await asyncio.shield(founding)) is not None:
            await self.audit.append(Entry("cluster.founded", self.cluster.trust.node, self.cluster.trust.node, {
                "records": moved.records, "checksum": moved.checksum, "for": node.name}))
        term = self.cluster.fence()
        async with self._turn:
            own, there = await self._put_in(node, term)
        self._asked[node.id] = self.cluster.clock.monotonic()
        log.info("cluster.admitting", about=node.name, step="its member of the store follows")
        assert self.cluster.note is not None
        return {**await self.certify(node, fields), "base": self.cluster.note.base, "members": self._names(there),
                "member": f"{own.id:x}"}

    async def certify(self, node: Node, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A certificate for the member of *node*, of whose request only the key counts. Raises Refused FL-CSR."""
        signing = self.cluster.signing
        return {"certificate": (await signing.certify(node, str(fields.get("request", "")).encode())).decode(),
                "ca": (await signing.bundle()).decode()}

    async def _put_in(self, node: Node, term: Sequence[Compare]) -> tuple[Member, Sequence[Member]]:
        """A new member for *node*, in the place of any that it had, and all that there are. Raises FairleadError."""
        members, url = self.cluster.members(), peer_url(node.internal_address)
        for member in await members.list():
            if url in member.peer_urls:
                self._still(term)
                await members.remove(member.id)  # whoever asks has nothing of what that member knew
        self._still(term)
        refused: FairleadError | None = None
        try:
            await members.add_learner(url)
        except FairleadError as error:  # whether it happened is read
            refused = error
        there = await members.list()
        own = next((member for member in there if url in member.peer_urls), None)
        if own is None:
            other = next(iter(self._names([member for member in there if member.learner])), None)
            if other is None and refused is not None:
                raise self._unsettled(there) if refused.code == "FL-MEMBER-UNSETTLED" else refused
            raise Refused("FL-CLUSTER-BUSY", f"{other or 'another Controller'} is just coming in", "it is tried again")
        return own, there

    async def enter(self, peer: Peer, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Let *peer* vote, once its member has all of the store, and hand it the cluster key. Raises Refused."""
        self.cluster.fence()
        node = self._candidate(peer)
        try:
            sealed = hpke_seal(from_b64(str(fields.get("recipient", ""))), purpose(node.id),
                               self.cluster.signing.cluster_key)
        except (ValueError, Refused):
            raise Refused("FL-LINK-MESSAGE", "the key to which the cluster key is to be sealed is none") from None
        self._check_fit(node)
        self._asked[node.id] = self.cluster.clock.monotonic()
        members = self.cluster.members()
        url = peer_url(node.internal_address)
        member = next((one for one in await members.list()
                       if url in one.peer_urls and f"{one.id:x}" == fields.get("member")), None)
        if member is None:
            raise Refused("FL-MEMBER-UNKNOWN", f"the store has not that member of {node.name}", "it is admitted anew")
        if member.learner:
            await members.promote(member.id)
        await self.records.admit(node.id, self.cluster.trust.node)
        log.info("cluster.admitted", about=node.name, step="it votes")
        return {"cluster_key": b64(sealed)}

    async def expel(self, node: Node) -> None:
        """Take the member of *node* out of the store. Raises Refused when the others would have no majority."""
        url = peer_url(node.internal_address)
        end = self.cluster.clock.monotonic() + SETTLE_S
        while True:
            try:
                for member in await self.cluster.members().list():
                    if url in member.peer_urls:
                        await self.cluster.members().remove(member.id)
            except Refused as refusal:
                if refusal.code != "FL-MEMBER-UNSETTLED" or self.cluster.clock.monotonic() > end:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                return

    async def keep_house(self) -> None:
        """While this Controller leads a cluster: members without a node go, the store is kept small."""
        while True:
            await self.cluster.wait_leading()
            upkeep = self.cluster.group.create_task(self._upkeep().run(), name="upkeep")
            try:
                while self.cluster.leading:
                    with contextlib.suppress(FairleadError):
                        await self._sweep_members()
                    await asyncio.sleep(GONE_S / 6)
            finally:
                upkeep.cancel()

    async def make_room(self) -> None:
        """Where nobody can lead because the store is full: give up history, as the one whose member leads etcd."""
        upkeep: Upkeep | None = None
        while True:
            await asyncio.sleep(PRESSED_S)
            etcd = self.cluster.etcd
            if etcd is None or self.cluster.leader is not None or not await etcd.chokes():
                upkeep = None
                continue
            upkeep = upkeep or self._upkeep()
            try:
                await upkeep.step()
            except FairleadError as error:
                log.warning("cluster.full", code=error.code, reason=error.message)

    def _upkeep(self) -> Upkeep:
        return Upkeep(self.cluster.members(), self.cluster.endpoint, self.cluster.settings.store_quota,
                      self.cluster.clock)

    async def _sweep_members(self) -> None:
        now, there = self.cluster.clock.monotonic(), await self.cluster.members().list()
        self._known = {member.id: self._known.get(member.id, now) for member in there}
        for member in there:
            node = self.cluster.node_of(member)
            if node is None or not (node.state == "up" or node.learning):
                why = "its node is not in the cluster"
            elif member.learner and now - self._asked.setdefault(node.id, now) > GONE_S:
                why = "it has gone away before it had caught up"
            elif (member.learner or node.learning) and now - self._known[member.id] > LEARN_S:
                why = "it does not come to vote"
            else:
                continue
            await self.cluster.members().remove(member.id)
            log.warning("cluster.member-removed", about=node.name if node else member.name, reason=why)

    def _still(self, term: Sequence[Compare]) -> None:
        """Raise NotLeading where another Controller has led meanwhile: the node may have been admitted by that one."""
        if self.cluster.fence() != term:
            raise NotLeading(None)

    def _check_fit(self, node: Node) -> None:
        if node.name not in self.cluster.mesh.peers.connected:
            raise self._unreached(node)
        apart = self.cluster.mesh.peers.offsets.get(node.name, 0.0)
        if abs(apart) * SECOND > MOST_OFFSET:
            raise Refused("FL-CLUSTER-CLOCK", f"the clock of {node.name} is {apart:+.0f} s off that of "
                          f"{self.cluster.trust.node}", "set the clocks right; they may be 30 s apart at most")

    def _candidate(self, peer: Peer) -> Node:
        node = self.cluster.mesh.directory.nodes.get(peer.node_id)
        if node is None or node.role != "controller" or not (node.learning or node.state == "up"):
            raise Refused("FL-NODE-STATE", f"{peer.node} is no Controller that may come in",
                          f"see `fairlead node show {peer.node}`")
        return node

    def _unreached(self, node: Node) -> Refused:
        why = next((error.message for c, _, _, _, error in self.cluster.mesh.supervisor.routes
                    if c.name == node.name and error is not None), "there is no connection yet")
        return Refused("FL-CLUSTER-REACH", f"{self.cluster.trust.node} does not reach {node.name}: {why}",
                       "Controllers reach each other's SSH port both ways: see --address and --ssh-port there, and the "
                       "firewall")

    def _unsettled(self, there: Sequence[Member]) -> Refused:
        """etcd takes a new member only while it is connected to every one that votes; who is away is to be said."""
        me, peers = self.cluster.trust.node, self.cluster.mesh.peers.connected
        away = sorted(name for name in self._names(there) if name != me and name not in peers)
        if not away:
            return Refused("FL-MEMBER-UNSETTLED", "the members of the store have not all been connected for five "
                           "seconds", "it is tried again")
        who = ", ".join(away)
        return Refused("FL-MEMBER-UNSETTLED", f"the store takes no new member while {who} cannot be reached",
                       f"bring it back, or `fairlead node remove {away[0]}` if it is gone for good")

    def _names(self, members: Sequence[Member]) -> dict[str, str]:
        """Name and internal address of each member's node."""
        return {node.name: node.internal_address for member in members
                if (node := self.cluster.node_of(member)) is not None}


def purpose(node_id: str) -> bytes:
    """What the cluster key is sealed for, on its way to that node."""
    return string(SEAL_LABEL) + string(node_id)
