"""What a Controller signs with the cluster's root, and the key that opens what is sealed in the store."""

from dataclasses import dataclass, field

from fairlead.controller import secrets
from fairlead.enrol.trust import Trust
from fairlead.keys.seal import seal, unseal
from fairlead.keys.wire import b64, from_b64
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import API_CERTIFICATES
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import der_of, names
from fairlead.pki.request import read_request
from fairlead.store.protocol import Store


@dataclass(slots=True)
class Signing:
    """Opens the root's key for each signature, and forgets it."""

    trust: Trust
    store: Store
    cluster_key: bytes = field(default=b"", repr=False)
    """Empty until this Controller has it."""

    async def certify(self, node: Node, request: bytes) -> bytes:
        """A certificate for the member of *node*, PEM. Raises Refused FL-CSR."""
        return (await self._authority()).certify_member(
            self.trust.cluster_uuid, node.name, node.internal_address, read_request(request), await self.store.now())

    async def issue_client(self) -> tuple[Issued, bytes]:
        """A certificate and key for a client of the store, such as an operator's etcdctl, and the CA."""
        authority = await self._authority()
        return authority.issue_client(self.trust.cluster_uuid, await self.store.now()), authority.certificate_pem

    async def api_certificate(self, here: Endpoint) -> secrets.Certified:
        """What this Controller's API presents: it has to name the addresses at which this Controller is found now."""
        hosts = {host for host, _ in here.places}
        own = API_CERTIFICATES + self.trust.node_id
        for place in (own, secrets.CERTIFICATES + secrets.API):
            if await self.store.get(place) is not None:
                found = await secrets.open_certified(self.store, self.cluster_key, place)
                if hosts <= set(names(der_of(found.certificate_pem))):
                    return found
        issued = (await self._authority()).issue_api(self.trust.cluster_uuid, sorted(hosts), await self.store.now())
        made = secrets.Certified(issued.certificate_pem, issued.key_pem)
        await self.store.transact([], [secrets.sealed(self.cluster_key, own, made)])
        return made

    def seal(self, place: str, secret: bytes) -> str:
        """*secret*, sealed for *place* in the store."""
        return b64(seal(self.cluster_key, secret, place))

    def unseal(self, place: str, sealed: str) -> bytes:
        """The reverse. Raises Refused FL-SEAL-BROKEN."""
        return unseal(self.cluster_key, from_b64(sealed), place)

    async def certificate(self, name: str) -> bytes:
        """One of the certificates that the cluster makes for itself, PEM; the API's is this Controller's."""
        own = API_CERTIFICATES + self.trust.node_id
        if name == secrets.API and await self.store.get(own) is not None:
            return await secrets.certificate_of(self.store, own)
        return await secrets.certificate_of(self.store, secrets.CERTIFICATES + name)

    async def now(self) -> int:
        """Store time, microseconds."""
        return await self.store.now()

    async def root(self) -> bytes:
        """The root certificate, PEM."""
        return await secrets.certificate_of(self.store, secrets.ROOT)

    async def _authority(self) -> Authority:
        root = await secrets.open_certified(self.store, self.cluster_key, secrets.ROOT)
        return Authority.load(root.certificate_pem, root.key_pem)
