"""What this Controller does when the cluster's roots change, whichever Controller changed them.

Rules, and what each stops:

1. Everything goes by what the store says now, and is done only where it is not done yet: after a crash, a change of
   leader, or a rotation that was slept through it is the same work. What is done is told (`facts`) when all of it is.
2. The CAs that the member trusts come first: it is restarted, as only then it reads them, one Controller at a time
   (`cluster.turn`), and only while the members of all others that are connected are well. So three members never lose
   their majority by it.
3. Its certificate is exchanged when it is not by the root that signs; one that ends soon is `renewal`'s. The leader
   lets a new root sign only when every member trusts it.
4. Who was away for all of it is let in by no member, and reads no store. It follows the trust statements, as engines
   do, and asks another Controller for a certificate. What that one says of the roots counts only as far as the
   statements do: a Controller with a root of its own leads nobody away.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from fairlead.base.errors import FairleadError, Refused
from fairlead.base.files import read_private, write_private
from fairlead.cluster.etcd import folder, peer_url, put_identity, trusted
from fairlead.cluster.members import status
from fairlead.cluster.turn import Turn
from fairlead.controller import secrets
from fairlead.controller.cluster import Cluster
from fairlead.controller.roots import known_as
from fairlead.enrol.statements import caught_up
from fairlead.enrol.trust import Trust
from fairlead.keys.wire import from_b64
from fairlead.pki.certificate import der_of, ders_of, parsed
from fairlead.pki.chain import is_issued_by
from fairlead.pki.request import new_request, read_request
from fairlead.store.protocol import Compacted, StoreUnavailable

LOOK_S = 3600.0
AGAIN_S = 1.0
AWAY_TRIES = 10
"""So many vain tries to reach the store, and the others are asked whether this Controller was away too long."""
RESTART_S = 30.0

log = structlog.get_logger("fairlead.cluster")


class Holder(Protocol):
    """Who has this Controller's trust, and keeps it."""

    @property
    def trust(self) -> Trust:
        """As it is now."""
        ...

    def keep(self, trust: Trust) -> None:
        """From now on this. Raises OperatorError."""
        ...

    async def follow(self) -> None:
        """Present what is to be presented now. Raises StoreUnavailable."""
        ...


