"""The move of the store: nothing is lost, nobody is refused, and until it is whole it did not happen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.base.clock import SECOND
from fairlead.cluster import move as moving
from fairlead.cluster.move import MOVED, Leaving, MovableStore, Moved, Shifted, Sweeping, checksum, moved_store
from fairlead.store.protocol import (
    MARK,
    Below,
    Born,
    Compacted,
    Compare,
    Delete,
    Event,
    Listing,
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


class Long:
    """A store that takes too long to read while nobody may write."""

    def __init__(self, store: SQLiteStore, place: Place) -> None:
        self.store = store
        self.place = place
        self.frozen = 0
        self.meanwhile: dict[str, list[Sequence[Operation]]] = {"list": [], "changes": []}
        """What somebody writes just after the store was read so."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def list(self, prefix: str) -> Listing:
        assert self.place.store._open.is_set(), "read while it was frozen"
        found = await self.store.list(prefix)
        await self._meanwhile("list")
        return found

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        if not self.place.store._open.is_set():
            self.frozen += len(then)
        return await self.store.transact(compare, then)

    async def changes(self, after: int) -> tuple[Sequence[Event], int]:
        found = await self.store.changes(after)
        await self._meanwhile("changes")
        return found

    async def _meanwhile(self, what: str) -> None:
        while self.meanwhile[what]:
            await self.store.transact([], self.meanwhile[what].pop(0))


async def test_the_freeze_is_as_long_as_what_has_changed_not_as_what_there_is(place: Place) -> None:
    for n in range(30):
        await place.store.transact([], [Put(f"k/{n}/{m}", b"x") for m in range(100)])
    await place.old.transact([], [Put("was-there", b"")])
    old, new = Long(place.old, place), Long(place.new, place)
    old.meanwhile["changes"] = [[Put("late", b"1"), Put("k/0/0", b"y"), Delete("was-there")]]
    moved = await place.store.move(cast("Leaving", old), cast("Sweeping", new), place.committed.append)
    found = await contents(place.store)
    assert (found["late"], found["k/0/0"], len(found)) == (b"1", b"y", 3001)
    assert "was-there" not in found
    assert (moved.records, moved.checksum) == (3001, checksum(found))
    assert new.frozen == 5, "what has changed, the time, and that it was moved"


async def test_what_lay_in_the_new_store_is_gone_and_much_that_changes_meanwhile_is_there(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await place.old.close()
    place.old = SQLiteStore.open(tmp_path / "old.db", place.clock, history=5)
    place.store = MovableStore(place.old)
    await place.new.transact([], [Put("rubbish", b"")])
    await place.store.transact([], [Put("k", b"1")])
    old = Long(place.old, place)
    old.meanwhile["list"] = [[Put(f"late/{n}", b"")] for n in range(20)]  # more than it remembers
    await place.store.move(cast("Leaving", old), place.new, place.committed.append)
    assert set(await contents(place.store)) == {"k", *(f"late/{n}" for n in range(20))}
    await place.old.close()
    await place.new.close()


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
    monkeypatch.setattr(moving._Copy, "finish", lambda copy: hangs())
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
