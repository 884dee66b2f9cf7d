"""What the leader carries out: what is kept of it, and that it is driven on by who leads and by nobody else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairlead.base.errors import Refused
from fairlead.cluster import undertaking as module
from fairlead.cluster.undertaking import Driving, Ledger
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import StoreUnavailable
from fairlead.store.sqlite import SQLiteStore
from tests.world import ManualClock


@dataclass(frozen=True, slots=True)
class Errand:
    id: str
    asked_at: int


def encode(errand: Errand) -> bytes:
    return f"{errand.asked_at} {errand.id}".encode()


def decode(text: bytes) -> Errand:
    at, _, name = text.decode().partition(" ")
    return Errand(name, int(at))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    opened = SQLiteStore.open(tmp_path / "store.sqlite", ManualClock())
    yield opened
    await opened.close()


async def test_the_last_few_that_are_over_are_kept_the_newest_first(
        store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAST", 2)
    ledger = Ledger(store, "errand", encode, decode)
    for number in (7, 8, 9, 10):
        errand = Errand(f"e{number}", number)
        await store.transact([], ledger.going(errand))
        current = await ledger.current()
        assert current is not None
        assert current[1] == errand == await ledger.named(errand.id)
        await store.transact([], await ledger.ending(errand))
        assert await ledger.current() is None
    assert await ledger.past() == [Errand("e10", 10), Errand("e9", 9)]
    assert (await ledger.named("e9"), await ledger.named("e8")) == (Errand("e9", 9), None)


@dataclass
class Road:
    """Where a driver goes: each turn does what is due, and is seen."""

    leads: bool = True
    due: BaseException | bool = False
    turns: "asyncio.Queue[bool]" = field(default_factory=asyncio.Queue)
    asked: "asyncio.Queue[bool]" = field(default_factory=asyncio.Queue)
    """What was answered when it was asked who leads."""

    def leading(self) -> bool:
        self.asked.put_nowait(self.leads)
        return self.leads

    async def depose(self, driver: "Driver") -> None:
        self.leads = False
        driver.nudge()
        while await self.asked.get():
            pass


class Driver(Driving):
    def __init__(self, road: Road) -> None:
        super().__init__("errand", road.leading)
        self._road = road

    async def drive(self) -> bool:
        due = self._road.due
        self._road.turns.put_nowait(due is True)
        if isinstance(due, BaseException):
            raise due
        return due


@pytest.fixture
def road(monkeypatch: pytest.MonkeyPatch) -> Road:
    monkeypatch.setattr(module, "TICK_S", 0.001)
    return Road()


@pytest.fixture
async def driver(road: Road) -> AsyncIterator[Driver]:
    made = Driver(road)
    driving = asyncio.ensure_future(made.run())
    async with asyncio.timeout(20):
        yield made
    assert not driving.done(), "whatever came, it goes on"
    driving.cancel()


async def nobody_drives(road: Road) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):  # fifty ticks
            await road.turns.get()


async def test_while_nothing_is_under_way_it_looks_when_something_has_changed_only(driver: Driver, road: Road) -> None:
    assert await road.turns.get() is False
    driver.nudge()
    assert await road.turns.get() is False
    await nobody_drives(road)
    road.due = True
    driver.nudge()
    for _ in range(5):  # and then by itself
        assert await road.turns.get() is True


async def test_who_does_not_lead_drives_nothing_and_has_no_problem(driver: Driver, road: Road) -> None:
    road.due = Refused("FL-TEST", "it does not work")
    driver.nudge()
    while not driver.problem:
        await road.turns.get()
    assert driver.problem == "it does not work [FL-TEST]"
    await road.depose(driver)
    assert driver.problem == ""
    while not road.turns.empty():
        road.turns.get_nowait()
    driver.nudge()
    await nobody_drives(road)


@pytest.mark.parametrize("passes", [StoreUnavailable("no quorum"), NotLeading("ctl-2")], ids=["store", "leader"])
async def test_what_passes_by_itself_is_no_problem(driver: Driver, road: Road, passes: BaseException) -> None:
    road.due = passes
    driver.nudge()
    for _ in range(5):
        await road.turns.get()
    assert driver.problem == ""


@pytest.mark.parametrize("damage", [ValueError("x"), KeyError("x")], ids=["value", "key"])
async def test_a_record_that_cannot_be_read_ends_nobody(driver: Driver, road: Road, damage: BaseException) -> None:
    road.due = damage
    driver.nudge()
    while not driver.problem:
        await road.turns.get()
    assert "FL-STATE-DAMAGED" in driver.problem
    road.due = True
    while driver.problem:
        await road.turns.get()


async def test_who_leads_since_a_moment_ago_has_not_settled(
        driver: Driver, road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    road.due = True
    for _ in range(3):
        await road.turns.get()
    assert not driver.settled
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    assert driver.settled
    await road.depose(driver)
    assert not driver.settled
