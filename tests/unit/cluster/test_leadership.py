"""Who leads, with a real etcd: candidates in this process, and one in a process that is stopped and killed."""

import asyncio
import contextlib
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairlead.base.clock import MINUTE, SECOND, SystemClock
from fairlead.cluster.leadership import Leadership
from fairlead.cluster.leases import GatewayLeases, draw_lease
from fairlead.cluster.tenure import LEADER, TERM, Leader, Timing, encode
from fairlead.store.etcd import EtcdStore
from fairlead.store.fence import NotLeading
from fairlead.store.gateway import Gateway, GatewayUnavailable, encoded
from fairlead.store.protocol import MARK, Compare, Operation, Outcome, Put, Record, StoreUnavailable, mark_value
from tests.conftest import need
from tests.contract.etcd import Member, answers, running
from tests.unit.cluster.ring import until

QUICK = Timing(2, 0.5)
DEADLINE_S = 30.0


class Skewed(SystemClock):
    """A wall clock that is off."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def now(self) -> int:
        return super().now() + self.offset


class Candidate:
    """A Controller that stands while it runs."""

    def __init__(self, store: EtcdStore, leases: GatewayLeases, name: str, offset: int, timing: Timing,
                 offsets: Callable[[], Sequence[int]]) -> None:
        self.name = name
        self.clock = Skewed(offset)
        self.store = Doubtful(store)
        self.leases = Held(leases)
        self.leadership = Leadership(self.store, self.leases, self.clock, node=f"id-{name}", name=name, timing=timing,
                                     offsets=offsets)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.leadership.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def leads(self) -> float:
        """Monotonic seconds at which it does."""
        async with asyncio.timeout(DEADLINE_S):
            await self.leadership.wait_leading()
        return time.monotonic()


class Doubtful:
    """The store, whose answers to the next writings of the leader key may be lost."""

    def __init__(self, inner: EtcdStore) -> None:
        self._inner = inner
        self.list, self.watch = inner.list, inner.watch
        self.lost: list[bool] = []
        """For each of the next take-overs: whether it happens before its answer is lost."""
        self.between: tuple[str, Callable[[], Awaitable[object]]] | None = None
        """What happens once, and before what."""

    async def _before(self, what: str) -> None:
        if self.between and self.between[0] == what:
            (_, act), self.between = self.between, None
            await act()

    async def get(self, key: str) -> Record | None:
        if key == TERM:
            await self._before("reading the term")
        return await self._inner.get(key)

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        await self._before("writing")
        if self.lost and any(operation.key == LEADER for operation in then):
            if self.lost.pop(0):
                await self._inner.transact(compare, then)
            raise StoreUnavailable("the answer was lost")
        return await self._inner.transact(compare, then)


class Held:
    """Leases whose renewals may be under way for ever."""

    def __init__(self, inner: GatewayLeases) -> None:
        self._inner = inner
        self.grant = inner.grant
        self.taken_back = asyncio.Event()
        self.held = asyncio.Event()
        self.hold = False

    async def revoke(self, lease: int) -> None:
        await self._inner.revoke(lease)
        self.taken_back.set()

    async def keep_alive(self, lease: int) -> bool:
        alive = await self._inner.keep_alive(lease)
        if self.hold:
            self.held.set()
            await asyncio.Event().wait()
        return alive


class Cluster:
    """The store, emptied, and who stands there."""

    def __init__(self, *endpoints: str) -> None:
        self.endpoint = endpoints[0]
        self.gateway = Gateway(endpoints)
        self.gateways = [self.gateway]
        self.store = EtcdStore(self.gateway)
        self.stores = [self.store]
        self.leases = GatewayLeases(self.gateway)
        self.candidates: list[Candidate] = []
        self.children: list[Child] = []

    def candidate(self, name: str, *, offset: int = 0, timing: Timing = QUICK,
                  offsets: Callable[[], Sequence[int]] = lambda: (), start: bool = True,
                  gateway: Gateway | None = None) -> Candidate:
        """*gateway*: its own, which ends with this."""
        store, leases = self.store, self.leases
        if gateway is not None:
            self.gateways.append(gateway)
            store, leases = EtcdStore(gateway), GatewayLeases(gateway)
            self.stores.append(store)
        made = Candidate(store, leases, name, offset, timing, offsets)
        self.candidates.append(made)
        if start:
            made.start()
        return made

    async def child(self, name: str) -> "Child":
        made = Child(await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.unit.cluster.candidate", self.endpoint,
            name, str(QUICK.lease_s), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE))
        self.children.append(made)
        return made

    async def leader(self) -> Candidate:
        """The one of the candidates that leads, once one does."""
        waits = {asyncio.ensure_future(c.leadership.wait_leading()): c for c in self.candidates}
        done, rest = await asyncio.wait(waits, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in rest:
            wait.cancel()
        [first, *_] = done
        return waits[first]

    async def close(self) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
            await child.process.wait()
        for candidate in self.candidates:
            await candidate.stop()
        for store in self.stores:
            await store.close()
        for gateway in self.gateways:
            await gateway.close()


class Child:
    """A candidate in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await self.process.stdout.readline()).decode().strip()

    async def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        return await self.says()


