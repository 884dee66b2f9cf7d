"""Leader-only work: done here while this Controller leads, else handed to the one that does.

Any Controller's portal and API take it in; who asks gets the answer from the one that he asked. So tokens that one
Controller issued are redeemable at any.

Beside that, all Controllers ask one another about the engines that each has (`fleet.answering`).

Rules, and what each stops:

1. Who hands something over, or asks, is a Controller, by its key, that is admitted. One that is still coming in may ask
   for that and for nothing else.
2. Everything that is handed over may be done twice (it is decided by content, or lapses by itself), so that a lost
   answer or a change of leaders is asked again.
3. What the leader has done is awaited in this Controller's own directory before it is told: the node that joined here
   logs in here next.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, Refused
from fairlead.controller.admission import Admittance
from fairlead.controller.cluster import Cluster
from fairlead.controller.mesh import Mesh
from fairlead.enrol import bundle as bundles
from fairlead.enrol.bundle import Bundle, Role
from fairlead.enrol.exchange import Core, Submission
from fairlead.enrol.redeem import Asked, Enrolment
from fairlead.enrol.state import TokenRecord
from fairlead.enrol.state import decode as decode_token
from fairlead.enrol.state import encode as encode_token
from fairlead.enrol.token import Token
from fairlead.keys.ssh import PublicKey
from fairlead.keys.wire import b64, from_b64
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import KEYS
from fairlead.nodes.registry import Registry
from fairlead.portal.application import endpoint_of
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import Record, StoreUnavailable
from fairlead.transport.peer import Peer

PATIENCE_S = 5.0
"""So long a leader is waited for, and asked again."""
AGAIN_S = 0.1
REMOVAL_S = 30.0
"""For a Controller's removal, which waits for the members of the store to settle."""

T = TypeVar("T")


class Reading(Protocol):
    """What is needed of the store."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...


class Answering(Protocol):
    """Who answers about engines."""

    async def answer(self, asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """What the Controller *asking* is answered; None: that is no question about engines. Raises FairleadError."""
        ...


class Questions:
    """Several who answer, each what the ones before it do not."""

    def __init__(self, *answering: Answering) -> None:
        self._answering = answering

    async def answer(self, asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """What the first says that knows. Raises FairleadError."""
        for one in self._answering:
            if (answer := await one.answer(asking, op, fields)) is not None:
                return answer
        return None


class Heads(Protocol):
    """What this Controller tells of audit logs."""

    @property
    def head(self) -> str:
        """The newest signed head of its own."""
        ...

    @property
    def heads(self) -> list[str]:
        """Those that it was shown."""
        ...


class Rotating(Protocol):
    """Who begins and ends rotations."""

    async def __call__(self, op: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the leader answers; None: that is no question about rotations. Raises FairleadError."""
        ...


