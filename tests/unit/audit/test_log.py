"""The log in the store: a decision and its record are one step, whoever else writes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from fairlead.audit.log import MOST_SOURCES, PAGE, TOGETHER, TRIES, AuditLog, RefusalCounter, network_of, record_key
from fairlead.audit.record import Entry
from fairlead.base.clock import MINUTE, SECOND, SystemClock
from fairlead.base.errors import Refused
from fairlead.store.protocol import (
    Absent,
    Compare,
    Delete,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
)
from fairlead.store.sqlite import SQLiteStore

ENTRY = Entry("join.reserved", "se-1", "admin", {"token": "abc"})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    opened = SQLiteStore.open(tmp_path / "store.db", SystemClock())
    yield opened
    await opened.close()


class Raced:
    """A store on which another writer of the same chain is faster, for a number of times."""

    def __init__(self, store: SQLiteStore, times: int) -> None:
        self._store = store
        self._times = times
        self.get = store.get
        self.list = store.list
        self.now = store.now

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        if self._times:
            self._times -= 1
            await AuditLog(self._store, "ctl-1").append(Entry("other", "", "another process"))
        return await self._store.transact(compare, then)


async def test_a_decision_and_its_records_are_one_transaction(store: SQLiteStore) -> None:
    log = AuditLog(store, "ctl-1")
    outcome = await log.append_with([Absent("k")], [Put("k", b"v")], [ENTRY, Entry("second", "s", "b")])
    assert outcome.succeeded
    written = [await store.get(key) for key in ("k", record_key("ctl-1", 1), record_key("ctl-1", 2))]
    assert {record.revision for record in written if record} == {outcome.revision}
    first, second = await log.records(10)
    assert (first.seq, first.event, first.subject, first.by, first.details) == (
        1, "join.reserved", "se-1", "admin", {"token": "abc"})
    assert (second.seq, second.event, second.previous) == (2, "second", first.head().hash)
    assert first.node == "ctl-1"
    assert abs(first.time - await store.now()) < 60 * SECOND
    assert await log.verify() == {"ctl-1": second.head()}


async def test_a_failed_compare_records_and_does_nothing(store: SQLiteStore) -> None:
    log = AuditLog(store, "ctl-1")
    await log.append_with([], [Put("k", b"v")], [ENTRY])
    assert not (await log.append_with([Absent("k")], [Put("other", b"")], [ENTRY])).succeeded
    assert await store.get("other") is None
    assert len(await log.records(10)) == 1
    with pytest.raises(ValueError, match="nothing to record"):
        await log.append_with([], [Put("k", b"")], [])


async def test_a_lost_race_for_the_head_is_run_again(store: SQLiteStore) -> None:
    log = AuditLog(Raced(store, TRIES - 1), "ctl-1")
    assert (await log.append_with([Absent("k")], [Put("k", b"v")], [ENTRY])).succeeded
    assert [r.event for r in await log.records(20)] == ["other"] * (TRIES - 1) + ["join.reserved"]
    await log.verify()


async def test_a_lost_race_does_not_hide_that_the_callers_compare_failed(store: SQLiteStore) -> None:
    await store.transact([], [Put("k", b"")])
    outcome = await AuditLog(Raced(store, 2), "ctl-1").append_with([Absent("k")], [Put("k", b"mine")], [ENTRY])
    assert not outcome.succeeded
    assert [r.event for r in await AuditLog(store, "ctl-1").records(20)] == ["other", "other"]


async def test_the_race_is_given_up_at_some_point(store: SQLiteStore) -> None:
    with pytest.raises(StoreUnavailable, match="moved on"):
        await AuditLog(Raced(store, 1000), "ctl-1").append_with([], [Put("k", b"")], [ENTRY])
    assert await store.get("k") is None


async def test_many_decisions_at_once_are_one_chain_and_race_nobody(store: SQLiteStore) -> None:
    log = AuditLog(store, "ctl-1")
    before = (await store.list("")).revision
    outcomes = await asyncio.gather(*(log.append_with([Absent(f"k/{n % 20}")], [Put(f"k/{n % 20}", b"")], [ENTRY])
                                      for n in range(40)))
    assert sum(outcome.succeeded for outcome in outcomes) == 20
    assert (await log.verify())["ctl-1"].seq == 20
    assert (await store.list("")).revision == before + 20


async def test_each_node_has_its_chain_and_records_of_all_are_by_time(store: SQLiteStore) -> None:
    one, ten = AuditLog(store, "ctl-1"), AuditLog(store, "ctl-10")
    for number in range(4):
        await one.append(Entry(f"one.{number}", "", ""))
        await ten.append(Entry(f"ten.{number}", "", ""))
    assert [r.event for r in await one.records(3)] == ["ten.2", "one.3", "ten.3"]
    assert [r.event for r in await one.records(2, "ctl-1")] == ["one.2", "one.3"]
    assert [r.event for r in await one.records(100, "ctl-10")] == [f"ten.{n}" for n in range(4)]
    assert await one.records(0) == []
    assert {node: head.seq for node, head in (await ten.verify()).items()} == {"ctl-1": 4, "ctl-10": 4}


async def test_more_entries_than_fit_a_transaction_are_appended_in_order(store: SQLiteStore) -> None:
    log = AuditLog(store, "ctl-1")
    await log.append(*(Entry(f"e.{n}", "", "") for n in range(2 * TOGETHER + 1)))
    assert [r.event for r in await log.records(1000)] == [f"e.{n}" for n in range(2 * TOGETHER + 1)]


THIRD = record_key("ctl-1", 3)


async def test_records_are_read_many_at_once_wherever_they_begin_and_end(
        store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cluster each question is a way to the leader and back: one for each record took minutes."""
    log = AuditLog(store, "ctl-1")
    written = [f"e.{n}" for n in range(2 * PAGE + 5)]
    await log.append(*(Entry(event, "s", "b") for event in written))
    asked: list[str] = []
    listed = store.list

    async def watched(prefix: str) -> Listing:
        asked.append(prefix)
        return await listed(prefix)

    async def one_by_one(key: str) -> Record | None:
        raise AssertionError(key)

    monkeypatch.setattr(store, "list", watched)
    monkeypatch.setattr(store, "get", one_by_one)
    for limit in (1, 6, 7, PAGE, PAGE + 5, PAGE + 6, 2 * PAGE + 5, 10_000):
        assert [r.event for r in await log.records(limit)] == written[-limit:]
        assert len(asked) <= 4, "the heads, and a page each"
        asked.clear()


