"""The cluster's roots in the store: one that signs, and beside it the one that comes or the one that goes.

Each step is one transaction of the leader's, and may be asked for again: it does nothing where it is done. A root is
known by the SHA-256 of its certificate, so that a step that comes late is never taken for another root.

With the root that signs, the certificates that the cluster keeps for all Controllers are changed in the same
transaction. Each Controller's own (of its API, of its member of the store) follow, by `controller.rooted`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.base.errors import OperatorError, Refused
from fairlead.controller import secrets
from fairlead.controller.secrets import NEXT_ROOT, OLD_ROOT, ROOT, Certified
from fairlead.controller.signing import Signing
from fairlead.keys.wire import sha256
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import INTERNAL, der_of, names
from fairlead.store.fence import Fence
from fairlead.store.protocol import Absent, Compare, Delete, Operation, Put, Record, StoreUnavailable, Unchanged


def known_as(certificate_pem: bytes) -> str:
    """What a root is known by: hexadecimal digits."""
    return sha256(der_of(certificate_pem)).hex()


@dataclass(frozen=True, slots=True)
class Roots:
    """See the module. *fence*: the leader's."""

    signing: Signing
    fence: Fence

    async def stage(self) -> tuple[str, str]:
        """Have another root beside the one that signs; what that and the other are known by. Raises FairleadError."""
        found = await self._read()
        if OLD_ROOT in found:
            raise Refused("FL-ROOT-BUSY", "the root that was replaced last is still believed",
                          "end that rotation first: `fairlead rotate status`")
        if NEXT_ROOT not in found:
            made = Authority.create(self.signing.trust.cluster_uuid, await self.signing.now())
            await self._do(found, [self._put(NEXT_ROOT, Certified(made.certificate_pem, made.key_pem))])
        return await self._known(ROOT), await self._known(NEXT_ROOT)

    async def cut_over(self, new: str) -> None:
        """Have the root *new* sign, and what it replaces be believed still. Raises FairleadError."""
        if await self._known(ROOT) != new:
            await self._swap(new, NEXT_ROOT, OLD_ROOT)

    async def cut_back(self, new: str) -> None:
        """Have the one sign that signed before *new*, which is believed still. Raises FairleadError."""
        if await self._known(ROOT) == new:
            found = await self._read()
            if OLD_ROOT in found:
                await self._swap(await self._known(OLD_ROOT), OLD_ROOT, NEXT_ROOT)

    async def retire(self, new: str) -> None:
        """Have none but *new*, which signs. Raises FairleadError."""
        if await self._known(ROOT) != new:
            raise _damaged()
        await self._drop(OLD_ROOT)

    async def withdraw(self, new: str) -> None:
        """Have none but the one that signs, which is not *new*. Raises FairleadError."""
        if await self._known(ROOT) == new:
            raise _damaged()
        await self._drop(NEXT_ROOT)

    async def _swap(self, wanted: str, source: str, other: str) -> None:
        """Have what lies at *source* sign, and lay what signed at *other*."""
        found = await self._read()
        if source not in found or await self._known(source) != wanted:
            raise _damaged()
        signs, replaced = await self._open(source), await self._open(ROOT)
        root = Authority.load(signs.certificate_pem, signs.key_pem)
        watched = await self._records(*_SHARED)
        await self._do(found | watched, [
            self._put(ROOT, signs), self._put(other, replaced), Delete(source), *await self._issued(root, watched)])

    async def _issued(self, root: Authority, there: dict[str, Record]) -> Sequence[Put]:
        """What the cluster keeps for all Controllers, anew by *root*, for the names of before."""
        now, uuid, puts = await self.signing.now(), self.signing.trust.cluster_uuid, []
        for place, issue in ((_SHARED[0], root.issue_portal), (_SHARED[1], root.issue_api)):
            if place in there:
                old = await secrets.certificate_of(self.signing.store, place)
                hosts = [name for name in names(der_of(old)) if not name.endswith(f".{INTERNAL}")]
                made = issue(uuid, hosts, now)
                puts.append(self._put(place, Certified(made.certificate_pem, made.key_pem)))
        return puts

    async def _drop(self, place: str) -> None:
        found = await self._read()
        if place in found:
            await self._do(found, [Delete(place)])

    async def _do(self, found: dict[str, Record], then: Sequence[Operation]) -> None:
        """Raises StoreUnavailable when something has changed meanwhile, or another Controller leads."""
        compares: list[Compare] = [*self.fence(), *(Unchanged(key, one.revision) for key, one in found.items()),
                                   *(Absent(place) for place in (ROOT, NEXT_ROOT, OLD_ROOT) if place not in found)]
        if not (await self.signing.store.transact(compares, then)).succeeded:
            raise StoreUnavailable("the roots have changed meanwhile", "it is tried again")

    async def _read(self) -> dict[str, Record]:
        return {record.key: record for record in (await self.signing.store.list(ROOT)).records}

    async def _records(self, *places: str) -> dict[str, Record]:
        found = [(place, await self.signing.store.get(place)) for place in places]
        return {place: record for place, record in found if record is not None}

    async def _known(self, place: str) -> str:
        return known_as(await secrets.certificate_of(self.signing.store, place))

    async def _open(self, place: str) -> Certified:
        return await secrets.open_certified(self.signing.store, self.signing.cluster_key, place)

    def _put(self, place: str, one: Certified) -> Put:
        return secrets.sealed(self.signing.cluster_key, place, one)


_SHARED = (secrets.CERTIFICATES + secrets.SECURE_CHANNEL, secrets.CERTIFICATES + secrets.API)


def _damaged() -> OperatorError:
    return OperatorError("FL-STATE-DAMAGED", "the roots in the store are not those of this rotation",
                         "restore the Controller from its backup")
