"""What only the store of a cluster has: answers that get lost, members that die or freeze, listings in pages."""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.base.clock import SECOND
from fairlead.store import etcd, gateway
from fairlead.store.etcd import OURS, EtcdStore
from fairlead.store.gateway import Gateway, GatewayUnavailable, encoded
from fairlead.store.protocol import (
    MARK,
    Absent,
    Compare,
    Delete,
    Event,
    Exists,
    Operation,
    Put,
    StoreUnavailable,
    Unchanged,
    mark_value,
)
from tests.conftest import need
from tests.contract.backends import EtcdBackend
from tests.contract.conftest import take
from tests.contract.etcd import Member, answers, running

DEADLINE = 30  # seconds; only what fails takes so long


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[EtcdBackend]:
    backend = EtcdBackend(tmp_path)
    try:
        await backend.start()
        yield backend
    finally:
        await backend.stop()


def watching(store: EtcdStore, prefix: str, after: int) -> "aclosing[AsyncGenerator[Sequence[Event], None]]":
    return aclosing(cast("AsyncGenerator[Sequence[Event], None]", store.watch(prefix, after)))


@asynccontextmanager
async def store_on(made: Gateway, deadline_s: float = DEADLINE) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(made, deadline_s=deadline_s, quiet_s=1.5)
    try:
        yield store
    finally:
        await store.close()
        await made.close()


# --- somebody in between loses answers


