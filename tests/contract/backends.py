"""The stores that the contract holds for. Another one is another class and one more line in `BACKENDS`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fairlead.base.clock import SECOND
from fairlead.store.protocol import Put, Store
from fairlead.store.sqlite import SQLiteStore

START = 1_767_225_600 * SECOND


class ManualClock:
    """Stands still until it is told otherwise."""

    def __init__(self, instant: int = START) -> None:
        self.instant = instant

    def now(self) -> int:
        return self.instant

    def monotonic(self) -> float:
        return self.instant / SECOND


class Backend(Protocol):
    """A store, and the power over its surroundings that the contract needs."""

    @property
    def store(self) -> Store: ...

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Also what a restart begins with: `start` finds everything again."""
        ...

    async def pass_time(self, seconds: int) -> None:
        """Store time goes on; leases that ended by then have their effect."""
        ...

    async def forget(self) -> None:
        """Make changes until those of before are no longer in the history."""
        ...


class SQLiteBackend:
    """SQLite under a clock of the test's own, with a short history."""

    HISTORY = 40

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.path = folder / "store.db"
        self._store: SQLiteStore | None = None

    @property
    def store(self) -> SQLiteStore:
        assert self._store is not None
        return self._store

    async def start(self) -> None:
        self._store = SQLiteStore.open(self.path, self.clock, self.HISTORY)

    async def stop(self) -> None:
        await self.store.close()

    async def pass_time(self, seconds: int) -> None:
        self.clock.instant += seconds * SECOND
        await self.store.sweep()

    async def forget(self) -> None:
        for number in range(self.HISTORY + 1):
            await self.store.transact([], [Put("elsewhere", b"%d" % number)])


MakeBackend = Callable[[Path], Backend]
BACKENDS: Sequence[MakeBackend] = (SQLiteBackend,)
