"""A certificate that the cluster issues for itself, and its successor, both sealed in the store.

*next* waits to be used, *old* to be retired. Which of the two is in place is told by the certificate's hash, so that
every step may be done again.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fairlead.controller import secrets
from fairlead.controller.secrets import Certified
from fairlead.controller.signing import Signing
from fairlead.keys.wire import sha256
from fairlead.pki.certificate import der_of
from fairlead.store.fence import Fence, NotLeading
from fairlead.store.protocol import Absent, Compare, Delete, Operation, Unchanged

NEXT, OLD = "/next", "/old"


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The certificate at one place."""

    signing: Signing
    fence: Fence
    place: str
    issue: Callable[[], Awaitable[Certified]]
    """Make the successor."""
    also: Callable[[], Sequence[str]] = lambda: ()
    """Places that go when the successor takes its place."""

    async def stage(self) -> tuple[str, str]:
        """The hashes, hex, of the certificate in place and of its successor, which is made where it is not there."""
        present = await self._open(self.place)
        if await self.signing.store.get(self.place + NEXT) is None:
            await self._write([Absent(self.place + NEXT)], [self._sealed(NEXT, await self.issue())])
        return _hash(present), _hash(await self._open(self.place + NEXT))

    async def use(self, wanted: str) -> None:
        """Have the certificate of that hash in place. Raises NotLeading.

        Where it is nowhere nothing changes: what the Controllers present then tells that it is not in use.
        """
        record = await self.signing.store.get(self.place)
        assert record is not None
        present = await self._open(self.place)
        if _hash(present) == wanted:
            return
        for coming, going in ((NEXT, OLD), (OLD, NEXT)):
            if await self.signing.store.get(self.place + coming) is None:
                continue
            found = await self._open(self.place + coming)
            if _hash(found) == wanted:
                await self._write([Unchanged(record.key, record.revision)], [
                    self._sealed("", found), self._sealed(going, present), Delete(self.place + coming),
                    *map(Delete, self.also())])
                return

    async def forget(self) -> None:
        """Only the one in place is left."""
        store = self.signing.store
        kept = [self.place + name for name in (NEXT, OLD) if await store.get(self.place + name) is not None]
        if kept:
            await self._write([], list(map(Delete, kept)))

    async def _open(self, place: str) -> Certified:
        return await secrets.open_certified(self.signing.store, self.signing.cluster_key, place)

    def _sealed(self, name: str, one: Certified) -> Operation:
        return secrets.sealed(self.signing.cluster_key, self.place + name, one)

    async def _write(self, compare: Sequence[Compare], then: Sequence[Operation]) -> None:
        if not (await self.signing.store.transact([*self.fence(), *compare], then)).succeeded:
            raise NotLeading(None)


def _hash(one: Certified) -> str:
    return sha256(der_of(one.certificate_pem)).hex()
