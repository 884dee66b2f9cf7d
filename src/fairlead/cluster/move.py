"""From SQLite to etcd, in one frozen, checksummed step, while everybody goes on using the store.

Rules, and what each stops:

1. Everything is copied first while the store works, then only what has changed meanwhile, with the store frozen: calls
   wait for a moment, none is refused, however much the store holds. A freeze that would last longer than `FREEZE_S` is
   given up.
2. The new store itself compares each record that it was given with what it was to be, before anybody may use it; one
   hash over keys and values says what was moved. Until *commit* has returned the old store is the one that counts: a
   crash or a failure anywhere leaves it as it was.
3. Revisions go on above those of the old store (`Shifted`): a compare with a revision that was read before the move can
   only fail, it never hits another record that happens to have that number. Watches of the old store end as if their
   past had been compacted, so whoever watches lists again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol, TypeVar

from fairlead.base.clock import SECOND
from fairlead.store.protocol import (
    MARK,
    Absent,
    Born,
    Compacted,
    Compare,
    Delete,
    Equal,
    Event,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    Store,
    StoreUnavailable,
    Unchanged,
    mark_value,
)

MOVED = "store/moved"
NOT_COPIED = (MARK, MOVED)
FREEZE_S = 2.0
MANY = 100
"""So many changes are worth another round before the freeze."""
TOGETHER = 100
TOGETHER_BYTES = 256 * 1024
"""Records, and bytes of their values, in one transaction of the copy."""

T = TypeVar("T")


class Sweeping(Store, Protocol):
    """A store whose ended leases somebody has to remove."""

    async def sweep(self) -> None:
        """Remove the keys whose lease has ended."""
        ...


class Leaving(Sweeping, Protocol):
    """The store that is left."""

    async def changes(self, after: int) -> tuple[Sequence[Event], int]:
        """What has changed since a revision, and the revision of now. Raises Compacted."""
        ...

    async def leases(self) -> Mapping[str, int]:
        """When the lease of each key under one ends, microseconds."""
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move did: the last revision of the old store, and a hash over the records, which were that many."""

    base: int
    checksum: str
    records: int


class MovableStore:
    """The Controller's store: at first this one, after `move` another one. Everybody holds this object.

    Without a store everything is StoreUnavailable until one is `found`.
    """

    def __init__(self, store: Sweeping | None) -> None:
        self._store = store
        self._open = asyncio.Event()
        self._open.set()
        self._busy = 0
        self._idle = asyncio.Event()

    @property
    def inner(self) -> Sweeping | None:
        """The store that counts now."""
        return self._store

    def found(self, store: Sweeping) -> None:
        """There is a store now, or another way to it."""
        self._store = store

    async def get(self, key: str) -> Record | None:
        """As in `Store`."""
        return await self._through(lambda store: store.get(key))

    async def list(self, prefix: str, *more: str) -> Listing:
        """As in `Store`."""
        return await self._through(lambda store: store.list(prefix, *more))

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """As in `Store`."""
        return await self._through(lambda store: store.transact(compare, then))

    async def grant(self, seconds: int) -> int:
        """As in `Store`."""
        return await self._through(lambda store: store.grant(seconds))

    async def now(self) -> int:
        """As in `Store`."""
        return await self._through(lambda store: store.now())

    async def sweep(self) -> None:
        """As in `Sweeping`."""
        await self._through(lambda store: store.sweep())

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """As in `Store`."""
        store = self._there()
        try:
            async for batch in store.watch(prefix, after):
                yield batch
        except StoreUnavailable:
            if self._store is store:
                raise
            raise Compacted("the store was moved") from None

    async def move(self, old: Leaving, new: Sweeping, commit: Callable[[Moved], None]) -> Moved:
        """Let *new*, which is empty, take the place of *old*; *commit* makes it last.

        Raises FairleadError, or what *commit* raises; then *old* goes on. *old* is for the caller to close.
        """
        copy = _Copy(old, new)
        await copy.catch_up()
        self._open.clear()
        try:
            async with asyncio.timeout(FREEZE_S):
                while self._busy:
                    self._idle.clear()
                    await self._idle.wait()
                moved = await copy.finish()
            commit(moved)
            self._store = Shifted(new, moved.base)
        except TimeoutError:
            raise StoreUnavailable(f"the store could not be moved within {FREEZE_S:g} seconds") from None
        finally:
            self._open.set()
        return moved

    async def _through(self, do: Callable[[Sweeping], Awaitable[T]]) -> T:
        await self._open.wait()
        self._busy += 1
        try:
            return await do(self._there())
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    def _there(self) -> Sweeping:
        if self._store is None:
            raise StoreUnavailable("this Controller has not found its store yet")
        return self._store


