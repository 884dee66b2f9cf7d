"""What every backend of the store keeps to. One text; `conftest` says on what it runs."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.base.clock import SECOND
from fairlead.store.protocol import (
    MARK,
    MOST_OPERATIONS,
    Absent,
    Below,
    Born,
    Compacted,
    Compare,
    Delete,
    Equal,
    Event,
    Exists,
    Operation,
    Put,
    Record,
    Store,
    Unchanged,
    mark_value,
)
from tests.contract.backends import Backend, MakeBackend
from tests.contract.conftest import take

DEADLINE = 10  # seconds; everything awaited here comes within milliseconds


def watching(store: Store, prefix: str, after: int) -> "aclosing[AsyncGenerator[Sequence[Event], None]]":
    return aclosing(cast("AsyncGenerator[Sequence[Event], None]", store.watch(prefix, after)))


async def put(store: Store, key: str, value: bytes = b"x", lease: int | None = None) -> int:
    outcome = await store.transact([], [Put(key, value, lease)])
    assert outcome.succeeded
    return outcome.revision


# --- keys, values, revisions


async def test_a_key_is_absent_then_put_then_changed_then_deleted(store: Store) -> None:
    assert await store.get("a") is None
    first = await put(store, "a", b"one")
    assert await store.get("a") == Record("a", b"one", created=first, revision=first)
    second = await put(store, "a", b"two")
    assert await store.get("a") == Record("a", b"two", created=first, revision=second)
    assert (await store.transact([], [Delete("a")])).succeeded
    assert await store.get("a") is None
    again = await put(store, "a", b"")
    assert again > second > first
    assert await store.get("a") == Record("a", b"", created=again, revision=again)


async def test_a_listing_has_exactly_the_prefix_in_byte_order_at_one_revision(store: Store) -> None:
    for key in ("n/b", "n/é", "n/", "n/\U0010ffff", "n/a/c", "n", "m/z", "n0", "n/Z"):
        revision = await put(store, key, key.encode())
    listing = await store.list("n/")
    assert [r.key for r in listing.records] == ["n/", "n/Z", "n/a/c", "n/b", "n/é", "n/\U0010ffff"]
    assert all(r.value == r.key.encode() for r in listing.records)
    assert listing.revision == revision
    assert not (await store.list("n/none")).records
    both = await store.list("n/a/", "m/")
    assert [r.key for r in both.records] == ["m/z", "n/a/c"]
    assert both.revision == revision


async def test_values_are_any_bytes_and_long(store: Store) -> None:
    value = bytes(range(256)) * 2048
    await put(store, "blob", value)
    record = await store.get("blob")
    assert record is not None
    assert record.value == value


# --- transactions


@pytest.mark.parametrize(("compare", "holds"), [
    (Absent("none"), True), (Absent("k"), False),
    (Exists("k"), True), (Exists("none"), False), (Exists("empty"), True),
    (Equal("k", b"5"), True), (Equal("k", b"50"), False), (Equal("none", b""), False), (Equal("empty", b""), True),
    (Below("k", b"6"), True), (Below("k", b"5"), False), (Below("k", b"4"), False), (Below("k", b"50"), True),
    (Below("none", b"6"), False), (Below("empty", b"\0"), True), (Below("k", b"\xff"), True),
    (Unchanged("none", 0), False),
])
async def test_each_compare_holds_or_not(store: Store, compare: Compare, holds: bool) -> None:
    await put(store, "k", b"5")
    await put(store, "empty", b"")
    assert (await store.transact([compare], [Put("done", b"")])).succeeded is holds
    assert (await store.get("done") is not None) is holds


async def test_unchanged_sees_a_rewrite_of_the_same_value_and_a_rebirth(store: Store) -> None:
    read = await put(store, "k", b"v")
    assert (await store.transact([Unchanged("k", read)], [])).succeeded
    await put(store, "k", b"v")
    assert not (await store.transact([Unchanged("k", read)], [])).succeeded
    await store.transact([], [Delete("k")])
    assert not (await store.transact([Unchanged("k", read)], [])).succeeded


async def test_born_sees_a_rebirth_and_no_rewrite(store: Store) -> None:
    born = await put(store, "k", b"v")
    last = await put(store, "k", b"w")
    assert (await store.transact([Born("k", born)], [])).succeeded
    assert not (await store.transact([Born("k", last)], [])).succeeded
    await store.transact([], [Delete("k")])
    assert not (await store.transact([Born("k", born)], [])).succeeded
    assert not (await store.transact([Born("k", 0)], [])).succeeded
    await put(store, "k", b"v")
    assert not (await store.transact([Born("k", born)], [])).succeeded


async def test_one_compare_that_fails_stops_every_operation(store: Store) -> None:
    before = await put(store, "k", b"v")
    outcome = await store.transact([Exists("k"), Equal("k", b"other"), Absent("none")],
                                   [Put("a", b""), Delete("k"), Put("b", b"")])
    assert not outcome.succeeded
    assert outcome.revision == before
    assert [r.key for r in (await store.list("")).records if r.key != MARK] == ["k"]


async def test_operations_of_one_transaction_share_one_revision(store: Store) -> None:
    await put(store, "gone")
    outcome = await store.transact([], [Put("a", b""), Delete("gone"), Put("b", b"")])
    a, b = await store.get("a"), await store.get("b")
    assert a is not None
    assert b is not None
    assert a.revision == b.revision == outcome.revision


async def test_compares_see_the_state_before_the_operations(store: Store) -> None:
    assert (await store.transact([Absent("k")], [Put("k", b"")])).succeeded
    assert (await store.transact([Exists("k")], [Delete("k")])).succeeded


async def test_only_comparing_changes_no_revision(store: Store) -> None:
    revision = await put(store, "k")
    assert (await store.transact([Exists("k")], [])).revision == revision


async def test_a_transaction_has_a_size_and_writes_a_key_once(store: Store) -> None:
    puts = [Put(f"k/{n}", b"") for n in range(MOST_OPERATIONS + 1)]
    compares = [Absent(f"k/{n}") for n in range(MOST_OPERATIONS + 1)]
    with pytest.raises(ValueError, match="at most"):
        await store.transact([], puts)
    with pytest.raises(ValueError, match="at most"):
        await store.transact(compares, [])
    with pytest.raises(ValueError, match="once"):
        await store.transact([], [Put("a", b"1"), Delete("a")])
    assert not [r for r in (await store.list("")).records if r.key != MARK]
    assert (await store.transact(compares[1:], puts[1:])).succeeded


async def test_concurrent_increments_lose_nothing(store: Store) -> None:
    await put(store, "n", b"0")

    async def increment() -> None:
        while True:
            record = await store.get("n")
            assert record is not None
            if (await store.transact([Unchanged("n", record.revision)],
                                     [Put("n", b"%d" % (int(record.value) + 1))])).succeeded:
                return

    await asyncio.gather(*(increment() for _ in range(30)))
    record = await store.get("n")
    assert record is not None
    assert record.value == b"30"


async def test_of_many_claims_one_wins(store: Store) -> None:
    outcomes = await asyncio.gather(*(store.transact([Absent("claim")], [Put("claim", b"%d" % n)]) for n in range(20)))
    assert sum(o.succeeded for o in outcomes) == 1


async def test_everything_answered_is_there_after_a_restart(backend: Backend) -> None:
    first = await put(backend.store, "a", b"1")
    lease = await backend.store.grant(100)
    await put(backend.store, "kept")
    last = await put(backend.store, "leased", lease=lease)
    await backend.stop()
    await backend.start()
    assert await backend.store.get("a") == Record("a", b"1", first, first)
    listing = await backend.store.list("")
    assert [r.key for r in listing.records if r.key != MARK] == ["a", "kept", "leased"]
    assert listing.revision >= last
    assert await put(backend.store, "b") > last
    async with watching(backend.store, "", first) as watch:
        assert [[e.key for e in batch] for batch in await take(watch, 2)] == [["kept"], ["leased"]]
    await backend.pass_time(100)
    assert await backend.store.get("leased") is None


# --- time


async def test_a_deadline_holds_until_it_has_passed(backend: Backend) -> None:
    deadline = Below(MARK, mark_value(await backend.store.now() + 10 * SECOND))
    assert (await backend.store.transact([deadline], [Put("in-time", b"")])).succeeded
    await backend.pass_time(9)
    assert (await backend.store.transact([deadline], [])).succeeded
    await backend.pass_time(1)
    assert not (await backend.store.transact([deadline], [Put("late", b"")])).succeeded
    assert await backend.store.get("late") is None


async def test_store_time_goes_on_and_is_what_the_mark_holds(backend: Backend) -> None:
    before = await backend.store.now()
    await backend.pass_time(5)
    await backend.store.transact([Below(MARK, b"")], [])
    mark = await backend.store.get(MARK)
    assert mark is not None
    assert mark.value == mark_value(int(mark.value))
    assert before + 5 * SECOND <= int(mark.value) <= await backend.store.now()


# --- leases


async def test_keys_of_a_lease_go_when_it_ends_and_watches_hear_it(backend: Backend) -> None:
    store = backend.store
    lease = await store.grant(10)
    await store.transact([], [Put("l/a", b"", lease), Put("l/b", b"", lease), Put("l/stays", b"")])
    put_at = (await store.list("l/")).revision
    await backend.pass_time(9)
    assert len((await store.list("l/")).records) == 3
    await backend.pass_time(1)
    assert await store.get("l/a") is None
    assert [r.key for r in (await store.list("l/")).records] == ["l/stays"]
    async with watching(store, "l/", put_at) as watch:
        assert [(e.key, e.value) for e in (await take(watch, 1))[0]] == [("l/a", None), ("l/b", None)]


async def test_a_key_put_again_is_under_its_new_lease_or_none(backend: Backend) -> None:
    store = backend.store
    short, long = await store.grant(5), await store.grant(50)
    await store.transact([], [Put(key, b"", short) for key in ("detached", "moved", "left")])
    await store.transact([], [Put("detached", b""), Put("moved", b"", long)])
    await backend.pass_time(6)
    assert [r.key for r in (await store.list("")).records if r.key != MARK] == ["detached", "moved"]
    await backend.pass_time(50)
    assert [r.key for r in (await store.list("")).records if r.key != MARK] == ["detached"]


async def test_a_put_under_an_ended_lease_fails_like_a_compare(backend: Backend) -> None:
    lease = await backend.store.grant(5)
    await backend.pass_time(6)
    outcome = await backend.store.transact([], [Put("a", b"", lease), Put("b", b"")])
    assert not outcome.succeeded
    assert await backend.store.get("b") is None


async def test_a_lease_lasts_a_second_at_least(store: Store) -> None:
    with pytest.raises(ValueError, match="second"):
        await store.grant(0)


# --- watches


async def test_a_watch_tells_every_change_once_in_order_one_batch_a_transaction(store: Store) -> None:
    await put(store, "w/old")
    start = await put(store, "other")
    async with watching(store, "w/", start) as watch:
        waiting = asyncio.create_task(take(watch, 3))
        one = (await store.transact([], [Put("w/a", b"1"), Put("x", b""), Delete("w/old")])).revision
        await put(store, "unrelated")
        two = await put(store, "w/a", b"2")
        three = (await store.transact([], [Delete("w/a"), Delete("w/never")])).revision
        assert await asyncio.wait_for(waiting, DEADLINE) == [
            [Event("w/a", b"1", one), Event("w/old", None, one)],
            [Event("w/a", b"2", two)],
            [Event("w/a", None, three)]]


async def test_a_waiting_watch_is_woken(store: Store) -> None:
    async with watching(store, "w/", 0) as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await store.get("a")  # long enough for the watch to have found nothing
        await store.get("a")
        revision = await put(store, "w/a")
        assert await asyncio.wait_for(waiting, DEADLINE) == [[Event("w/a", b"x", revision)]]


async def test_a_watch_resumes_where_another_ended(store: Store) -> None:
    revisions = [await put(store, "w/a", b"%d" % n) for n in range(10)]
    for position, revision in enumerate(revisions[:-1]):
        async with watching(store, "w/", revision) as watch:
            seen = await take(watch, 9 - position)
        assert [batch[0].revision for batch in seen] == revisions[position + 1:]


async def test_many_watches_during_concurrent_writing_lose_and_double_nothing(store: Store) -> None:
    async def follow() -> list[int]:
        async with watching(store, "w/", 0) as watch:
            return [batch[0].revision for batch in await take(watch, 30)]

    following = [asyncio.create_task(follow()) for _ in range(10)]
    written = await asyncio.gather(*(put(store, f"w/{n % 7}", b"%d" % n) for n in range(30)))
    for task in following:
        assert await asyncio.wait_for(task, DEADLINE) == sorted(written)


async def test_a_watch_ends_cleanly_when_cancelled(store: Store) -> None:
    async def follow() -> None:
        async with watching(store, "w/", 0) as watch:
            await take(watch, 2)

    task = asyncio.create_task(follow())
    await put(store, "w/a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await put(store, "w/b")  # the store goes on


async def test_a_watch_from_before_the_history_is_told_so(backend: Backend) -> None:
    revision = await put(backend.store, "w/a")
    await backend.forget()
    async with watching(backend.store, "w/", revision - 1) as watch:
        with pytest.raises(Compacted):
            await take(watch, 1)
    listing = await backend.store.list("w/")
    async with watching(backend.store, "w/", listing.revision) as watch:
        revision = await put(backend.store, "w/a", b"2")
        assert await take(watch, 1) == [[Event("w/a", b"2", revision)]]


async def test_a_watch_that_keeps_up_is_not_overtaken_by_the_end_of_history(backend: Backend) -> None:
    async with watching(backend.store, "quiet/", 0) as watch:
        await put(backend.store, "quiet/first")
        await take(watch, 1)
        waiting = asyncio.create_task(take(watch, 1))
        for _ in range(5):
            await backend.store.get("a")  # by now the watch has found nothing more and waits
        await backend.forget()
        await backend.forget()
        revision = await put(backend.store, "quiet/a")
        assert await asyncio.wait_for(waiting, DEADLINE) == [[Event("quiet/a", b"x", revision)]]


# --- against a model

KEYS = st.sampled_from(["a", "a/b", "a/c", "b"])
VALUES = st.sampled_from([b"", b"1", b"2", b"\xff"])
REVISIONS = st.integers(0, 12)
COMPARES = st.one_of(st.builds(Absent, KEYS), st.builds(Exists, KEYS), st.builds(Equal, KEYS, VALUES),
                     st.builds(Below, KEYS, VALUES), st.builds(Unchanged, KEYS, REVISIONS),
                     st.builds(Born, KEYS, REVISIONS))
OPERATIONS = st.lists(st.one_of(st.builds(Put, KEYS, VALUES), st.builds(Delete, KEYS)),
                      min_size=1, max_size=3, unique_by=lambda operation: operation.key)
TRANSACTIONS = st.lists(st.tuples(st.lists(COMPARES, max_size=1), OPERATIONS), max_size=12)


@dataclass
class Model:
    """The store as a dictionary."""

    records: dict[str, Record] = field(default_factory=dict)
    batches: list[list[Event]] = field(default_factory=list)

    def holds(self, compare: Compare) -> bool:
        record = self.records.get(compare.key)
        match compare:
            case Absent():
                return record is None
            case Exists():
                return record is not None
            case Unchanged(revision=revision):
                return record is not None and record.revision == revision
            case Born(created=created):
                return record is not None and record.created == created
            case Equal(value=value):
                return record is not None and record.value == value
            case Below(value=value):
                return record is not None and record.value < value

    def apply(self, then: Sequence[Operation], revision: int) -> None:
        events = []
        for operation in then:
            old = self.records.pop(operation.key, None)
            if isinstance(operation, Put):
                created = old.created if old else revision
                self.records[operation.key] = Record(operation.key, operation.value, created, revision)
                events.append(Event(operation.key, operation.value, revision))
            elif old:
                events.append(Event(operation.key, None, revision))
        if events:
            self.batches.append(events)


@given(transactions=TRANSACTIONS)
@settings(max_examples=25, deadline=None, database=None)
def test_the_store_is_a_dictionary_with_revisions(make_backend: MakeBackend,
                                                  transactions: list[tuple[list[Compare], list[Operation]]]) -> None:
    async def run(folder: Path) -> None:
        backend = make_backend(folder)
        await backend.start()
        try:
            model, began = Model(), (await backend.store.list("")).revision
            for compare, then in transactions:
                outcome = await backend.store.transact(compare, then)
                assert outcome.succeeded is all(model.holds(c) for c in compare)
                if outcome.succeeded:
                    model.apply(then, outcome.revision)
                assert [r for r in (await backend.store.list("")).records if r.key != MARK] == sorted(
                    model.records.values(), key=lambda r: r.key)
            assert (await backend.store.list("a/")).records == sorted(
                (r for r in model.records.values() if r.key.startswith("a/")), key=lambda r: r.key)
            async with watching(backend.store, "", began) as watch:
                assert await take(watch, len(model.batches)) == model.batches
        finally:
            await backend.stop()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