@pytest.mark.parametrize(("tamper", "where"), [
    ([Delete(THIRD)], "record 3 of ctl-1"),
    ([Delete(record_key("ctl-1", 5))], "record 5 of ctl-1"),
    ([Put(THIRD, b"{}")], "record 3 of ctl-1"),
    ([Delete("audit-head/ctl-1")], "record 1 of ctl-1"),
    ([Put("audit-head/ctl-1", b'{"hash":"","seq":true}')], "the end of a chain"),
    ([Put("audit-head/ctl-2", b'{"hash":"00","seq":2}')], "record 1 of ctl-2"),
])
async def test_what_was_done_to_the_log_shows(store: SQLiteStore, tamper: Sequence[Operation], where: str) -> None:
    log = AuditLog(store, "ctl-1")
    await log.append(*[ENTRY] * 5)
    await store.transact([], tamper)
    with pytest.raises(Refused, match=where) as caught:
        await log.verify()
    assert caught.value.code == "FL-AUDIT-BROKEN"


async def test_two_records_that_changed_places_show(store: SQLiteStore) -> None:
    log = AuditLog(store, "ctl-1")
    await log.append(*[ENTRY] * 5)
    second, third = await store.get(record_key("ctl-1", 2)), await store.get(THIRD)
    assert second is not None
    assert third is not None
    await store.transact([], [Put(second.key, third.value), Put(third.key, second.value)])
    with pytest.raises(Refused, match="record 2 of ctl-1"):
        await log.verify()


async def test_a_record_that_is_kept_where_nobody_looks_shows(store: SQLiteStore) -> None:
    log = AuditLog(store, "ctl-1")
    await log.append(*[ENTRY] * 5)
    last = await store.get(record_key("ctl-1", 5))
    assert last is not None
    await store.transact([], [Delete(last.key), Put("audit/ctl-1/5", last.value)])
    with pytest.raises(Refused, match="record 5 of ctl-1"):
        await log.verify()


async def test_what_is_appended_during_verification_does_not_disturb_it(store: SQLiteStore) -> None:
    log = AuditLog(store, "ctl-1")

    async def write() -> None:
        for _ in range(30):
            await log.append(ENTRY)

    writing = asyncio.create_task(write())
    while not writing.done():
        await AuditLog(store, "ctl-2").verify()
    await writing


# --- refusals of strangers


@pytest.mark.parametrize(("source", "network"), [
    ("192.0.2.77", "192.0.2.0/24"), ("::ffff:192.0.2.1", "192.0.2.0/24"),
    ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"), ("fe80::1%eth0", "fe80::/56"), ("", "other"), ("unix", "other"),
])
def test_sources_are_counted_by_network(source: str, network: str) -> None:
    assert network_of(source) == network


def test_refusals_are_one_entry_per_network_and_minute() -> None:
    counter = RefusalCounter()
    for now in (0, SECOND, 59 * SECOND, MINUTE):
        counter.count("192.0.2.1", "FL-JOIN-REFUSED", now)
        counter.count("192.0.2.200", "FL-JOIN-BUSY", now)
    counter.count("198.51.100.1", "FL-JOIN-REFUSED", SECOND)
    assert counter.flush(59 * SECOND) == []
    assert [(e.subject, dict(e.details)) for e in counter.flush(MINUTE)] == [
        ("192.0.2.0/24", {"minute": "1970-01-01T00:00:00Z", "FL-JOIN-REFUSED": 3, "FL-JOIN-BUSY": 3}),
        ("198.51.100.0/24", {"minute": "1970-01-01T00:00:00Z", "FL-JOIN-REFUSED": 1})]
    assert counter.flush(MINUTE) == []
    assert [e.details["minute"] for e in counter.flush(2 * MINUTE)] == ["1970-01-01T00:01:00Z"]


def test_a_flood_from_everywhere_is_bounded_and_loses_no_count() -> None:
    counter = RefusalCounter()
    flood = 5 * MOST_SOURCES
    for number in range(flood):
        counter.count(f"10.{number // 256}.{number % 256}.1", "FL-JOIN-REFUSED", number * SECOND // 256)
    entries = counter.flush(10 * MINUTE)
    assert len(entries) == MOST_SOURCES + 1
    assert sum(int(e.details["FL-JOIN-REFUSED"]) for e in entries) == flood
    assert counter.flush(20 * MINUTE) == []


def test_minutes_that_are_not_flushed_do_not_pile_up() -> None:
    counter = RefusalCounter()
    for minute in range(10):
        for number in range(MOST_SOURCES):
            counter.count(f"10.{number // 256}.{number % 256}.1", "r", minute * MINUTE)
    assert len(counter.flush(11 * MINUTE)) == MOST_SOURCES + 9
