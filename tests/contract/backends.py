"""The stores that the contract holds for. Another one is another class and one more line in `BACKENDS`."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from fairlead.base.clock import SECOND
from fairlead.store.etcd import EtcdStore
from fairlead.store.gateway import Gateway
from fairlead.store.protocol import MARK, Put, Store, mark_value
from fairlead.store.sqlite import SQLiteStore
from tests.conftest import need
from tests.contract.etcd import Member, answers

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

    every: ClassVar[int]
    """Of what is tried by the thousand elsewhere, one in so many is tried here. Odd, and no multiple of 5: samples of
    products would always have the same factors."""

    def __init__(self, folder: Path) -> None: ...

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
    every: ClassVar[int] = 1

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


class EtcdBackend:
    """One member, with a process of its own; whoever leads is played here: the clock is the test's own."""

    every: ClassVar[int] = 21

    def __init__(self, folder: Path) -> None:
        need("etcd")
        self.clock = ManualClock()
        self.member = Member.alone(folder / "etcd")
        self._gateway: Gateway | None = None
        self._store: EtcdStore | None = None

    @property
    def store(self) -> EtcdStore:
        assert self._store is not None
        return self._store

    async def start(self) -> None:
        self.member.start()
        self._gateway = Gateway([self.member.endpoint], timeout_s=5.0)
        await answers(self._gateway)
        self._store = EtcdStore(self._gateway, deadline_s=20.0)
        await self._tick()

    async def stop(self) -> None:
        if self._store is not None and self._gateway is not None:
            await self._store.close()
            await self._gateway.close()
        self.member.stop()

    async def pass_time(self, seconds: int) -> None:
        self.clock.instant += seconds * SECOND
        await self._tick()
        await self.store.sweep()

    async def forget(self) -> None:
        assert self._gateway is not None
        done = await self.store.transact([], [Put("elsewhere", b"")])
        await self._gateway.call("kv/compaction", {"revision": str(done.revision)})

    async def _tick(self) -> None:
        await self.store.transact([], [Put(MARK, mark_value(self.clock.instant))])


MakeBackend = type[Backend]
BACKENDS: Sequence[MakeBackend] = (SQLiteBackend, EtcdBackend)
