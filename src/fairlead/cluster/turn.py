"""Whose turn it is to be away for a moment: of several Controllers one at a time, whatever is stopped in between.

The turn is a key under a lease. Who has it and ends leaves it to the others when the lease does; who comes back before
that finds it to be its own still. It is no lock that must never fail: before anything is stopped the caller sees that
the others are well, too.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fairlead.store.protocol import Absent, Compare, Delete, Equal, Operation, Outcome, Put, Record, StoreUnavailable

TURN = "turn"
TURN_S = 60
LOOK_S = 0.25


class Places(Protocol):
    """What is needed of the store. All may raise StoreUnavailable."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """Do all of *then* if all of *compare* hold."""
        ...

    async def grant(self, seconds: int) -> int:
        """A lease of store time."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One Controller's part in taking turns. *node*: its id."""

    store: Places
    node: str

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for the turn, for as long as that takes, and have it for `TURN_S` at most. Raises StoreUnavailable."""
        mine = self.node.encode()
        while True:
            if await self._take(mine):
                break
            await asyncio.sleep(LOOK_S)
        try:
            yield
        finally:
            with contextlib.suppress(StoreUnavailable):  # then its lease ends it
                await self.store.transact([Equal(TURN, mine)], [Delete(TURN)])

    async def _take(self, mine: bytes) -> bool:
        held = await self.store.get(TURN)
        if held is not None and held.value != mine:
            return False
        put = Put(TURN, mine, await self.store.grant(TURN_S))
        return (await self.store.transact([Equal(TURN, mine) if held else Absent(TURN)], [put])).succeeded
