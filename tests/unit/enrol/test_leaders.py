"""A token is issued while one Controller leads and redeemed while another does, with another clock: its ten minutes.

Time is told apart here: what passes (`at`, seconds), what each Controller's clock shows, and the store's, which is the
mark that the leader writes. The terms are the product's (`cluster.tenure`), as is all that is done with the token.
"""

from collections.abc import Awaitable
from dataclasses import replace

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.cluster.tenure import LEADER, MARGIN, Leader, Reckoning, Tenure, Timing, first_mark
from fairlead.enrol.bundle import Bundle
from fairlead.store.protocol import MARK, Delete, Put, mark_value
from tests.world import START, Machine, World

TIMING = Timing()
LIFETIME_S = 600
CALLED_S = 0.5
"""A follower reads the mark twice each second."""
OLDEST_S = TIMING.lease_s + TIMING.period_s
"""How old the mark can be while its leader leads."""


class Controller:
    """One that leads at times. It has no clock but its own."""

    def __init__(self, world: World, name: str, ahead_s: float) -> None:
        self.world, self.name, self.ahead_s = world.beside(), name, ahead_s
        self.reckoning = Reckoning()
        self.tenure: Tenure | None = None

    def wall(self, at: float) -> int:
        return START + round((at + self.ahead_s) * SECOND)

    async def looks(self, at: float) -> None:
        """As one that follows."""
        self.reckoning.saw(await self.world.store.get(MARK), at)

    async def takes_over(self, at: float) -> None:
        store, found = self.world.store.inner, await self.world.store.get(MARK)
        mark = first_mark(self.wall(at), found, self.reckoning.now(at))
        await store.transact([], [Delete(LEADER)])
        begun = await store.transact([], [Put(LEADER, self.name.encode()), Put(MARK, mark_value(mark))])
        tenure = self.tenure = Tenure(Leader(self.name, self.name, 1, 1), begun.revision, mark, at, TIMING)
        enrolment = self.world.enrolment
        enrolment.office = replace(enrolment.office, fence=lambda: (tenure.fence,), margin=MARGIN)

    async def leads(self, begins: float, ends: float, *, seen_by: "Controller | None" = None) -> None:
        """It writes the mark in each period; who follows sees it soon."""
        at = begins
        while (at := at + TIMING.period_s) <= ends:
            assert self.tenure is not None
            mark = self.tenure.mark(self.wall(at), at)
            assert (await self.world.store.inner.transact(*self.tenure.marking(mark))).succeeded
            self.tenure.marked(mark, at)
            if seen_by is not None:
                await seen_by.looks(at + CALLED_S)

    async def redeems(self, bundle: Bundle) -> bool:
        found = await outcome(self.world.exchange(bundle, Machine(), bundle.node or ""))
        assert found in ("done", "FL-JOIN-EXPIRED")
        return found == "done"


async def outcome(work: Awaitable[object]) -> str:
    """The code of the refusal, or that there was none."""
    try:
        await work
    except Refused as refused:
        return refused.code
    return "done"


async def last_redeemed(world: World, one: Controller, two: Controller, *, changes: float, gap: float,
                        saw: bool = True) -> float:
    """How old a token was at most when the second Controller took it.

    The first one issues it at the beginning, and leads until *changes*; for *gap* seconds nobody does. *saw*: the other
    one ran before.
    """
    await one.takes_over(0.0)
    issued: dict[float, Bundle] = {}
    ages = [float(LIFETIME_S + late) for late in (-45, -12, *range(-8, 4), 6, 10, 20, 27, 31, 35)]
    for number, age in enumerate(ages):
        issued[age] = await one.world.export(node=f"se-{number}", lifetime_s=LIFETIME_S)
    await one.leads(changes - 5, changes, seen_by=two if saw else None)
    begins = changes + gap
    await two.takes_over(begins)
    redeemed = []
    for age in ages:
        if age - OLDEST_S > begins:
            await two.leads(begins, age - OLDEST_S)
            begins += (age - OLDEST_S - begins) // TIMING.period_s * TIMING.period_s
        if await two.redeems(issued[age]):
            redeemed.append(age)
    assert redeemed, "in time it is good"
    return max(redeemed)


@pytest.mark.parametrize(("one", "two"), [(0, 0), (30, 0), (15, -15), (-15, 15)])
@pytest.mark.parametrize("gap", [4.5, 60.0])
async def test_no_change_of_leaders_gives_a_token_more_than_its_ten_minutes(world: World, one: int, two: int,
                                                                           gap: float) -> None:
    """Whoever leads next, after a moment or an outage of a minute, with a clock up to half a minute behind or ahead."""
    first, second = Controller(world, "ctl-1", one), Controller(world, "ctl-2", two)
    assert await last_redeemed(world, first, second, changes=500.0, gap=gap) < LIFETIME_S


async def test_who_was_off_itself_knows_its_own_clock_only(world: World) -> None:
    """The limit of the claim: it started after the outage, half a minute behind."""
    first, second = Controller(world, "ctl-1", 0), Controller(world, "ctl-2", -30)
    last = await last_redeemed(world, first, second, changes=500.0, gap=60.0, saw=False)
    assert LIFETIME_S < last < LIFETIME_S + 30
