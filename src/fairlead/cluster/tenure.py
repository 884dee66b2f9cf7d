"""One term of a leader, as a state machine: what is written and renewed when, and until when it is believed. Pure.

Rules, and the fault each stops:

1. The leader writes `MARK`, then renews its lease, then rests; it renews on no mark that is older than a period. So
   while the leader key stands, the mark is at most lease and period old (within `MARGIN`): a transaction that compares
   ``mark < deadline - MARGIN`` takes effect before the deadline, however long its request was under way.
2. It believes that it leads until its last renewed mark was *read off* plus the lease, by monotonic time: never from
   an answer, which may have been under way for long, nor from the renewal itself, which a store that has lost its
   majority may still have granted. So its belief ends before its lease does.
3. The mark rises with each writing, at least as fast as monotonic time: a wall clock that is set back, or a leader
   whose clock goes behind, gives no token its time again. Each writing compares that it is above what stands there: one
   that was under way for long does not take the mark back.
4. A follower takes the key from a leader whose mark stood still for a lease (`Stillness`): that one believes no more
   (rule 2). etcd lengthens every lease when its own leader changes; the mark would grow older than `MARGIN` meanwhile.
5. While nobody leads the mark stands still, and time goes on: who takes over counts on from the last mark that it saw
   (`Reckoning`). Or an outage would give every token its length again, as far as the new leader's clock is behind.
6. A Controller whose clock is far off the others' does not lead (`clocks`): the mark would run ahead, and with it every
   deadline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated

from pydantic import Field, TypeAdapter

from fairlead.base.clock import SECOND
from fairlead.store.protocol import MARK, Absent, Below, Born, Compare, Operation, Put, Record, Unchanged, mark_value

LEADER = "cluster/leader"
"""Who leads; under the leader's lease. Its revision of creation is what the term's transactions are fenced with."""
TERM = "cluster/term"
"""The number of the last term, in decimal digits."""
MARGIN = 7 * SECOND
"""How much earlier than its deadline a transaction must be: the leader's lease, and for how long one is repeated."""
NOTICED_STEP = SECOND
"""A wall clock that is less behind the mark trembles as disciplined clocks do."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a lease runs, and how often it is renewed."""

    lease_s: int = 3
    """Whole seconds; etcd makes less than one and a half of its election timeouts longer, which is refused then."""
    period_s: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError when `MARGIN` would not cover it."""
        if not self.covers(self.lease_s) or not 0 < self.period_s < self.lease_s:
            raise ValueError(f"a lease of {self.lease_s} s, renewed each {self.period_s} s, is not within the margin")

    @property
    def patience_s(self) -> float:
        """For how long what a leader has asked may be repeated while answers get lost: its mark is up to a lease old
        when it asks, and must not be older than `MARGIN` when that takes effect. Counts where etcd lengthens leases.
        """
        return MARGIN / SECOND - self.lease_s

    def covers(self, lease_s: int) -> bool:
        """Whether `MARGIN` covers a lease of that many seconds."""
        return lease_s >= 1 and (lease_s + self.period_s) * SECOND <= MARGIN


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as `LEADER` says it."""

    node: str
    """Its node id."""
    name: str
    term: Annotated[int, Field(ge=1)]
    lease: int


_ADAPTER: TypeAdapter[Leader] = TypeAdapter(Leader)


def encode(leader: Leader) -> bytes:
    """The value of `LEADER`."""
    return _ADAPTER.dump_json(leader)


def decode(value: bytes) -> Leader:
    """The leader of a stored value. Raises ValueError."""
    return _ADAPTER.validate_json(value)


class Step(Enum):
    """What a leader does next."""

    LOST = auto()
    """It leads no more."""
    MARK = auto()
    """It writes the mark."""
    RENEW = auto()
    """It renews its lease."""
    REST = auto()
    """It waits, `Tenure.rest` seconds at most."""


