"""What the leader carries out in steps: one at a time, kept in the store, and driven by whoever leads.

All that the next step needs stands in the record, so it goes on after a crash and after a change of leader, and
whatever a step does may be done twice. A new leader's view of the nodes is not yet whole: until it has settled, nobody
who is missing is taken for lost.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import structlog

from fairlead.audit.record import Entry
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import Compare, Delete, Listing, Operation, Outcome, Put, Record, StoreUnavailable

MOST_PAST = 20
TICK_S = 0.5
IDLE_S = 15.0
"""Between two looks while nothing is under way: whatever concerns the leader then nudges him."""
SETTLE_S = 15.0
"""So long a new leader, or one that was started anew, waits for the nodes that come back to it."""


class Undertaking(Protocol):
    """What is kept of one."""

    @property
    def id(self) -> str:
        """Under which it is asked for."""
        ...

    @property
    def asked_at(self) -> int:
        """Store time, microseconds."""
        ...


T = TypeVar("T", bound=Undertaking)


class Records(Protocol):
    """What is needed of the store. All may raise StoreUnavailable."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...

    async def list(self, prefix: str, *more: str) -> Listing:
        """All records under a prefix."""
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """Do all of *then* if all of *compare* hold."""
        ...

    async def now(self) -> int:
        """Store time, microseconds."""
        ...


class Journal(Protocol):
    """The audit log."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Write entries in one transaction with a change."""
        ...


class Ledger(Generic[T]):
    """The records of one kind: ``KIND/now`` is under way, ``KIND/past/...`` are the last that are over."""

    def __init__(self, store: Records, kind: str, encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        self.now = f"{kind}/now"
        self._past = f"{kind}/past/"
        self._store = store
        self._encode = encode
        self._decode = decode

    async def current(self) -> tuple[Record, T] | None:
        """The one that is under way, with its record. Raises StoreUnavailable, ValueError, KeyError."""
        record = await self._store.get(self.now)
        return (record, self._decode(record.value)) if record is not None else None

    async def past(self) -> Sequence[T]:
        """Those that are over, the newest first. Raises as `current`."""
        return [self._decode(one.value) for one in sorted((await self._store.list(self._past)).records,
                                                          key=lambda one: one.key, reverse=True)]

    async def named(self, name: str) -> T | None:
        """The one of that id, if it has begun. Raises as `current`."""
        current = await self.current()
        known = [*([current[1]] if current is not None else []), *await self.past()]
        return next((one for one in known if one.id == name), None)

    def going(self, one: T) -> list[Operation]:
        """What keeps *one* as that which is under way."""
        return [Put(self.now, self._encode(one))]

    async def ending(self, one: T) -> list[Operation]:
        """What keeps *one* as over, and no more of the past than is wanted. Raises StoreUnavailable."""
        past = sorted(record.key for record in (await self._store.list(self._past)).records)
        return [Delete(self.now), Put(f"{self._past}{one.asked_at:016d}-{one.id}", self._encode(one)),
                *map(Delete, past[:max(0, len(past) + 1 - MOST_PAST)])]


class Driving(ABC):
    """Drives the one undertaking of its kind that there may be, while this Controller leads."""

    def __init__(self, kind: str, leading: Callable[[], bool], *, rest: float = 0.0) -> None:
        """*rest*: so many times as long as a turn took, nothing is done after it."""
        self._kind = kind
        self._leading = leading
        self._rest = rest
        self._log = structlog.get_logger(f"fairlead.{kind}")
        self._due = asyncio.Event()
        self._turn = asyncio.Lock()
        self._drives: float | None = None
        self.problem = ""
        """Why it does not go on."""

    @property
    def settled(self) -> bool:
        """Whether it has driven for a while: before, nodes may still be coming back."""
        return self._drives is not None and asyncio.get_running_loop().time() - self._drives >= SETTLE_S

    def nudge(self) -> None:
        """Something has changed: see at once."""
        self._due.set()

    @abstractmethod
    async def drive(self) -> bool:
        """One turn: what is to be done now, and the step that follows; whether anything is under way.

        Raises StoreUnavailable, NotLeading, other FairleadErrors, and ValueError or KeyError for a record that cannot
        be read.
        """

    async def run(self) -> None:
        """Drive, while this Controller leads, until cancelled."""
        idle, took, loop = False, 0.0, asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S if idle else max(TICK_S, self._rest * took)):
                    await self._due.wait()
            self._due.clear()
            idle = False
            if not self._leading():
                self.problem, self._drives = "", None
                continue
            began = loop.time()
            self._drives = self._drives if self._drives is not None else began
            try:
                idle = not await self.drive()
                self.problem = ""
            except (StoreUnavailable, NotLeading):
                continue
            except FairleadError as error:
                self._say(error)
            except (ValueError, KeyError) as error:  # a record of a newer version, say
                self._say(OperatorError("FL-STATE-DAMAGED", f"the record of the {self._kind} that is under way cannot "
                                        f"be used: {type(error).__name__}",
                                        "have a Controller lead that runs the newest version"))
            took = loop.time() - began

    def _say(self, error: FairleadError) -> None:
        if self.problem != error.line():
            self._log.error(f"{self._kind}.problem", code=error.code, reason=error.message)
        self.problem = error.line()