@dataclass(frozen=True, slots=True)
class Desk:
    """Takes leader-only work in, and does what others hand over."""

    enrolment: Enrolment
    registry: Registry
    store: Reading
    mesh: Mesh
    cluster: Cluster
    admittance: Admittance
    clock: Clock
    audit: Heads
    engines: Answering
    rotations: Rotating

    # -- what the portal and the API ask ------------------------------------------------------------------------------

    async def issue(self, *, role: Role, node: str | None, source: str | None, lifetime_s: int, by: str,
                    bound_keys_hash: bytes | None = None) -> Bundle:
        """A new token in its bundle. Raises Refused."""
        async def here() -> Bundle:
            return await self.enrolment.issue(role=role, node=node, source=source, lifetime_s=lifetime_s, by=by,
                                              bound_keys_hash=bound_keys_hash)

        async def there(leader: str) -> Bundle:
            answer = await self.mesh.peers.ask(
                leader, "issue", role=role, node=node, source=source, lifetime_s=lifetime_s, by=by,
                bound_keys_hash=bound_keys_hash.hex() if bound_keys_hash is not None else None)
            return bundles.decode(str(answer["bundle"]).encode())

        return await self._led(here, there)

    async def mint(self, *, lifetime_s: int, cloud: str, tenant: str, by: str) -> Token:
        """A new token for an engine, without a bundle. Raises Refused."""
        async def there(leader: str) -> Token:
            answer = await self.mesh.peers.ask(leader, "mint", lifetime_s=lifetime_s, cloud=cloud, tenant=tenant, by=by)
            return Token.decode(str(answer["token"]))

        return await self._led(
            lambda: self.enrolment.mint(lifetime_s=lifetime_s, cloud=cloud, tenant=tenant, by=by), there)

    async def recognise(self, token: Token) -> TokenRecord | None:
        """The record of *token*, if it is one of ours."""
        return await self.enrolment.recognise(token)

    async def tokens(self) -> list[tuple[TokenRecord, int]]:
        """All tokens that are kept."""
        return await self.enrolment.tokens()

    async def revoke(self, token_id: str, by: str) -> TokenRecord:
        """Make a token worthless. Raises Refused."""
        async def there(leader: str) -> TokenRecord:
            answer = await self.mesh.peers.ask(leader, "revoke", token_id=token_id, by=by)
            return decode_token(str(answer["token"]).encode())

        return await self._led(lambda: self.enrolment.revoke(token_id, by), there)

    async def exchange(self, submission: Submission, source: str, presented: Callable[[bytes], bool]) -> bytes:
        """The reply body to a join request, signed by this Controller. Raises Refused."""
        async def there(leader: str) -> bytes:
            answer = await self.mesh.peers.ask(leader, "exchange", body=submission.encode().decode(), source=source,
                                               presented=presented(submission.certificate_hash),
                                               host_key=self.enrolment.office.host_key().public.line)
            await self._seen(PublicKey.from_line(submission.fields.user_key).fingerprint)
            return self.enrolment.reply(submission, from_b64(str(answer["core"])))

        return await self._led(lambda: self.enrolment.exchange(submission, source, presented), there)

    async def commit(self, fingerprint: str, message: dict[str, Any]) -> int:
        """Admit the node whose user key was proven. Raises Refused."""
        async def there(leader: str) -> int:
            answer = await self.mesh.peers.ask(leader, "commit", fingerprint=fingerprint, message=message)
            await self._seen(fingerprint)
            return int(answer["trust_revision"])

        return await self._led(lambda: self.enrolment.commit(fingerprint, message), there)

    async def anchor(self, digest: bytes) -> bytes | None:
        """The bytes of an anchor."""
        return await self.enrolment.anchor(digest)

    def core_for(self, node: Node, now: int) -> Core:
        """What a joined node is told."""
        return self.enrolment.core_for(node, now)

    async def remove(self, name: str, by: str, event: str = "node.removed") -> Node:
        """Take a node out of the cluster; a Controller's member of the store goes first. Raises Refused."""
        known = self.mesh.directory.named(name)

        async def there(leader: str) -> Node:
            answer = await self.mesh.peers.ask(leader, "remove", timeout_s=REMOVAL_S, name=name, by=by, event=event)
            await self._seen(str(answer["fingerprint"]))
            if known is None:  # it came and went
                raise Refused("FL-NODE-UNKNOWN", f"there is no node {name!r}", "see `fairlead node list`")
            return known

        try:
            return await self._led(lambda: self._remove(name, by, event), there)
        except Refused as refusal:
            if refusal.code != "FL-NODE-UNKNOWN" or known is None:
                raise
            return known  # it was there: an earlier try removed it, and its answer was lost

    async def _remove(self, name: str, by: str, event: str) -> Node:
        node = self.mesh.directory.named(name)
        if node is not None and node.role == "controller" and self.cluster.clustered:
            if len(self.mesh.directory.controllers()) == 1 and node.state == "up":
                raise Refused("FL-NODE-CONTROLLER", f"{name} is the only Controller",
                              "`fairlead controller destroy` on that machine ends the cluster")
            self.cluster.fence()
            if node.id == self.cluster.trust.node_id:
                await self.cluster.step_down()  # who is cut off by what it does could not answer
            await self.admittance.expel(node)
            return await self.registry.remove(name, by, event, voters=True)
        return await self.registry.remove(name, by, event)

    async def release(self, name: str, fingerprint: str, by: str) -> None:
        """Let a frozen node back in. Raises Refused."""
        async def here() -> None:
            await self.registry.release(name, fingerprint, by)

        async def there(leader: str) -> None:
            await self.mesh.peers.ask(leader, "release", name=name, fingerprint=fingerprint, by=by)
            await self._seen(fingerprint)

        await self._led(here, there)

    async def handed(self, op: str, **fields: Any) -> dict[str, Any]:
        """What the leader answers to a question about rotations. Raises Refused."""
        async def here() -> dict[str, Any]:
            answer = await self.rotations(op, fields)
            assert answer is not None
            return answer

        return await self._led(here, lambda leader: self.mesh.peers.ask(leader, op, timeout_s=REMOVAL_S, **fields))

    async def announce(self, node_id: str, endpoint: Any, by: str) -> None:
        """A Controller's new address."""
        await self.registry.announce(node_id, endpoint, by)

    # -- what other Controllers hand over -----------------------------------------------------------------------------

    async def answer(self, peer: Peer, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Do what *peer*, a Controller, asks for. Raises Refused, NotLeading."""
        if not self.mesh.loaded:  # what it knows of others is of before it was started
            raise StoreUnavailable("this Controller has not read the store yet")
        node = self.mesh.directory.nodes.get(peer.node_id)
        if op == "controllers" and node is not None and (node.learning or node.state == "up"):
            if node.learning:  # it has no store yet to say it in, and is not reached where it is not
                await self.registry.announce(node.id, endpoint_of(fields), node.name)
            return {"copy": self.mesh.directory.snapshot().decode()}
        if op == "admit":
            return await self.admittance.admit(peer, fields)
        if op == "enter":
            return await self.admittance.enter(peer, fields)
        if node is None or node.role != "controller" or node.state != "up":
            raise Refused("FL-PEER-QUESTION", f"{peer.node} is no Controller of the cluster")
        try:
            return await self._do(node, op, fields)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused("FL-PEER-QUESTION", f"a question of {peer.node} that cannot be understood",
                          "both must run versions of fairlead that fit") from None

    async def _do(self, node: Node, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        match op:
            case "issue":
                bound = fields["bound_keys_hash"]
                made = await self.enrolment.issue(
                    role=fields["role"], node=fields["node"], source=fields["source"],
                    lifetime_s=fields["lifetime_s"], by=fields["by"],
                    bound_keys_hash=bytes.fromhex(bound) if bound is not None else None)
                return {"bundle": made.encode().decode()}
            case "mint":
                minted = await self.enrolment.mint(lifetime_s=fields["lifetime_s"], cloud=fields["cloud"],
                                                   tenant=fields["tenant"], by=fields["by"])
                return {"token": minted.encode()}
            case "revoke":
                return {"token": encode_token(await self.enrolment.revoke(fields["token_id"], fields["by"])).decode()}
            case "exchange":
                presented = fields["presented"] is True
                # while it changes, only that Controller knows with which of the two it signs
                signing = {key.line: key for key in node.host_keys}
                core = await self.enrolment.decide(
                    Submission.parse(fields["body"].encode()), fields["source"],
                    Asked(lambda _: presented, node.name, signing.get(str(fields.get("host_key")), node.host_keys[0])))
                return {"core": b64(core)}
            case "commit":
                return {"trust_revision": await self.enrolment.commit(fields["fingerprint"], fields["message"])}
            case "remove":
                removed = await self._remove(fields["name"], fields["by"], fields["event"])
                return {"fingerprint": PublicKey.from_line(removed.user_key).fingerprint}
            case "release":
                await self.registry.release(fields["name"], fields["fingerprint"], fields["by"])
                return {}
            case "identity":
                return await self.admittance.certify(node, fields)
            case "audit-head":
                return {"head": self.audit.head}
            case "audit-heads":
                return {"heads": self.audit.heads}
            case _:
                answer = await self.engines.answer(node, op, fields)
                if answer is None:  # an empty one is an answer
                    answer = await self.rotations(op, fields)
                if answer is None:
                    raise Refused("FL-PEER-QUESTION", f"nothing here answers {op[:32]!r}",
                                  "both must run versions of fairlead that fit")
                return answer

    # -- who does it --------------------------------------------------------------------------------------------------

    async def ask_leader(self, op: str, /, **fields: Any) -> dict[str, Any]:
        """Ask whoever leads; a node that does not know asks them all. Raises what the leader, or the last one, says."""
        last: FairleadError = StoreUnavailable("no other Controller is connected")
        leader = self.cluster.leader
        there = self._admitted()
        for name in [leader] if leader in there else there:
            try:
                return await self.mesh.peers.ask(str(name), op, timeout_s=30.0, **fields)
            except (NotLeading, StoreUnavailable) as error:
                last = error
            except Refused as error:
                if error.code != "FL-NOT-LEADER":
                    raise
                last = error
        raise last

    async def look_around(self, here: Endpoint) -> None:
        """While this Controller comes in: tell another one where it is found, and learn which Controllers there are."""
        for name in self._admitted():
            with contextlib.suppress(FairleadError):
                answer = await self.mesh.peers.ask(
                    name, "controllers", addresses=list(here.addresses), api_port=here.api_port,
                    portal_port=here.portal_port, ssh_port=here.ssh_port)
                if not self.mesh.loaded:
                    self.mesh.directory.restore(str(answer.get("copy", "")).encode())
                return

    def _admitted(self) -> list[str]:
        """Who can be asked: one that is itself still coming in answers for nobody."""
        up = {node.name for node in self.mesh.directory.controllers()}
        return [name for name in self.mesh.peers.connected if name in up]

    async def _led(self, here: Callable[[], Awaitable[T]], there: Callable[[str], Awaitable[T]]) -> T:
        end = self.clock.monotonic() + PATIENCE_S
        while True:
            try:
                if self.cluster.leading:
                    return await here()
                if self.cluster.leader is None:
                    raise NotLeading(None)
                return await there(self.cluster.leader)
            except StoreUnavailable:
                if not self.cluster.clustered or self.clock.monotonic() >= end:
                    raise
            except Refused as error:
                if error.code != "FL-NOT-LEADER" or self.clock.monotonic() >= end:
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _seen(self, fingerprint: str) -> None:
        """Wait until this Controller's directory has the key as it stands now."""
        record = await self.store.get(KEYS + fingerprint)
        if record is None:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.mesh.directory.reached(record.revision)
        except TimeoutError:
            raise StoreUnavailable("this Controller has not heard of it yet") from None