@pytest.fixture
async def cluster(etcd: str) -> AsyncIterator[Cluster]:
    made = Cluster(etcd)
    try:
        await answers(made.gateway)
        await made.gateway.call("kv/deleterange", {"key": encoded(b"\0"), "range_end": encoded(b"\0")})
        yield made
    finally:
        await made.close()


async def followed(candidate: Candidate, leader: str) -> None:
    """Until *candidate* sees who leads."""
    seen = asyncio.Event()
    candidate.leadership.on_change(seen.set)
    async with asyncio.timeout(DEADLINE_S):
        while candidate.leadership.leader is None or candidate.leadership.leader.name != leader:
            seen.clear()
            await seen.wait()


async def test_one_of_several_leads_and_all_know_it(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.candidate(name)
    leader = await cluster.leader()
    others = [c for c in cluster.candidates if c is not leader]
    for other in others:
        await followed(other, leader.name)
        assert not other.leadership.leading
        assert other.leadership.term == leader.leadership.term == 1
        with pytest.raises(NotLeading, match=leader.name):
            other.leadership.fence()
    assert (await cluster.store.transact(leader.leadership.fence(), [Put("work", b"")])).succeeded


@pytest.mark.parametrize("before", ["reading the term", "writing"])
async def test_two_that_stand_at_one_moment_are_one_leader(cluster: Cluster, before: str) -> None:
    """Both have read that nobody leads; one begins its term before the other goes on."""
    first, second = cluster.candidate("a", start=False), cluster.candidate("b", start=False)

    async def come() -> None:
        first.start()
        await first.leads()

    second.store.between = (before, come)
    second.start()
    async with asyncio.timeout(DEADLINE_S):
        await second.leases.taken_back.wait()
    assert first.leadership.leading
    assert not second.leadership.leading
    assert (await cluster.store.transact(first.leadership.fence(), [Put("work", b"")])).succeeded


async def test_who_resigns_hands_over_at_once(cluster: Cluster) -> None:
    first, second = cluster.candidate("a", timing=Timing(3, 1.0)), cluster.candidate("b", start=False)
    await first.leads()
    second.start()
    await followed(second, "a")
    fence = first.leadership.fence()
    began = time.monotonic()
    await first.stop()
    assert await second.leads() - began < 1.0  # a lease runs three seconds
    assert not first.leadership.leading
    assert second.leadership.term == 2
    assert not (await cluster.store.transact(fence, [Put("work", b"")])).succeeded


async def test_who_steps_down_leaves_it_to_another(cluster: Cluster) -> None:
    """The others may be slow to stand: who has stepped down does not for so long."""
    one = cluster.candidate("one")
    await one.leads()
    await one.leadership.step_down(2.0)
    assert not one.leadership.leading
    began, left = time.monotonic(), one.leadership.term
    other = cluster.candidate("other")
    await other.leads()
    assert time.monotonic() - began < 2.0
    assert other.leadership.term == left + 1
    await other.stop()
    await one.leads()


async def test_a_killed_leader_is_followed_when_its_lease_ends(cluster: Cluster) -> None:
    child = await cluster.child("a")
    assert await child.says() == "leads 1"
    second = cluster.candidate("b")
    await followed(second, "a")
    child.process.kill()
    began = time.monotonic()
    took = await second.leads() - began
    sys.stderr.write(f"the next leader after {took:.2f} s\n")
    assert took < QUICK.lease_s + 2.0
    assert second.leadership.term == 2


async def test_a_leader_that_was_stopped_wakes_to_no_power(cluster: Cluster) -> None:
    child = await cluster.child("a")
    assert await child.says() == "leads 1"
    assert [await child.ask("arm"), await child.ask("write")] == ["armed", "done"]
    second = cluster.candidate("b")
    await followed(second, "a")
    child.process.send_signal(signal.SIGSTOP)
    await second.leads()
    child.process.send_signal(signal.SIGCONT)
    said = [await child.ask("ask"), await child.says()]
    assert sorted(said) == ["no", "parts"]  # whichever came first
    assert await child.ask("write") == "void"
    assert (await cluster.store.transact(second.leadership.fence(), [Put("work", b"b")])).succeeded


async def test_the_mark_never_goes_back_and_each_term_is_one_leaders(cluster: Cluster) -> None:
    """Ten changes among candidates whose clocks differ by minutes; all of them write whenever they may."""
    for name, offset in (("a", 0), ("b", 5 * MINUTE), ("c", -20 * MINUTE)):
        cluster.candidate(name, offset=offset, timing=Timing(2, 0.05))
    names = []
    clock = time.monotonic()
    async with working(cluster) as told:
        for _ in range(10):
            leader = await cluster.leader()
            names.append(leader.name)
            await marks(cluster, 3)
            await leader.stop()
            await cluster.leader()
            leader.start()
    took = time.monotonic() - clock
    assert told.marks[-1] - told.marks[0] > (took - 1.0) * SECOND
    assert len(set(names)) > 1
    assert told.term >= 11
    assert [told.owners[number] for number in range(1, 11)] == [{name.encode()} for name in names]
    assert any(c.leadership.time_step > 4 * MINUTE for c in cluster.candidates)


async def test_time_goes_on_while_nobody_leads(cluster: Cluster) -> None:
    """The next one's clock is far behind, but it has seen the last leader's marks."""
    first = await cluster.child("a")
    assert await first.says() == "leads 1"
    second = cluster.candidate("b", offset=-20 * MINUTE)
    reckoning = second.leadership._reckoning
    await followed(second, "a")
    await until(lambda: reckoning.now(time.monotonic()), "it has read a mark")
    killed = time.monotonic()
    first.process.kill()
    await second.leads()
    mark = await cluster.store.get(MARK)
    assert mark is not None
    assert int(mark.value) >= reckoning.now(killed + QUICK.lease_s - QUICK.period_s)


@pytest.mark.whole
async def test_one_leads_at_a_time_while_members_of_the_store_freeze_and_die(tmp_path: Path) -> None:
    """Three members and three candidates; each time it is the store's own leader that is hit."""
    need("etcd")
    members = Member.three(tmp_path)
    with running(members):
        places = [member.endpoint for member in members]
        cluster = Cluster(*places)
        try:
            await answers(cluster.gateway)
            for number, name in enumerate(("a", "b", "c")):
                cluster.candidate(name, gateway=Gateway([*places[number:], *places[:number]], timeout_s=0.5))
            async with working(cluster) as told:
                for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL):
                    await cluster.leader()
                    await marks(cluster, 3)
                    hit = await leading_member(members)
                    hit.signal(number)
                    began = time.monotonic()
                    await marks(cluster, 2)
                    sys.stderr.write(f"{number.name}: marks again after {time.monotonic() - began:.2f} s\n")
                    if number is signal.SIGKILL:
                        hit.stop()
                        hit.start()
                    else:
                        hit.signal(signal.SIGCONT)
            assert told.term >= 1
            assert len(told.marks) > 20
        finally:
            await cluster.close()


