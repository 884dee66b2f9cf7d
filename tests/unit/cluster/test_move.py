"""The move of the store: nothing is lost, nobody is refused, and until it is whole it did not happen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from fairlead.base.clock import SECOND
from fairlead.cluster import move as moving
from fairlead.cluster.move import MOVED, MovableStore, Moved, Shifted, checksum, moved_store
from fairlead.store.protocol import (
    MARK,
    Below,
    Born,
    Compacted,
    Compare,
    Event,
    Operation,
    Outcome,
    Put,
    Store,
    StoreUnavailable,
    Unchanged,
)
from fairlead.store.sqlite import SQLiteStore
from tests.contract.backends import ManualClock
from tests.world import refusal

DEADLINE = 10


class Place:
    """The old store, a new one, and what everybody holds."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.old = SQLiteStore.open(folder / "old.db", self.clock)
        self.new = SQLiteStore.open(folder / "new.db", self.clock)
        self.store = MovableStore(self.old)
        self.committed: list[Moved] = []

    async def move(self) -> Moved:
        return await self.store.move(self.old, self.new, self.committed.append)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.old.close()
    await made.new.close()


async def contents(store: Store) -> dict[str, bytes]:
    return {r.key: r.value for r in (await store.list("")).records if r.key not in (MARK, MOVED)}


async def test_everything_is_there_afterwards_and_counts_on(place: Place) -> None:
    big = {f"k/{n:03d}": bytes([n % 256]) * (40_000 if n % 50 == 0 else 10) for n in range(300)}
    for key, value in big.items():
        await place.store.transact([], [Put(key, value)])
    before = await place.store.list("")
    moved = await place.move()
    assert place.committed == [moved]
    assert (moved.base, moved.records) == (before.revision, 300)
    assert await contents(place.store) == big
    assert moved.checksum == checksum(big)
    after = await place.store.transact([], [Put("more", b"")])
    assert after.revision > before.revision
    record = await place.store.get("more")
    assert record is not None
    assert record.revision == record.created == after.revision
    assert (await place.store.transact([Unchanged("more", after.revision), Born("more", after.revision)], [])).succeeded
    assert await contents(await moved_store(place.new)) == {**big, "more": b""}
    assert await place.old.get("more") is None
    assert await refusal(moved_store(place.old)) == "FL-STORE"


async def test_a_lease_ends_when_it_would_have_ended(place: Place) -> None:
    await place.store.transact([], [Put("stays", b"")])
    lease = await place.store.grant(60)
    await place.store.transact([], [Put("live/a", b"a", lease), Put("live/b", b"b", lease)])
    place.clock.instant += 50 * SECOND
    await place.move()
    place.clock.instant += 9 * SECOND
    await place.store.sweep()
    assert set(await contents(place.store)) == {"stays", "live/a", "live/b"}
    place.clock.instant += 1 * SECOND
    await place.store.sweep()
    assert set(await contents(place.store)) == {"stays"}


async def test_store_time_does_not_go_back(place: Place) -> None:
    place.clock.instant += 100 * SECOND
    before = await place.store.now()
    await place.store.transact([Below(MARK, b"")], [])  # whatever compares it writes it down
    place.clock.instant -= 50 * SECOND
    await place.move()
    mark = await place.store.get(MARK)
    assert mark is not None
    assert int(mark.value) >= before
    assert await place.store.now() >= before


async def test_writers_lose_nothing_and_watches_list_again(place: Place) -> None:
    """Ten writers count up together while the store is moved; a watch follows."""
    await place.store.transact([], [Put("n", b"0"), *(Put(f"k/{n}", b"x" * 100) for n in range(100))])
    begun = asyncio.Event()
    seen: list[int] = []

    async def write() -> None:
        for _ in range(30):
            while True:
                record = await place.store.get("n")
                assert record is not None
                if (await place.store.transact([Unchanged("n", record.revision)],
                                               [Put("n", b"%d" % (int(record.value) + 1))])).succeeded:
                    break
            begun.set()

    async def follow() -> None:
        while True:
            listing = await place.store.list("n")
            seen.extend(int(r.value) for r in listing.records)
            try:
                async for batch in place.store.watch("n", listing.revision):
                    seen.extend(int(e.value) for e in batch if e.value is not None)
                    if seen[-1] == 300:
                        return
            except Compacted:
                continue

    async def move() -> None:
        await begun.wait()
        await place.move()
        await place.old.close()

    async with asyncio.timeout(6 * DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(follow())
        group.create_task(move())
        for _ in range(10):
            group.create_task(write())
    assert seen == sorted(seen)
    assert seen[-1] == 300
    assert (await contents(place.new))["n"] == b"300"


async def test_what_was_read_before_the_move_never_passes_for_what_is_there_now(place: Place) -> None:
    """The new store counts from one: without a base, a number of the old store would come again."""
    read = {}
    for n in range(10):
        read[n] = (await place.store.transact([], [Put("k", b"%d" % n)])).revision
    await place.move()
    numbers = [r.revision for r in (await place.new.list("")).records]
    assert set(numbers) & set(read.values()), "the numbers do come again"
    for revision in read.values():
        for compare in (Unchanged("k", revision), Born("k", revision)):
            assert not (await place.store.transact([compare], [Put("k", b"lost")])).succeeded
    for key in ("k", MOVED):
        record = await place.new.get(key)
        assert record is not None
        assert not (await place.store.transact([Unchanged(key, record.revision)], [Put(key, b"lost")])).succeeded
    with pytest.raises(Compacted):
        await anext(aiter(place.store.watch("k", 3)))


class Broken(Shifted):
    """A new store in which one value is not what it was told."""

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        return await self.store.transact(compare, [
            Put(one.key, b"other") if isinstance(one, Put) and one.key == "k" else one for one in then])


async def test_a_move_that_fails_anywhere_did_not_happen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.store.transact([], [Put("k", b"v")])
    assert await refusal(place.store.move(place.old, Broken(place.new, 0), place.committed.append)) == "FL-STORE"
    assert not place.committed

    def no_room(_: Moved) -> None:
        raise StoreUnavailable("no room for the note")

    assert await refusal(place.store.move(place.old, place.new, no_room)) == "FL-STORE"
    hanging = asyncio.Event()

    async def hangs() -> Moved:
        hanging.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(moving, "FREEZE_S", 0.2)
    monkeypatch.setattr(moving, "_rest", lambda old, new: hangs())
    given_up = asyncio.create_task(refusal(place.move()))
    await asyncio.wait_for(hanging.wait(), DEADLINE)
    writing = asyncio.create_task(place.store.transact([], [Put("meanwhile", b"")]))
    assert await asyncio.wait_for(given_up, DEADLINE) == "FL-STORE"
    assert (await asyncio.wait_for(writing, DEADLINE)).succeeded
    assert place.store.inner is place.old
    assert await contents(place.store) == {"k": b"v", "meanwhile": b""}


async def test_the_events_of_a_shifted_watch_have_its_numbers(place: Place) -> None:
    await place.store.transact([], [Put("a", b"")])
    await place.move()
    at = (await place.store.list("")).revision
    done = await place.store.transact([], [Put("b", b"1")])
    watch = aiter(place.store.watch("", at))
    assert list(await asyncio.wait_for(anext(watch), DEADLINE)) == [Event("b", b"1", done.revision)]