class Between:
    """Passes requests on to a member. What becomes of the next transactions stands in *fates*: ``pass``, ``swallow``
    (it happens, its answer is lost), ``drop`` (it is lost), ``late`` (it is kept, its sender gives up); or what happens
    while it is lost.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.fates: list[str | Callable[[], Awaitable[None]]] = []
        self.late: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length
            writer.write(await self._meet_its_fate(head + await reader.readexactly(int(length[1]))))
        writer.close()

    async def _meet_its_fate(self, request: bytes) -> bytes:
        """The answer that its sender gets; empty: none."""
        match self.fates.pop(0) if self.fates and b"/v3/kv/txn" in request else "pass":
            case "swallow":
                await self.pass_on(request)
            case "late":
                self.late.append(request)
            case "pass":
                return await self.pass_on(request)
            case str():
                pass
            case happens:
                await happens()
        return b""

    async def pass_on(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request.replace(b"Connection: keep-alive", b"Connection: close"))
        answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def in_between(member: Member) -> AsyncIterator[tuple[Between, EtcdStore]]:
    """Somebody in between, and a store that has a slot already and reaches the member through him only."""
    between = Between(int(member.endpoint.rpartition(":")[2]))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(between.serve, "127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        store = await stack.enter_async_context(store_on(Gateway([endpoint])))
        await store.transact([], [Put("first", b"")])
        yield between, store


@pytest.mark.parametrize("fates", [
    ["swallow"], ["drop"], ["late"],
    ["swallow", "swallow"], ["swallow", "drop"], ["swallow", "late"],  # what became of it is asked, and lost as well
    ["drop", "swallow"], ["late", "swallow", "swallow"], ["late", "late", "late"],
    ["drop", "pass", "swallow"], ["late", "pass", "late", "late"],  # it is void, and the second try is lost
], ids=" ".join)
async def test_a_transaction_happens_once_whatever_gets_lost(alone: EtcdBackend, fates: list[str]) -> None:
    async with in_between(alone.member) as (between, store):
        before = (await store.list("")).revision
        between.fates = [*fates]
        outcome = await store.transact([], [Put("k", b"1")])
        assert outcome.succeeded
        assert not between.fates
        assert (await alone.store.transact([], [Put("k", b"2")])).succeeded
        for request in between.late:  # they arrive after all
            assert b'"succeeded":true' not in await between.pass_on(request)
        await alone.store.transact([], [Put("end", b"")])
        async with watching(alone.store, "", before) as watch:
            assert [(e.key, e.value) for (e,) in await take(watch, 3)] == [("k", b"1"), ("k", b"2"), ("end", b"")]
        async with watching(alone.store, "", before) as watch:
            assert [e.revision for (e,) in await take(watch, 1)] == [outcome.revision]


@pytest.mark.parametrize("fates", [["swallow"], ["drop"], ["late"], ["late", "drop"]], ids=" ".join)
async def test_a_compare_decides_once_whatever_gets_lost(alone: EtcdBackend, fates: list[str]) -> None:
    async with in_between(alone.member) as (between, store):
        between.fates = [*fates]
        assert (await store.transact([Absent("claim")], [Put("claim", b"mine")])).succeeded
        between.fates = [*fates]
        assert not (await store.transact([Absent("claim")], [Put("claim", b"theirs")])).succeeded
        between.fates = [*fates]
        assert not (await store.transact([], [Put("claim", b"theirs", OURS - 1)])).succeeded  # no such lease
        await alone.store.transact([], [Delete("claim")])
        for request in between.late:  # what would hold by now was answered with no
            await between.pass_on(request)
        assert await store.get("claim") is None


async def test_it_is_not_called_done_or_undone_when_what_would_tell_is_gone(alone: EtcdBackend) -> None:
    async with in_between(alone.member) as (between, store):
        await end_slots(alone)
        assert (await store.transact([], [Put("k", b"1")])).succeeded  # nothing was under way: there are new slots
        between.fates = ["swallow", lambda: end_slots(alone)]
        with pytest.raises(StoreUnavailable, match="gone"):
            await store.transact([], [Put("k", b"2")])
        assert (await store.transact([], [Put("k", b"3")])).succeeded


async def end_slots(backend: EtcdBackend) -> None:
    """The leases of all slots end before their time."""
    async with gateway_to(backend.member) as made:
        for lease in (await made.call("lease/leases", {}))["leases"]:
            await made.call("lease/revoke", lease)


@asynccontextmanager
async def gateway_to(*members: Member) -> AsyncIterator[Gateway]:
    made = Gateway([member.endpoint for member in members])
    try:
        yield made
    finally:
        await made.close()


async def test_nobody_waits_longer_than_the_deadline(alone: EtcdBackend) -> None:
    async with store_on(Gateway([alone.member.endpoint], timeout_s=0.3), deadline_s=1) as store:
        await store.transact([], [Put("k", b"1")])
        alone.member.signal(signal.SIGSTOP)
        asked = (store.transact([], [Put("k", b"2")]), store.transact([Exists("k")], []), store.get("k"),
                 store.list(""), store.grant(5), store.now())
        for found in await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), DEADLINE):
            assert isinstance(found, StoreUnavailable)
        alone.member.signal(signal.SIGCONT)
        assert (await store.transact([], [Put("k", b"3")])).succeeded
        async with watching(store, "", 0) as watch:
            waiting = asyncio.ensure_future(take(watch, 100))
            await store.close()
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(waiting, DEADLINE)
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.get("k")


# --- leases


async def test_no_put_slips_in_between_a_deadline_and_the_sweep(alone: EtcdBackend) -> None:
    lease = await alone.store.grant(5)
    alone.clock.instant += 5 * SECOND - 1
    await alone.store.transact([], [Put(MARK, mark_value(alone.clock.instant))])
    assert (await alone.store.transact([], [Put("k", b"", lease)])).succeeded
    alone.clock.instant += 1
    await alone.store.transact([], [Put(MARK, mark_value(alone.clock.instant))])
    assert not (await alone.store.transact([], [Put("k", b"", lease)])).succeeded


async def test_sweeping_ends_no_lease_of_somebody_who_uses_etcds_time(alone: EtcdBackend) -> None:
    async with gateway_to(alone.member) as made:
        await made.call("lease/grant", {"ID": "77", "TTL": "1000"})
        await alone.store.grant(5)
        await alone.pass_time(1_000_000)
        left = [int(lease["ID"]) for lease in (await made.call("lease/leases", {}))["leases"]]
    assert 77 in left
    assert all(lease < OURS for lease in left)


# --- listings and watches in pieces


class Meddled(Gateway):
    """A gateway that is interfered with."""

    times = 0
    forgets = False

    async def stream(self, path: str, body: Mapping[str, Any], *,
                     quiet_s: float | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Each connection ends after the first answer that holds anything; every other one before it."""
        self.times += 1
        async for answer in super().stream(path, body, quiet_s=quiet_s):
            yield answer
            if self.times % 2 or ("events" in answer and not answer.get("fragment")):
                raise GatewayUnavailable("cut")

    async def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """After a first page somebody writes, and the history is forgotten."""
        answer = await super().call(path, body, timeout_s=timeout_s)
        if answer.get("more") and not self.times:
            self.times = 1
            for key in (b"d/l/00", b"d/l/99"):
                put = await super().call("kv/put", {"key": encoded(key), "value": encoded(b"new")})
            if self.forgets:
                await super().call("kv/compaction", {"revision": put["header"]["revision"]})
        return answer


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_listing_in_pages_is_of_one_revision(alone: EtcdBackend, monkeypatch: pytest.MonkeyPatch,
                                                     forgets: bool) -> None:
    monkeypatch.setattr(etcd, "PAGE", 3)
    keys = [f"l/{n:02}" for n in range(1, 11)]
    last = [await alone.store.transact([], [Put(key, b"old")]) for key in keys][-1]
    meddled = Meddled([alone.member.endpoint])
    meddled.forgets = forgets
    async with store_on(meddled) as store:
        listing = await store.list("l/")
    if forgets:  # what was begun cannot be finished; another beginning can
        assert [r.key for r in listing.records] == ["l/00", *keys, "l/99"]
        assert listing.revision == last.revision + 2
    else:
        assert [r.key for r in listing.records] == keys
        assert listing.revision == last.revision