@dataclass(frozen=True, slots=True)
class Shifted:
    """A store whose revisions all count from *base* on."""

    store: Sweeping
    base: int

    async def get(self, key: str) -> Record | None:
        """As in `Store`."""
        record = await self.store.get(key)
        return None if record is None else self._record(record)

    async def list(self, prefix: str, *more: str) -> Listing:
        """As in `Store`."""
        listing = await self.store.list(prefix, *more)
        return Listing([self._record(record) for record in listing.records], listing.revision + self.base)

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """As in `Store`."""
        outcome = await self.store.transact([self._compare(one) for one in compare], then)
        return replace(outcome, revision=outcome.revision + self.base)

    async def grant(self, seconds: int) -> int:
        """As in `Store`."""
        return await self.store.grant(seconds)

    async def now(self) -> int:
        """As in `Store`."""
        return await self.store.now()

    async def sweep(self) -> None:
        """As in `Sweeping`."""
        await self.store.sweep()

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """As in `Store`."""
        if after < self.base:
            raise Compacted(f"revision {after} is of before the move")
        async for batch in self.store.watch(prefix, after - self.base):
            yield [replace(event, revision=event.revision + self.base) for event in batch]

    def _record(self, record: Record) -> Record:
        return replace(record, created=record.created + self.base, revision=record.revision + self.base)

    def _compare(self, one: Compare) -> Compare:
        match one:
            case Unchanged(key, revision):
                return Unchanged(key, max(0, revision - self.base))  # none has revision 0: it does not hold
            case Born(key, created):
                return Born(key, max(0, created - self.base))
            case _:
                return one


async def moved_store(store: Sweeping) -> Shifted:
    """A store that a move has filled, as everybody sees it. Raises StoreUnavailable when it is not that."""
    record = await store.get(MOVED)
    if record is None:
        raise StoreUnavailable("the store was never filled")
    return Shifted(store, int(json.loads(record.value)["base"]))


def checksum(records: Mapping[str, bytes]) -> str:
    """One hash over keys and values; the time is left out: it goes on."""
    return _sum({key: _digest(key, value) for key, value in records.items() if key not in NOT_COPIED})


class _Copy:
    """What was copied so far: the old store's revision, and of each record a digest."""

    def __init__(self, old: Leaving, new: Sweeping) -> None:
        self._old = old
        self._new = new
        self._revision = -1
        self._digests: dict[str, bytes] = {}

    async def catch_up(self) -> None:
        """Copy until what has changed since is soon done."""
        changes = MANY
        while changes >= MANY:
            try:
                changes = await self._changes()
            except Compacted:
                await self._everything()

    async def finish(self) -> Moved:
        """The store is frozen: copy the rest, and what stands under a lease; say so in the new store."""
        await self._old.sweep()
        try:
            await self._changes()
        except Compacted:
            raise StoreUnavailable("too much has changed meanwhile") from None
        leases, now = await self._old.leases(), await self._old.now()
        await self._new.transact([], [Put(MARK, mark_value(now))])
        for key, ends in leases.items():
            record = await self._old.get(key)
            if record is not None:
                lease = await self._new.grant(max(1, -(-(ends - now) // SECOND)))
                await self._write([Put(key, record.value, lease)])
        moved = Moved(self._revision, _sum(self._digests), len(self._digests))
        await self._new.transact([], [Put(MOVED, json.dumps(
            {"base": moved.base, "checksum": moved.checksum, "records": moved.records}).encode())])
        return moved

    async def _everything(self) -> None:
        listing = await self._old.list("")
        wanted = {record.key: record.value for record in listing.records}
        left = {record.key for record in (await self._new.list("")).records} - wanted.keys()
        await self._write([*(Put(key, value) for key, value in wanted.items()
                             if self._digests.get(key) != _digest(key, value)), *map(Delete, left)])
        self._revision = listing.revision

    async def _changes(self) -> int:
        """Copy what has changed; how many keys. Raises Compacted."""
        if self._revision < 0:
            raise Compacted("nothing is copied yet")
        events, revision = await self._old.changes(self._revision)
        last = {event.key: event.value for event in events}
        await self._write([Delete(key) if value is None else Put(key, value) for key, value in last.items()])
        self._revision = revision
        return len(last)

    async def _write(self, operations: Sequence[Operation]) -> None:
        """Raises StoreUnavailable when the new store does not hold it afterwards."""
        for batch in batches([operation for operation in operations if operation.key not in NOT_COPIED]):
            await self._new.transact([], batch)
            there: list[Compare] = [Equal(one.key, one.value) if isinstance(one, Put) else Absent(one.key)
                                    for one in batch]
            if not (await self._new.transact(there, [])).succeeded:
                raise StoreUnavailable("the new store does not hold what the old one holds")
            for one in batch:
                if isinstance(one, Put):
                    self._digests[one.key] = _digest(one.key, one.value)
                else:
                    self._digests.pop(one.key, None)


def _digest(key: str, value: bytes) -> bytes:
    return sha256(len(key.encode()).to_bytes(4, "big") + key.encode() + value).digest()


def _sum(digests: Mapping[str, bytes]) -> str:
    return sha256(b"".join(digest for _, digest in sorted(digests.items()))).hexdigest()


def batches(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """Few enough for a transaction, and small enough for a request."""
    batch: list[Operation] = []
    size = 0
    for operation in operations:
        length = len(operation.value) if isinstance(operation, Put) else 0
        if batch and (len(batch) == TOGETHER or size + length > TOGETHER_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(operation)
        size += length
    if batch:
        yield batch
