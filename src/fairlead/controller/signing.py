"""What a Controller signs with the cluster's root, and the key that opens what is sealed in the store.

One root signs. While another takes its place two are believed: `roots` and `bundle` are what whoever trusts this
cluster has to be told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from fairlead.base.errors import OperatorError
from fairlead.controller import secrets
from fairlead.enrol.trust import Trust
from fairlead.keys.seal import seal, unseal
from fairlead.keys.wire import b64, from_b64
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import API_CERTIFICATES
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import SERVER_LIFETIME, der_of, names, parsed, portal_name, validity
from fairlead.pki.chain import is_issued_by
from fairlead.pki.pair import leaf_fault
from fairlead.pki.request import read_request
from fairlead.pki.statement import Signer
from fairlead.store.protocol import Store

log = structlog.get_logger("fairlead.controller")


@dataclass(slots=True)
class Signing:
    """Opens the root's key for each signature, and forgets it."""

    trust: Trust
    store: Store
    cluster_key: bytes = field(default=b"", repr=False)
    """Empty until this Controller has it."""

    async def certify(self, node: Node, request: bytes) -> bytes:
        """A certificate for the member of *node*, PEM. Raises Refused FL-CSR."""
        return (await self.authority()).certify_member(
            self.trust.cluster_uuid, node.name, node.internal_address, read_request(request), await self.store.now())

    async def issue_client(self) -> tuple[Issued, bytes]:
        """A certificate and key for a client of the store, such as an operator's etcdctl, and the CAs."""
        authority = await self.authority()
        return authority.issue_client(self.trust.cluster_uuid, await self.store.now()), await self.bundle()

    async def channel_certificate(self) -> secrets.Certified:
        """What the cluster has for its own secure channel, whoever wrote it: a pair for the portal, under its root.

        Raises OperatorError FL-CERT-BROKEN.
        """
        place = secrets.CERTIFICATES + secrets.SECURE_CHANNEL
        found = secrets.opened(await self.store.get(place), self.cluster_key, place)
        leaf, name = der_of(found.certificate_pem), portal_name(self.trust.cluster_uuid)
        faults = [leaf_fault(leaf, root, name) for root, _ in await self.signers()]
        if all(faults):
            raise secrets.broken(place, faults[0])
        return found

    async def api_certificate(self, here: Endpoint) -> secrets.Certified:
        """What this Controller's API presents: it has to name the addresses at which this Controller is found now, and
        be of the root that signs now. Below a root that is over, which issues none, one that there is goes on.
        """
        kept: list[secrets.Certified] = []
        hosts = {host for host, _ in here.places}
        own = API_CERTIFICATES + self.trust.node_id
        root = parsed(der_of(await self.root()))
        for place in (own, secrets.CERTIFICATES + secrets.API):
            if (record := await self.store.get(place)) is None:
                continue
            try:
                found = secrets.opened(record, self.cluster_key, place)
            except OperatorError as error:
                log.error("certificate.broken", code=error.code, reason=error.message)
                continue
            leaf = der_of(found.certificate_pem)
            if hosts <= set(names(leaf)) and is_issued_by(parsed(leaf), root):
                return found
            kept.append(found)
        try:
            made = await self.issue_api(sorted(hosts))
        except OperatorError as error:
            if error.code != "FL-CERT-EXPIRED" or not kept:
                raise
            log.warning("certificate.kept", certificate=own, code=error.code, reason=error.message)
            return kept[0]
        await self.store.transact([], [secrets.sealed(self.cluster_key, own, made)])
        return made

    async def signers(self) -> Sequence[Signer]:
        """All roots whose keys the cluster has, for a trust statement."""
        found = [await self.authority(place) for place in secrets.ROOTS if await self.store.get(place) is not None]
        return [(der_of(authority.certificate_pem), authority.state) for authority in found]

    async def issue_portal(self, hosts: Sequence[str]) -> secrets.Certified:
        """A new certificate of the cluster's own for the portals at *hosts*."""
        issued = (await self.authority()).issue_portal(self.trust.cluster_uuid, hosts, await self.store.now())
        return secrets.Certified(issued.certificate_pem, issued.key_pem)

    async def issue_api(self, hosts: Sequence[str]) -> secrets.Certified:
        """The same for the API."""
        issued = (await self.authority()).issue_api(self.trust.cluster_uuid, hosts, await self.store.now())
        return secrets.Certified(issued.certificate_pem, issued.key_pem)

    async def latest_end(self, now: int) -> int:
        """When a certificate that is made *now* (microseconds) ends at the latest."""
        return min(now + SERVER_LIFETIME, validity(der_of(await self.root()))[1])

    def seal(self, place: str, secret: bytes) -> str:
        """*secret*, sealed for *place* in the store."""
        return b64(seal(self.cluster_key, secret, place))

    def unseal(self, place: str, sealed: str) -> bytes:
        """The reverse. Raises Refused FL-SEAL-BROKEN."""
        return unseal(self.cluster_key, from_b64(sealed), place)

    async def certificate(self, name: str) -> bytes:
        """One of the certificates that the cluster makes for itself, PEM; the API's is this Controller's."""
        own = API_CERTIFICATES + self.trust.node_id
        if name == secrets.SECURE_CHANNEL:
            return (await self.channel_certificate()).certificate_pem
        if name == secrets.API and await self.store.get(own) is not None:
            return await secrets.certificate_of(self.store, own)
        return await secrets.certificate_of(self.store, secrets.CERTIFICATES + name)

    async def now(self) -> int:
        """Store time, microseconds."""
        return await self.store.now()

    async def root(self) -> bytes:
        """The certificate of the root that signs, PEM."""
        return (await self.roots())[0]

    async def roots(self) -> Sequence[bytes]:
        """The certificates of all roots that are believed, PEM: the one that signs is the first.

        Raises OperatorError.
        """
        found = {record.key: record.value for record in (await self.store.list(secrets.ROOT)).records}
        if secrets.ROOT not in found:
            raise OperatorError("FL-STATE-DAMAGED", f"the store has no {secrets.ROOT}", "restore the state folder")
        return [secrets.certificate_in(found[place], place) for place in secrets.ROOTS if place in found]

    async def bundle(self) -> bytes:
        """All of `roots` in one text."""
        return b"".join(await self.roots())

    async def authority(self, place: str = secrets.ROOT) -> Authority:
        """A root with its key: the one that signs. Raises OperatorError."""
        root = await secrets.open_certified(self.store, self.cluster_key, place)
        return Authority.load(root.certificate_pem, root.key_pem)