class Slow(Gateway):
    """Each page takes its time."""

    async def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        if path == "kv/range":
            await asyncio.sleep(0.3)
        return await super().call(path, body, timeout_s=timeout_s)


async def test_a_long_listing_may_take_longer_than_the_deadline_of_one_question(
        alone: EtcdBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "PAGE", 1)
    keys = [f"{part}/{n}" for part in "ab" for n in range(3)]
    await alone.store.transact([], [Put(key, b"") for key in keys])
    async with store_on(Slow([alone.member.endpoint]), deadline_s=1.5) as store:
        meanwhile = asyncio.ensure_future(store.list("b/", "a/"))
        await asyncio.sleep(0.5)
        await alone.store.transact([], [Put("b/0", b"new"), Put("b/3", b"")])
        listing = await meanwhile
    assert [r.key for r in listing.records] == keys
    assert {r.value for r in listing.records} == {b""}, "all is of one revision"


async def test_long_records_are_listed_in_smaller_pages(alone: EtcdBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MOST_ANSWER", 20_000)
    for n in range(10):
        await alone.store.transact([], [Put(f"l/{n}", b"x" * 5000)])
    assert [len(r.value) for r in (await alone.store.list("l/")).records] == [5000] * 10


@pytest.mark.whole
async def test_a_watch_that_is_cut_again_and_again_tells_everything_once(alone: EtcdBackend) -> None:
    """More revisions than etcd puts into one answer, and more bytes than it puts into one piece."""
    long = [Put(f"w/long/{n}", b"x" * 400_000) for n in range(3)]  # five of these are a piece
    async with gateway_to(alone.member) as made:
        for n in range(1050):
            await made.call("kv/put", {"key": encoded(b"d/w/%d" % (n % 7)), "value": encoded(b"%d" % n)})
    ends = [(await alone.store.transact([], long)).revision for _ in range(4)]
    batches = 1050 + len(ends)
    async with store_on(Meddled([alone.member.endpoint])) as store, watching(store, "w/", 0) as watch:
        seen = await asyncio.wait_for(take(watch, batches), DEADLINE)
        revisions = [batch[0].revision for batch in seen]
        assert revisions == sorted(set(revisions))
        assert [len(batch) for batch in seen] == [1] * 1050 + [3] * len(ends)
        assert revisions[-len(ends):] == ends


@pytest.mark.whole
async def test_a_quiet_watch_that_changes_members_is_not_overtaken_by_the_end_of_history(alone: EtcdBackend) -> None:
    """It has been told meanwhile how far there was nothing to tell."""
    async with store_on(Gateway([alone.member.endpoint])) as store, watching(store, "w/", 0) as watch:
        await store.transact([], [Put("w/a", b"")])
        await take(watch, 1)
        heard = asyncio.ensure_future(take(watch, 1))
        changed = await store.transact([], [Put("elsewhere", b"")])
        second = {"key": encoded(b"d/w/"), "start_revision": str(changed.revision), "progress_notify": True}
        async with gateway_to(alone.member) as made, aclosing(
                made.stream("watch", {"create_request": second})) as told:
            for _ in range(4):  # it was made, and three times: nothing new. The first watch has heard it as well
                await anext(told)
        await alone.forget()
        alone.member.stop()
        alone.member.start()
        last = await store.transact([], [Put("w/a", b"2")])
        assert await asyncio.wait_for(heard, DEADLINE) == [[Event("w/a", b"2", last.revision)]]


# --- members die and freeze


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Sequence[Member]]:
    need("etcd")
    members = Member.three(tmp_path)
    with running(members):
        for member in members:
            async with gateway_to(member) as made:
                await answers(made)
        yield members


async def leader(members: Sequence[Member]) -> Member:
    for member in members:
        async with gateway_to(member) as made:
            status = await made.call("maintenance/status", {})
        if status["leader"] == status["header"]["member_id"]:
            return member
    raise AssertionError("no member leads")


