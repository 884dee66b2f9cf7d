"""What somebody has to do for etcd while it runs: the cluster's leader does it. `next_step` decides and is pure.

Rules, and the fault that each stops:

1. History older than `KEPT_S` is forgotten; younger is not, so that a watch that lost its member for a while goes on
   where it was. etcd's own clock does the same after an hour, for a time in which nobody leads.
2. Free space is given back one member at a time, and only while every member is well: one that does it is deaf, and a
   second one that is deaf or down would be the majority.
3. etcd's leader gives the lead away first: a deaf leader costs an election.
4. An alarm for space is taken back only when every member is well below its quota. A corrupt member is for people: what
   it says cannot be believed, and nothing is done while it is there.
5. A full store takes no leader's mark, so nobody leads: then the Controller whose member leads etcd makes room.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError
from fairlead.cluster.members import Alarm, Calls, Member, Members, Status, defragment, hand_over, status
from fairlead.store.protocol import StoreUnavailable

KEPT_S = 600.0
"""Seconds of history that are kept."""
EVERY_S = 30.0
"""Seconds between looks; the kept history is as fine as this."""
PRESSED_S = 2.0
"""While there is an alarm: members say late what is free in their files."""
WORTH_BYTES = 64 * 1024 * 1024
"""Free bytes for which a member is made deaf, when they are also half of its file."""
MOST_STEPS = 16
"""At one look: all that three members can need, and an end in any case."""
LOW = 0.9
"""Of the quota: below it an alarm for space is taken back."""

log = structlog.get_logger("fairlead.etcd")


@dataclass(frozen=True, slots=True)
class Compact:
    """Forget everything before a revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class Defragment:
    """Have a member give its free space back."""

    member: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """Have the leading member give the lead to another."""

    leader: int
    to: int


@dataclass(frozen=True, slots=True)
class Disarm:
    """Take an alarm back."""

    alarm: Alarm


Step = Compact | Defragment | HandOver | Disarm


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision needs."""

    members: Sequence[Member]
    statuses: Sequence[Status]
    """Of those that answered."""
    old: int
    """The revision of `KEPT_S` ago, 0 when it is not known."""
    compacted: int
    """The revision of the last compaction that we know of."""
    quota: int
    """Bytes."""
    relieved: bool = False
    """Whether all history was given up already for the alarm that there is."""
    tried: frozenset[int] = frozenset()
    """Members that have given their free space back since then."""

    @property
    def well(self) -> bool:
        """Whether every member answered, is healthy, and all have the same leader."""
        return (len(self.statuses) > 0 and {one.id for one in self.statuses} == {one.id for one in self.members}
                and all(one.healthy for one in self.statuses) and len({one.leader for one in self.statuses}) == 1)


def next_step(now: Situation) -> Step | None:
    """The one thing to do now, or None."""
    alarms = {alarm for one in now.statuses for alarm in one.alarms}
    if any(alarm.kind != "NOSPACE" for alarm in alarms):
        return None
    revision = max((one.revision for one in now.statuses), default=0)
    if alarms and not now.relieved:
        return Compact(revision)  # the youngest history too: a watch can list again, a write cannot be made at all
    if not alarms and now.old > now.compacted:
        return Compact(now.old)
    wasteful = [one for one in now.statuses if _worth(one, pressed=bool(alarms), quota=now.quota)]
    if now.well and wasteful:
        return _giving_back(wasteful, now.statuses)
    if now.well and alarms and all(one.size < LOW * now.quota for one in now.statuses):
        return Disarm(min(alarms, key=lambda alarm: alarm.member))
    if alarms and revision > now.compacted:
        return Compact(revision)  # that was not enough, and somebody has deleted more
    # A member counts what a compaction has freed with its next write, and of those there are none: each tries once.
    untried = [one for one in now.statuses if one.size >= LOW * now.quota and one.id not in now.tried]
    return _giving_back(untried, now.statuses) if now.well and alarms and untried else None


def _giving_back(wasteful: Sequence[Status], statuses: Sequence[Status]) -> Step:
    one = min(wasteful, key=lambda one: (one.id == one.leader, one.id))  # the leader last
    others = [other.id for other in statuses if other.id != one.id and not other.learner]
    return HandOver(one.id, others[0]) if one.id == one.leader and others else Defragment(one.id)


def _worth(one: Status, *, pressed: bool, quota: int) -> bool:
    free = one.size - one.in_use
    if pressed:  # only those that are too large; and not for ever, when it does not help
        return one.size >= LOW * quota and free > one.size // 10
    return free >= WORTH_BYTES and free * 2 >= one.size


class Upkeep:
    """Does the work, for as long as it runs: on one Controller, the one that leads.

    *endpoint*: calls to one member and no other, kept by whoever hands it in.
    """

    def __init__(self, members: Members, endpoint: Callable[[Member], Calls], quota: int, clock: Clock, *,
                 every_s: float = EVERY_S, kept_s: float = KEPT_S) -> None:
        self._members = members
        self._endpoint = endpoint
        self._quota = quota
        self._clock = clock
        self._every_s = every_s
        self._kept_s = kept_s
        self._history: deque[tuple[float, int]] = deque()
        self._old = 0
        self._compacted = 0
        self._alarmed = False
        self._relieved = False
        self._tried = frozenset[int]()

    async def run(self) -> None:
        """Look and do, until cancelled. What fails is logged, and tried again at the next look."""
        while True:
            try:
                for _ in range(MOST_STEPS):
                    if await self.step() is None:
                        break
            except FairleadError as error:
                log.warning("etcd.upkeep", code=error.code, reason=error.message)
            await asyncio.sleep(min(self._every_s, PRESSED_S) if self._alarmed else self._every_s)

    async def step(self) -> Step | None:
        """Look, do at most one thing, and say which. Raises StoreUnavailable."""
        members = {member.id: member for member in await self._members.list()}
        statuses = await self._statuses(list(members.values()))
        self._remember(max((one.revision for one in statuses), default=0))
        self._alarmed = any(one.alarms for one in statuses)
        self._relieved = self._relieved and self._alarmed
        step = next_step(Situation(list(members.values()), statuses, self._old, self._compacted, self._quota,
                                   self._relieved, self._tried))
        match step:
            case Compact(revision):
                await self._members.compact(revision)
                self._compacted = revision
                self._relieved, self._tried = self._alarmed, frozenset()
            case Defragment(member):
                await defragment(self._endpoint(members[member]))
                self._tried |= {member}
            case HandOver(leader, to):
                await hand_over(self._endpoint(members[leader]), to)
            case Disarm(alarm):
                await self._members.disarm(alarm)
        if step is not None:
            log.info("etcd.upkeep", step=repr(step))
        return step

    async def _statuses(self, members: Sequence[Member]) -> Sequence[Status]:
        asked = [status(self._endpoint(member)) for member in members if member.started]
        found = await asyncio.gather(*asked, return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, StoreUnavailable):
                raise error
        return [one for one in found if isinstance(one, Status)]

    def _remember(self, revision: int) -> None:
        """Note the revision; what is older than is kept becomes `_old`."""
        now = self._clock.monotonic()
        self._history.append((now, revision))
        while self._history and self._history[0][0] <= now - self._kept_s:
            self._old = self._history.popleft()[1]