class Tenure:
    """A term that began. Times are monotonic seconds of one clock; marks are microseconds."""

    def __init__(self, leader: Leader, created: int, mark: int, at: float, timing: Timing) -> None:
        """*created*: the birth of `LEADER`. *mark*: what the take-over wrote, as read off *at*."""
        self.leader = leader
        self.created = created
        self._timing = timing
        self._base, self._began = mark, at
        self._last, self._marked = mark, at
        self._until = at + timing.lease_s

    @property
    def fence(self) -> Compare:
        """What each transaction of this term compares."""
        return Born(LEADER, self.created)

    def leads(self, now: float) -> bool:
        """Whether the term is still to be believed in."""
        return now < self._until

    def left(self, now: float) -> float:
        """Seconds until belief ends."""
        return max(0.0, self._until - now)

    def rest(self, now: float) -> float:
        """Seconds until the next mark is due."""
        return max(0.0, self._marked + self._timing.period_s - now)

    def step(self, now: float) -> Step:
        """What to do *now*."""
        if not self.leads(now):
            return Step.LOST
        if self.rest(now) <= 0:
            return Step.MARK
        if self._until < self._marked + self._timing.lease_s:
            return Step.RENEW
        return Step.REST

    def mark(self, wall: int, now: float) -> int:
        """The mark to write *now*, when this machine's clock shows *wall*."""
        return max(wall, self._base + int((now - self._began) * SECOND), self._last + 1)

    def marking(self, mark: int) -> tuple[Sequence[Compare], Sequence[Operation]]:
        """The transaction that writes *mark*."""
        return (self.fence, Below(MARK, mark_value(mark))), (Put(MARK, mark_value(mark)),)

    def marked(self, mark: int, at: float) -> None:
        """*mark*, read off *at*, was written."""
        self._last, self._marked = mark, at

    def found(self, mark: int, at: float) -> None:
        """The store's mark is this, above what was to be written: it is gone on from there."""
        self._base, self._began, self._last = mark, at, mark

    def renewed(self) -> None:
        """The lease was renewed after the last mark."""
        self._until = self._marked + self._timing.lease_s

    def end(self) -> None:
        """The key or the lease is gone."""
        self._until = float("-inf")


class Stillness:
    """For how long a follower has seen a leader's mark stand still."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def over(self, lease: int, revision: int, asked: float, answered: float) -> bool:
        """Whether the leader under *lease* can believe no more.

        *revision*: the mark's last change, as a reading found it that began and ended at these monotonic seconds.
        """
        if self._seen != (lease, revision):
            self._seen, self._since = (lease, revision), answered
            return False
        return asked - self._since >= self._timing.lease_s


class Reckoning:
    """Store time as a node counts it on by itself, from the marks that it has read."""

    def __init__(self) -> None:
        self._base: int | None = None

    def saw(self, mark: Record | None, answered: float) -> None:
        """*mark* was read, by an answer that was there at these monotonic seconds. Raises ValueError."""
        if mark is not None:
            base = int(mark.value) - int(answered * SECOND)
            self._base = base if self._base is None else max(self._base, base)

    def now(self, at: float) -> int:
        """The least that store time must be; 0 when no mark was seen."""
        return 0 if self._base is None else self._base + int(at * SECOND)


def first_mark(wall: int, found: Record | None, reckoned: int = 0) -> int:
    """The mark that a take-over writes over the one that it found. Raises ValueError."""
    return max(wall, reckoned, int(found.value) + 1 if found else 0)


def next_term(found: Record | None) -> int:
    """The number of the term after the one that was found. Raises ValueError."""
    return int(found.value) + 1 if found else 1


def taking_over(leader: Leader, mark: int, old_term: Record | None,
                old_mark: Record | None) -> tuple[Sequence[Compare], Sequence[Operation]]:
    """The transaction that begins a term: nobody leads, and the mark goes on from where the last leader left it."""
    return ((Absent(LEADER), as_read(TERM, old_term), as_read(MARK, old_mark)),
            (Put(LEADER, encode(leader), leader.lease), Put(TERM, b"%d" % leader.term), Put(MARK, mark_value(mark))))


def as_read(key: str, record: Record | None) -> Compare:
    """That *key* stands as it was read."""
    return Absent(key) if record is None else Unchanged(key, record.revision)