async def leading_member(members: Sequence[Member]) -> Member:
    """The one that leads in etcd, once one does."""
    async with asyncio.timeout(DEADLINE_S):
        for member in itertools.cycle(members):
            gateway = Gateway([member.endpoint])
            try:
                status = await gateway.call("maintenance/status", {})
                if status.get("leader") == status["header"]["member_id"]:
                    return member
            except GatewayUnavailable:
                await asyncio.sleep(0)
            finally:
                await gateway.close()
    raise AssertionError


@dataclass
class Told:
    """What the store went through while all wrote whenever they might."""

    marks: list[int] = field(default_factory=list)
    term: int = 0
    owners: dict[int, set[bytes]] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def working(cluster: Cluster) -> AsyncIterator[Told]:
    """Every candidate writes under its fence all the time. Afterwards: one of them in each term, and rising marks."""
    began = (await cluster.store.list("")).revision
    told = Told()

    async def works(candidate: Candidate) -> None:
        while True:
            await candidate.leadership.wait_leading()
            with contextlib.suppress(StoreUnavailable):
                await candidate.store.transact(candidate.leadership.fence(), [Put("work", candidate.name.encode())])

    workers = [asyncio.create_task(works(c)) for c in cluster.candidates]
    try:
        yield told
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    for key, value, _ in await history(cluster, began):
        if key == MARK:
            told.marks.append(int(value))
        elif key == TERM:
            assert int(value) == told.term + 1
            told.term += 1
        elif key == "work":
            told.owners.setdefault(told.term, set()).add(value)
    assert all(one < other for one, other in itertools.pairwise(told.marks))
    assert all(len(owners) == 1 for owners in told.owners.values()), told.owners