@dataclass(slots=True)
class Rooted:
    """See the module. *ask*: another Controller of the cluster."""

    cluster: Cluster
    holder: Holder
    ask: Callable[..., Awaitable[dict[str, Any]]]
    settled: Callable[[], None] = lambda: None
    """Called when something else is told."""
    problem: str = ""
    _roots: str = ""
    _vain: int = field(default=0)

    def facts(self) -> Mapping[str, str]:
        """By which roots this Controller goes in everything, the one that signs first; for the others."""
        return {"roots": self._roots}

    async def follow(self) -> None:
        """Go by the roots as they are, at each change and now and then, until cancelled."""
        while True:
            try:
                after = (await self.cluster.store.list(secrets.ROOT)).revision
                await self.settle()
                self.problem, self._vain = "", 0
                await self._change(after)
            except FairleadError as error:
                if self.problem != error.line():
                    log.warning("roots.unsettled", code=error.code, reason=error.message)
                self.problem = error.line()
                await asyncio.sleep(AGAIN_S)
                await self.tried()

    async def settle(self) -> None:
        """Have everything of this Controller go by the roots, and tell so. Raises FairleadError."""
        pems = await self.cluster.signing.roots()
        if self.cluster.etcd is not None:
            await self.trust_roots(pems)
            await self.renew_identity()
        await self.holder.follow()
        if await self.cluster.signing.roots() == pems:
            self._roots = in_words(map(known_as, pems))
            self.settled()

    async def _change(self, after: int) -> None:
        with contextlib.suppress(TimeoutError, Compacted):
            async with asyncio.timeout(LOOK_S):
                async for _ in self.cluster.store.watch(secrets.ROOT, after):
                    return

    async def trust_roots(self, pems: Sequence[bytes]) -> None:
        """Have the member trust these CAs and no others; it is restarted in its turn. Raises FairleadError."""
        cluster, etcd = self.cluster, self.cluster.etcd
        assert etcd is not None
        if set(trusted(cluster.state)) != set(map(der_of, pems)):
            log.info("etcd.trusts", roots=len(pems))
            write_private(folder(cluster.state) / "ca.pem", b"".join(pems))
            await cluster.prove_anew()
        if not etcd.stale:
            return
        async with Turn(cluster.store, cluster.trust.node_id).taken():
            await self._see_others()
            await etcd.restart()

    async def renew_identity(self) -> None:
        """Have the member show a certificate by the root that signs, from the next handshake on. Raises FairleadError.
        """
        cluster = self.cluster
        leaf = self._leaf()
        if leaf is None or not is_issued_by(parsed(leaf), parsed(der_of(await cluster.signing.root()))):
            await cluster.renew_identity()
            log.info("etcd.certificate-renewed")

    def _leaf(self) -> bytes | None:
        """What the member shows, DER; None where that cannot be read."""
        try:
            return der_of(read_private(folder(self.cluster.state) / "member.pem"))
        except (FileNotFoundError, Refused):
            return None

    async def _see_others(self) -> None:
        """Raise StoreUnavailable while a member of a connected Controller is not well: it is needed meanwhile."""
        cluster, me = self.cluster, peer_url(self.cluster.trust.internal_address)
        for member in await cluster.members().list():
            node = cluster.node_of(member)
            if me in member.peer_urls or member.learner or node is None:
                continue
            if node.name in cluster.mesh.peers.connected and not (await status(cluster.endpoint(member))).healthy:
                raise StoreUnavailable(f"the member of {node.name} follows nobody", "it is tried again")

    # -- back from away -----------------------------------------------------------------------------------------------

    async def tried(self) -> None:
        """The store was not reached: after some vain tries, see whether the roots have changed meanwhile."""
        self._vain += 1
        if self._vain % AWAY_TRIES == 0 and self.cluster.etcd is not None:
            try:
                await self.come_back()
            except (FairleadError, TimeoutError) as error:
                log.info("roots.unknown", reason=str(error) or "no answer in time")

    async def come_back(self) -> None:
        """Have what lets this member in again, if that is why it is not. Raises FairleadError, TimeoutError."""
        cluster, etcd = self.cluster, self.cluster.etcd
        assert etcd is not None
        key, request = new_request()
        answer = await self.ask("identity", request=request.decode())
        made, believed = str(answer.get("certificate")).encode(), str(answer.get("ca")).encode()
        leaf, (signs, *_) = self._leaf(), (roots := ders_of(believed))
        if set(roots) == set(trusted(cluster.state)) and leaf is not None and is_issued_by(parsed(leaf), parsed(signs)):
            return  # the store is away for another reason
        trust = self.holder.trust
        if not set(roots) <= set(map(from_b64, trust.roots)) and trust.roots:
            trust = await caught_up(lambda: self.holder.trust)
        if not set(roots) <= set(map(from_b64, trust.roots)):
            raise Refused("FL-TRUST-ROOT", "another Controller names a root that no trust statement names",
                          "see whether that Controller is in wrong hands")
        new = parsed(der_of(made))
        if new.public_key() != read_request(request) or not is_issued_by(new, parsed(signs)):
            raise Refused("FL-CERT-PAIR", "another Controller answers with a certificate that is not for this member",
                          "see whether that Controller is in wrong hands")
        self.holder.keep(trust)
        put_identity(cluster.state, made, key, believed)
        await cluster.prove_anew()
        log.warning("etcd.identity-renewed", roots=len(roots))
        async with asyncio.timeout(RESTART_S):
            await etcd.restart()


def in_words(roots: Iterable[str]) -> str:
    """Roots, the one that signs first, as a Controller tells them."""
    return ",".join(roots)
