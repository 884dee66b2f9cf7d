"""The trust statements of the cluster, in the store: the leader publishes one whenever another trust is to be believed.

Of those that are past, the ones that changed the roots are kept for ever: a node that slept follows them one by one.
A number is never lower than store time in seconds, so that a store that was restored counts on above what was published
after its backup.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

from fairlead.audit.record import Entry
from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.cluster.undertaking import Journal
from fairlead.pki import statement as statements
from fairlead.pki.statement import Content, Signer, Statement
from fairlead.store.fence import Fence, NotLeading
from fairlead.store.protocol import Absent, Delete, Listing, Operation, Put

TRUST = "trust/"


class Records(Protocol):
    """What is needed of the store."""

    async def list(self, prefix: str, *more: str) -> Listing:
        """All records under a prefix."""
        ...

    async def now(self) -> int:
        """Store time, microseconds."""
        ...


def place(number: int) -> str:
    """Where the statement of that number is: their order is that of their numbers."""
    return f"{TRUST}{number:010d}"


class Statements:
    """Those of one cluster."""

    def __init__(self, store: Records, audit: Journal, fence: Fence, cluster_uuid: UUID, me: str,
                 signers: Callable[[], Awaitable[Sequence[Signer]]]) -> None:
        """*signers*: all roots whose keys the cluster has now."""
        self._store = store
        self._audit = audit
        self._fence = fence
        self._cluster_uuid = cluster_uuid
        self._me = me
        self._signers = signers

    async def texts(self) -> Sequence[str]:
        """All that are kept, in order."""
        return [record.value.decode() for record in sorted((await self._store.list(TRUST)).records,
                                                           key=lambda record: record.key)]

    async def publish(self, content: Content) -> int:
        """See that the newest statement says *content*; its number.

        Raises StoreUnavailable, NotLeading, Refused FL-TRUST-FORMAT.
        """
        kept = [statements.read(text).statement for text in await self.texts()]
        newest = kept[-1] if kept else None
        if newest is not None and newest.content == content:
            return newest.number
        fence = self._fence()
        number = max(newest.number + 1 if newest is not None else 1, await self._store.now() // SECOND)
        if number >= 2**32:
            raise Refused("FL-TRUST-FORMAT", "store time is beyond what numbers of trust statements hold",
                          "see that the Controllers' clocks are right")
        text = Statement(self._cluster_uuid, number, content).text(await self._signers())
        statements.read(text)  # what nobody could read is not published
        then: list[Operation] = [Put(place(number), text.encode())]
        if newest is not None and len(kept) > 1 and kept[-2].content.roots == newest.content.roots:
            then.append(Delete(place(newest.number)))
        outcome = await self._audit.append_with([*fence, Absent(place(number))], then, [
            Entry("trust.stated", str(number), self._me, {"roots": len(content.roots),
                                                          "controllers": len(content.controllers)})])
        if not outcome.succeeded:
            raise NotLeading(None)
        return number