async def marks(cluster: Cluster, count: int) -> None:
    """Until so many more marks were written."""
    async with asyncio.timeout(DEADLINE_S):
        after = (await cluster.store.list(MARK)).revision
        async for _ in cluster.store.watch(MARK, after):
            count -= 1
            if not count:
                return


async def history(cluster: Cluster, after: int) -> list[tuple[str, bytes, int]]:
    """All that was put since a revision."""
    end = (await cluster.store.transact([], [Put("end", b"")])).revision
    found: list[tuple[str, bytes, int]] = []
    async with asyncio.timeout(DEADLINE_S):
        async for batch in cluster.store.watch("", after):
            found += [(e.key, e.value, e.revision) for e in batch if e.value is not None]
            if batch[-1].revision >= end:
                break
    return found


async def test_a_candidate_whose_clock_is_off_does_not_stand(cluster: Cluster) -> None:
    """The others' clocks are a minute ahead; nobody else stands, and still it does not, until its clock is right."""
    offsets = [60 * SECOND, 60 * SECOND]
    asked = asyncio.Queue[None]()

    def measured() -> Sequence[int]:
        asked.put_nowait(None)
        return offsets

    candidate = cluster.candidate("a", timing=Timing(1, 0.5), offsets=measured)
    async with asyncio.timeout(DEADLINE_S):
        await asked.get()
        await asked.get()  # it came to stand, did not, and comes again
    assert await cluster.store.get(TERM) is None
    assert not candidate.leadership.leading
    assert candidate.leadership.clock_off
    offsets[:] = [0, 0]
    await candidate.leads()
    assert not candidate.leadership.clock_off


async def test_a_leader_whose_clock_is_set_wrong_parts_before_it_writes_the_mark(cluster: Cluster) -> None:
    """Its clock jumps an hour ahead; no mark of that hour is written, and it leads again once it is right."""
    candidate = cluster.candidate("a", offsets=lambda: [-candidate.clock.offset] * 2)
    await candidate.leads()
    parted = asyncio.Event()
    candidate.leadership.on_change(lambda: None if candidate.leadership.leading else parted.set())
    candidate.clock.offset = 60 * MINUTE
    async with asyncio.timeout(DEADLINE_S):
        await parted.wait()
    assert candidate.leadership.clock_off
    assert await cluster.store.now() < SystemClock().now() + MINUTE
    candidate.clock.offset = 0
    await candidate.leads()
    assert candidate.leadership.term == 2


