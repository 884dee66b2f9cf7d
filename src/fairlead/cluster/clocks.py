"""Whose clock is off, by what the Controllers have measured of one another. Pure.

Rules, and the fault each stops:

1. The clock in the middle counts. A Controller whose own is further from it than `MOST_OFFSET` does not stand for
   leader, and one that leads stops before it writes the next mark: store time would go ahead with its clock, and every
   deadline with it.
2. Who has measured fewer than half of the others does not stand: right after a start it would be its own middle. Who
   leads goes on while it loses sight of them: etcd tells whether it still has a majority.
3. Of two middle ones the nearer counts: two Controllers alone cannot tell whose clock is wrong, and a cluster without a
   leader helps nobody. That they differ is said all the same.
"""

import statistics
from collections.abc import Mapping, Sequence

from fairlead.base.clock import SECOND

MOST_OFFSET = 30 * SECOND
"""How far the clock of one that leads, or comes in, may be off the middle of the Controllers."""


def fit(offsets: Sequence[int], controllers: int = 1) -> bool:
    """Whether a Controller may stand, given how far the clocks of others are ahead of its own (microseconds).

    *controllers*: how many there are, this one included; 1 to do without a majority of clocks.
    """
    return len(offsets) + 1 > controllers // 2 and abs(_off(0, [0, *offsets])) <= MOST_OFFSET


def astray(clocks: Mapping[str, int]) -> Mapping[str, int]:
    """Those of *clocks* (by name, microseconds from any zero) that are off the middle, and how far they are ahead."""
    return {name: off for name, clock in sorted(clocks.items())
            if abs(off := _off(clock, list(clocks.values()))) > MOST_OFFSET}


def alarms(clocks: Mapping[str, int]) -> list[str]:
    """A line for each clock of *clocks* that is off; or one that they differ, where nobody can tell which is."""
    if found := astray(clocks):
        return [alarm(name, off) for name, off in found.items()]
    low, high = (statistics.median_low(clocks.values()), statistics.median_high(clocks.values())) if clocks else (0, 0)
    if high - low <= MOST_OFFSET:
        return []
    apart = f"{(high - low) / SECOND:.0f} s apart"
    return [f"the clocks of {' and '.join(sorted(clocks))} are {apart}: set right the one that is wrong [FL-TIME-OFF]"]


def alarm(name: str, off: int) -> str:
    """The line for one clock that is *off*, by so many microseconds."""
    return f"the clock of {name} is {off / SECOND:+.0f} s off the others': it does not lead [FL-TIME-OFF]"


def _off(clock: int, clocks: Sequence[int]) -> int:
    """How far *clock* is ahead of the middle of *clocks*, the nearer one of two."""
    return min((clock - middle for middle in (statistics.median_low(clocks), statistics.median_high(clocks))), key=abs)