class Ledger:
    """What was acknowledged, and what watches have told."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.changed = asyncio.Event()
        self.told: dict[str, list[Sequence[Event]]] = {}

    def note(self) -> None:
        self.changed.set()
        self.changed.clear()

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(DEADLINE):
            while not holds():
                await self.changed.wait()

    async def goes_on(self) -> None:
        """Return when every writer has got answers again, and every watch has told of something new."""
        before, told = dict(self.answered), {name: len(batches) for name, batches in self.told.items()}
        await self.until(lambda: all(self.answered[w] > n + 2 for w, n in before.items())
                         and all(len(self.told[name]) > n + 20 for name, n in told.items()))


async def write(store: EtcdStore, writer: str, ledger: Ledger, stop: asyncio.Event) -> None:
    """Count, and leave a mark for each time; half of the writers without looking."""
    counter, blind = f"counter/{int(writer) % 5}", int(writer) % 2 == 0
    while not stop.is_set():
        mark: Operation = Put(f"log/{writer}/{ledger.acknowledged[writer]}", b"")
        compare: list[Compare] = []
        then = [mark]
        if not blind:
            record = await store.get(counter)
            compare = [Unchanged(counter, record.revision) if record else Absent(counter)]
            then += [Put(counter, b"%d" % (int(record.value) + 1 if record else 1))]
        outcome = await store.transact(compare, then)
        ledger.acknowledged[writer] += outcome.succeeded
        ledger.answered[writer] += 1
        ledger.note()


async def follow(store: EtcdStore, name: str, ledger: Ledger) -> None:
    async with watching(store, "", 0) as watch:
        async for batch in watch:
            ledger.told[name].append(batch)
            ledger.note()


@pytest.mark.whole
async def test_nothing_is_lost_or_doubled_when_members_die_or_freeze(three: Sequence[Member]) -> None:
    ledger, stop = Ledger(), asyncio.Event()
    async with AsyncExitStack() as stack:
        stores = []
        for n in range(3):
            in_order = [three[(n + k) % 3].endpoint for k in range(3)]
            stores.append(await stack.enter_async_context(store_on(Gateway(in_order, timeout_s=0.5))))
        ledger.told = {three[n].name: [] for n in range(3)}
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(follow(store, three[n].name, ledger)) for n, store in enumerate(stores)]
            writers = [group.create_task(write(stores[n % 3], str(n), ledger, stop)) for n in range(20)]
            ledger.answered.update({str(n): 0 for n in range(20)})
            await ledger.goes_on()
            first = await leader(three)
            first.signal(signal.SIGKILL)
            await ledger.goes_on()
            first.stop()
            first.start()
            async with gateway_to(first) as made:
                await answers(made)
            second = await leader(three)
            second.signal(signal.SIGSTOP)
            await ledger.goes_on()
            second.signal(signal.SIGCONT)
            await ledger.goes_on()
            stop.set()
            await asyncio.wait(writers)
            end = (await stores[0].transact([], [Put("end", b"")])).revision
            await ledger.until(lambda: all(batches[-1][0].revision == end for batches in ledger.told.values()))
            for watch in watches:
                watch.cancel()
        records = {r.key: r for r in (await stores[0].list("")).records}

    marks = {f"log/{writer}/{n}" for writer, count in ledger.acknowledged.items() for n in range(count)}
    assert {key for key in records if key.startswith("log/")} == marks
    counted = sum(count for writer, count in ledger.acknowledged.items() if int(writer) % 2)
    assert sum(int(r.value) for key, r in records.items() if key.startswith("counter/")) == counted
    a, b, c = ledger.told.values()
    assert a == b == c
    revisions = [batch[0].revision for batch in a]
    assert revisions == sorted(set(revisions))
    assert Counter(e.key for batch in a for e in batch if e.key.startswith("log/")) == Counter(marks)
    for n in range(5):
        values = [int(e.value or b"0") for batch in a for e in batch if e.key == f"counter/{n}"]
        assert values == list(range(1, len(values) + 1))


async def test_a_watch_leaves_a_member_that_is_frozen(three: Sequence[Member]) -> None:
    leads = await leader(three)
    frozen = next(member for member in three if member is not leads)
    async with (store_on(Gateway([frozen.endpoint, leads.endpoint], timeout_s=0.5)) as store, gateway_to(leads) as made,
                watching(store, "w/", 0) as watch):
        for n in range(3):
            told = asyncio.ensure_future(take(watch, 1))
            await made.call("kv/put", {"key": encoded(b"d/w/a"), "value": encoded(b"%d" % n)})
            assert [e.value for (e,) in await asyncio.wait_for(told, DEADLINE)] == [b"%d" % n]
            frozen.signal(signal.SIGCONT if n else signal.SIGSTOP)


@pytest.mark.whole
async def test_a_member_that_lost_the_others_neither_compares_from_memory_nor_keeps_a_watch(three: Sequence[Member]
                                                                                        ) -> None:
    left = await leader(three)
    others = [member for member in three if member is not left]
    async with store_on(Gateway([left.endpoint]), deadline_s=1) as store, gateway_to(left) as made:
        await store.transact([], [Put("k", b"")])
        async with aclosing(made.stream("watch", {"create_request": {"key": encoded(b"d/k")}})) as told:
            assert "created" in await anext(told)
            for other in others:
                other.signal(signal.SIGSTOP)
            with pytest.raises(StoreUnavailable):
                await store.transact([Exists("k")], [])
            with pytest.raises(GatewayUnavailable):
                await asyncio.wait_for(anext(told), DEADLINE)