@pytest.mark.parametrize("happened", [True, False])
async def test_an_answer_that_was_lost_makes_neither_two_leaders_nor_none(cluster: Cluster, happened: bool) -> None:
    candidate = cluster.candidate("a", start=False)
    candidate.store.lost = [happened]
    candidate.start()
    await candidate.leads()
    assert candidate.leadership.term == 1
    assert (await cluster.store.transact(candidate.leadership.fence(), [Put("work", b"")])).succeeded


async def test_belief_ends_before_the_lease_whatever_hangs(cluster: Cluster) -> None:
    """Its renewals reach the store, so that the lease runs on; their answers do not come back."""
    candidate = cluster.candidate("a")
    await candidate.leads()
    lost = asyncio.Event()
    candidate.leadership.on_change(lambda: None if candidate.leadership.leading else lost.set())
    candidate.leases.hold = True
    async with asyncio.timeout(DEADLINE_S):
        await candidate.leases.held.wait()
        began = time.monotonic()
        while candidate.leadership.leading:
            assert time.monotonic() - began < QUICK.lease_s
            await asyncio.sleep(0)
        with pytest.raises(NotLeading):
            candidate.leadership.fence()
        await lost.wait()
    candidate.leases.hold = False
    await candidate.leads()
    assert candidate.leadership.term == 2


async def test_who_finds_its_key_gone_is_told_at_once(cluster: Cluster) -> None:
    candidate = cluster.candidate("a", timing=Timing(3, 1.0))
    await candidate.leads()
    fence = candidate.leadership.fence()
    leader = candidate.leadership.leader
    assert leader is not None
    await cluster.leases.revoke(leader.lease)
    began = time.monotonic()
    lost = asyncio.Event()
    candidate.leadership.on_change(lambda: lost.set() if not candidate.leadership.leading else None)
    async with asyncio.timeout(DEADLINE_S):
        await lost.wait()
    assert time.monotonic() - began < 0.9
    assert not (await cluster.store.transact(fence, [Put("work", b"")])).succeeded
    await candidate.leads()
    assert candidate.leadership.term == 2


async def test_after_a_crash_the_same_node_does_not_wait_for_its_own_lease(cluster: Cluster) -> None:
    lease = draw_lease()
    await cluster.leases.grant(lease, 3600)
    old = Leader("id-a", "a", 5, lease)
    await cluster.store.transact([], [Put(LEADER, encode(old), lease), Put(TERM, b"5")])
    candidate = cluster.candidate("a")
    await candidate.leads()
    assert candidate.leadership.term == 6


async def test_a_leader_that_writes_no_mark_loses_its_key_though_its_lease_runs_on(cluster: Cluster) -> None:
    """etcd lengthens leases when its own leader changes."""
    lease = draw_lease()
    await cluster.leases.grant(lease, 3600)
    gone = Leader("id-z", "z", 5, lease)
    await cluster.store.transact([], [Put(LEADER, encode(gone), lease), Put(TERM, b"5"), Put(MARK, mark_value(1))])
    began = time.monotonic()
    candidate = cluster.candidate("a")
    took = await candidate.leads() - began
    assert QUICK.lease_s <= took < QUICK.lease_s + QUICK.period_s + 0.5
    assert candidate.leadership.term == 6


async def test_a_lease_that_etcd_made_longer_than_the_margin_is_not_led_under(cluster: Cluster) -> None:
    candidate = cluster.candidate("a", start=False)
    granted = asyncio.Queue[int]()

    async def longer(lease: int, seconds: int) -> int:
        await granted.put(lease)
        return await cluster.leases.grant(lease, seconds + 5)

    candidate.leases.grant = longer
    candidate.start()
    async with asyncio.timeout(DEADLINE_S):
        first, _ = await granted.get(), await granted.get()
    assert await cluster.store.get(TERM) is None
    assert not await cluster.leases.keep_alive(first)
