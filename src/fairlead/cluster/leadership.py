"""One Controller leads: who stands, who wins, when the winner stops believing it.

Rules, and the fault each stops:

1. The leader key is made in one transaction that compares its absence, raises the term and writes the mark, under a
   lease of the leader's own. Whatever the answer, or when there is none, the key is read again: who finds its own lease
   in it leads. An answer that was lost makes neither two leaders nor none.
2. Each transaction of a leader carries `Leadership.fence`: the birth of the key that it made. Whoever lost the key, or
   woke after a stop, changes nothing.
3. `leading` ends by this machine's monotonic time before the lease can (`tenure`), whatever hangs meanwhile.
4. Followers watch the key, and stand at once when it goes, each after a small delay of its own so that they do not all
   ask at once. A watch that has gone silent is made up for by reading the key now and then.
5. Followers read the mark twice in a period, and take the key from who has not written it for a lease: etcd lengthens
   leases when its own leader changes, and nobody would lead for as long.
6. Who stops in order takes its lease back: the next one leads at once.
7. Whose clock is off the others' (`clocks`) does not stand, and a leader whose clock gets there parts before it writes
   the next mark.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import structlog

from fairlead.base.backoff import FullJitter
from fairlead.base.clock import SECOND, Clock
from fairlead.cluster.clocks import fit
from fairlead.cluster.leases import draw_lease
from fairlead.cluster.tenure import (
    LEADER,
    NOTICED_STEP,
    TERM,
    Leader,
    Reckoning,
    Step,
    Stillness,
    Tenure,
    Timing,
    decode,
    encode,
    first_mark,
    next_term,
    taking_over,
)
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import (
    MARK,
    Compacted,
    Compare,
    Event,
    Listing,
    Operation,
    Outcome,
    Record,
    StoreUnavailable,
)

DELAY_S = 0.05
"""At most so long a candidate waits once the key is gone."""
AGAIN_S = 0.1
"""A leader whose writing failed tries again after so long, while it still believes."""
PARTING_S = 1.0
"""So long the lease is tried to be taken back at the end; then it runs out by itself."""

log = structlog.get_logger("fairlead.cluster")


class Ballots(Protocol):
    """What an election needs of the store. All may raise StoreUnavailable."""

    async def get(self, key: str) -> Record | None:
        """The record of a key, as it stands now."""
        ...

    async def list(self, prefix: str) -> Listing:
        """All records under a prefix, and the revision."""
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """Do all of *then* if all of *compare* hold."""
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """Changes after a revision. Raises Compacted."""
        ...


class Leases(Protocol):
    """Leases under numbers that the caller draws. All may raise StoreUnavailable."""

    async def grant(self, lease: int, seconds: int) -> int:
        """Begin one; for how many seconds it was granted."""
        ...

    async def keep_alive(self, lease: int) -> bool:
        """Begin its time anew; whether it still ran."""
        ...

    async def revoke(self, lease: int) -> None:
        """End it, and with it its keys."""
        ...


class Leadership:
    """This Controller's part in who leads. `run` it; the rest is answered at any time."""

    def __init__(self, store: Ballots, leases: Leases, clock: Clock, *, node: str, name: str,
                 timing: Timing | None = None, offsets: Callable[[], Sequence[int]] = lambda: (),
                 controllers: Callable[[], int] = lambda: 1) -> None:
        """*node*, *name*: this Controller's. *offsets*: how far the other Controllers' clocks are ahead of this one's,
        microseconds, as far as they are known; *controllers*: how many there are, this one included.
        """
        self._store = store
        self._leases = leases
        self._clock = clock
        self._node, self._name = node, name
        self._timing = timing or Timing()
        self._offsets = offsets
        self._controllers = controllers
        self._draw = random.SystemRandom()
        self._tenure: Tenure | None = None
        self._barred_until = float("-inf")
        self._still = Stillness(self._timing)
        self._reckoning = Reckoning()
        self._seen: Leader | None = None
        self._seen_at = -1
        self._term = 0
        self._stir = asyncio.Event()
        self._led = asyncio.Event()
        self._told: list[Callable[[], None]] = []
        self.clock_off = False
        """Whether it does not lead because its clock is too far off the others', or theirs are not known yet."""
        self.time_step = 0
        """By how much (microseconds) the machine's clock was found behind the mark at worst while it led."""

    @property
    def leading(self) -> bool:
        """Whether this Controller leads, as far as it may believe."""
        return self._tenure is not None and self._tenure.leads(self._clock.monotonic())

    @property
    def leader(self) -> Leader | None:
        """Who leads, as last seen; this Controller itself only while it may believe so."""
        if self._tenure is not None and self.leading:
            return self._tenure.leader
        return self._seen if self._seen is not None and self._seen.node != self._node else None

    @property
    def term(self) -> int:
        """The highest term that was seen; 0 before the first."""
        return self._term

    def fence(self) -> Sequence[Compare]:
        """What each transaction of the leader compares besides its own. Raises NotLeading."""
        if self._tenure is None or not self.leading:
            raise NotLeading(self.leader.name if self.leader else None)
        return (self._tenure.fence,)

    def on_change(self, told: Callable[[], None]) -> None:
        """Call *told* whenever `leading` or `leader` changes, within the event loop."""
        self._told.append(told)

    async def wait_leading(self) -> None:
        """Until this Controller leads."""
        while not self.leading:
            self._led.clear()
            await self._led.wait()

    async def step_down(self, seconds: float) -> None:
        """End the term, and do not stand for so long: another Controller is to lead."""
        self._barred_until = self._clock.monotonic() + seconds
        if self._tenure is not None:
            self._tenure.end()
            await self._part("steps down")
            self._stir.set()

    async def run(self) -> None:
        """Stand, lead, and stand again until cancelled; then resign."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._observe())
                group.create_task(self._take_part())
        finally:
            await self._part("stopped")

    # -- what others do -----------------------------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Follow the leader key."""
        again = FullJitter(0.05, 1.0)
        while True:
            try:
                after = await self._look()
                again.reset()
                async for batch in self._store.watch(LEADER, after):
                    for event in batch:
                        self._noted(event.key, event.value, event.revision)
            except Compacted:
                continue
            except StoreUnavailable as reason:
                log.debug("leader.unseen", reason=reason.message)
            await asyncio.sleep(again.next())

    async def _look(self) -> int:
        """Read the leader key; at which revision."""
        listing = await self._store.list(LEADER)
        value = next((r.value for r in listing.records if r.key == LEADER), None)
        self._noted(LEADER, value, listing.revision)
        return listing.revision

    def _noted(self, key: str, value: bytes | None, revision: int) -> None:
        """The key held this at a revision; what is older than what is known is no news."""
        if key != LEADER or revision < self._seen_at:
            return
        self._seen_at = revision
        leader = None
        if value is not None:
            try:
                leader = decode(value)
            except ValueError:
                log.exception("leader.unreadable")  # nobody of ours wrote it; it is not taken for an absence
                return
            self._term = max(self._term, leader.term)
        if self._tenure is not None and revision >= self._tenure.created and leader != self._tenure.leader:
            self._tenure.end()
            self._stir.set()
        changed, self._seen = leader != self._seen, leader
        if changed:
            self._tell()

    def _tell(self) -> None:
        self._stir.set()
        if self.leading:
            self._led.set()
        for told in self._told:
            told()

    # -- what this one does -------------------------------------------------------------------------------------------

    async def _take_part(self) -> None:
        again = FullJitter(AGAIN_S, 1.0)
        while True:
            try:
                tenure = await self._stand()
                again.reset()
            except StoreUnavailable as reason:
                log.debug("leader.cannot-stand", reason=reason.message)
                await asyncio.sleep(again.next())
                continue
            if tenure is None:
                await self._news(self._timing.period_s / 2)
                await asyncio.sleep(self._draw.uniform(0, DELAY_S))
                continue
            self._tenure, self._term = tenure, max(self._term, tenure.leader.term)
            log.info("leader.elected", term=tenure.leader.term)
            self._tell()
            await self._reign(tenure)
            await self._part("lost")

    async def _news(self, seconds: float) -> None:
        """Until something was noted, or so many seconds have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stir.wait()

    async def _stand(self) -> Tenure | None:
        """Try to begin a term; None when another one leads, or this one may not. Raises StoreUnavailable."""
        self._stir.clear()  # before reading: what comes during it counts
        if self._seen is not None and self._seen.node != self._node and not await self._stands_still(self._seen):
            return None
        await self._look()
        if self._seen is not None and self._seen.node == self._node:  # a term that was ours, before a restart
            await self._leases.revoke(self._seen.lease)
            await self._look()
        if self._seen is not None or self._clock.monotonic() < self._barred_until:
            return None
        if not self._fit(self._controllers()):
            return None
        old_term, old_mark = await self._store.get(TERM), await self._store.get(MARK)
        at, wall = self._clock.monotonic(), self._clock.now()  # before the lease begins, from where it counts
        leader = Leader(self._node, self._name, next_term(old_term), draw_lease())
        mark = first_mark(wall, old_mark, self._reckoning.now(at))
        created = None
        try:
            granted = await self._leases.grant(leader.lease, self._timing.lease_s)
            if self._timing.covers(granted):
                created = await self._contend(leader, mark, old_term, old_mark)
            else:
                log.error("leader.lease-too-long", granted_s=granted)
        finally:
            if created is None:
                await self._take_back(leader.lease)
        if created is None:
            return None
        self._step_found(mark, wall)
        return Tenure(leader, created, mark, at, self._timing)

    async def _stands_still(self, leader: Leader) -> bool:
        """Whether *leader* has written no mark for a lease; then its key is taken away. Raises StoreUnavailable."""
        asked = self._clock.monotonic()
        mark = await self._store.get(MARK)
        answered = self._clock.monotonic()
        self._reckoning.saw(mark, answered)
        if not self._still.over(leader.lease, mark.revision if mark else 0, asked, answered):
            return False
        log.warning("leader.still", leader=leader.name, term=leader.term)
        await self._leases.revoke(leader.lease)
        return True

    async def _contend(self, leader: Leader, mark: int, old_term: Record | None, old_mark: Record | None) -> int | None:
        """Put the key; its birth, or None when it is another's. Raises StoreUnavailable when it is nobody's yet."""
        with contextlib.suppress(StoreUnavailable):  # what came of it is read
            await self._store.transact(*taking_over(leader, mark, old_term, old_mark))
        record = await self._store.get(LEADER)
        if record is None:
            raise StoreUnavailable("the term did not begin")
        return record.created if record.value == encode(leader) else None

    async def _reign(self, tenure: Tenure) -> None:
        """Write the mark and renew the lease until the term is over."""
        while (step := tenure.step(now := self._clock.monotonic())) is not Step.LOST:
            if not self._fit():
                tenure.end()
                continue
            if step is Step.REST:
                self._stir.clear()
                await self._news(min(tenure.rest(now), tenure.left(now)))
                continue
            try:
                async with asyncio.timeout(tenure.left(now)):
                    await (self._mark(tenure) if step is Step.MARK else self._renew(tenure))
            except (StoreUnavailable, TimeoutError) as reason:
                log.warning("leader.held-up", step=step.name, reason=str(reason) or "no answer in time")
                await asyncio.sleep(min(AGAIN_S, tenure.left(self._clock.monotonic())))

    def _fit(self, controllers: int = 1) -> bool:
        offsets = self._offsets()
        off = not fit(offsets, controllers)
        if off and not self.clock_off:
            log.warning("leader.clock-off", others_ahead_s=[offset / SECOND for offset in offsets])
        self.clock_off = off
        return not off

    async def _mark(self, tenure: Tenure) -> None:
        at, wall = self._clock.monotonic(), self._clock.now()
        mark = tenure.mark(wall, at)
        self._step_found(mark, wall)
        if (await self._store.transact(*tenure.marking(mark))).succeeded:
            tenure.marked(mark, at)
            return
        await self._look()  # ends the term if that is why
        found = await self._store.get(MARK)
        if found is None:
            tenure.end()
        else:
            tenure.found(int(found.value), self._clock.monotonic())

    async def _renew(self, tenure: Tenure) -> None:
        if await self._leases.keep_alive(tenure.leader.lease):
            tenure.renewed()
        else:
            tenure.end()

    async def _part(self, why: str) -> None:
        """End the term here, then at the store: others need not wait for the lease to run out."""
        tenure, self._tenure = self._tenure, None
        if tenure is None:
            return
        log.info("leader.parted", term=tenure.leader.term, why=why)
        self._tell()
        await self._take_back(tenure.leader.lease)

    async def _take_back(self, lease: int) -> None:
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(PARTING_S):
                await self._leases.revoke(lease)

    def _step_found(self, mark: int, wall: int) -> None:
        if mark - wall > NOTICED_STEP:
            self.time_step = max(self.time_step, mark - wall)
