"""Connections to Controllers are kept, repaired and shared."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from fairlead.base.backoff import FullJitter
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.link.messages import PlanController
from fairlead.mesh.supervisor import Supervisor
from fairlead.transport.dialler import Busy
from fairlead.transport.tunnel import Tunnel

CTL = PlanController(node_id="1", name="ctl-1", addresses=["inside", "outside"], ssh_port=22, portal_port=8443,
                     internal_address="127.64.0.1", host_key="h", user_key="u")


class FakeTunnel:
    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = asyncio.Event()

    def close(self, reason: str) -> None:
        self.closed.set()


class Road:
    """Dials, and says who answers."""

    def __init__(self) -> None:
        self.answers = {"inside"}
        self.dialled: list[str] = []
        self.talking: asyncio.Queue[FakeTunnel] = asyncio.Queue()
        self.offered: list[FakeTunnel] = []
        self.failures: asyncio.Queue[FairleadError] = asyncio.Queue()
        self.bug: Exception | None = None
        self.busy: int | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.code = "FL-SSH-UNREACHABLE"
        """Why nobody answers."""
        self.supervisor = Supervisor(self.dial, self.talk, self.opened, self.failed)

    async def dial(self, _: PlanController, address: str) -> Tunnel:
        self.dialled.append(address)
        await asyncio.sleep(0)
        await self.open.wait()
        if self.busy is not None:
            raise Busy(address, self.busy)
        if address not in self.answers:
            raise OperatorError(self.code, address)
        return cast("Tunnel", FakeTunnel(address))

    async def talk(self, _: PlanController, tunnel: Tunnel) -> None:
        fake = cast("Any", tunnel)
        self.talking.put_nowait(fake)
        await fake.closed.wait()
        if self.bug:
            raise self.bug

    async def opened(self, _: PlanController, tunnel: Tunnel) -> None:
        self.offered.append(cast("Any", tunnel))

    async def failed(self, _: PlanController, error: FairleadError) -> None:
        self.failures.put_nowait(error)


@pytest.fixture
async def road() -> AsyncIterator[Road]:
    made = Road()
    yield made
    await made.supervisor.close()


async def test_a_link_that_ends_is_dialled_again(road: Road) -> None:
    road.supervisor.want([CTL])
    first = await asyncio.wait_for(road.talking.get(), 10)
    assert road.supervisor.connected
    first.close("cut")
    assert await asyncio.wait_for(road.talking.get(), 10) is not first


async def test_who_finds_no_place_comes_again_within_the_time_that_it_was_told(
        road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(_: random.SystemRandom, low: float, high: float) -> float:
        asked.append((low, high))
        road.busy = None
        return 0.0

    road.busy = 41
    monkeypatch.setattr(random.SystemRandom, "uniform", uniform)
    road.supervisor.want([CTL])
    assert (await asyncio.wait_for(road.talking.get(), 10)).address == "inside"
    assert asked == [(0.0, 41)]


@pytest.mark.parametrize(("code", "most_s"), [("FL-SSH-UNREACHABLE", 4.0), ("FL-SSH-REFUSED", 15.0)])
async def test_nobody_there_is_tried_again_sooner_than_who_refuses(
        road: Road, monkeypatch: pytest.MonkeyPatch, code: str, most_s: float) -> None:
    """A handshake costs its Controller something; a socket that nobody listens to costs nothing."""
    asked: list[float | None] = []

    def pause(_: FullJitter, most: float | None = None) -> float:
        asked.append(most)
        road.answers = {"inside"}
        return 0.0

    monkeypatch.setattr(FullJitter, "next", pause)
    road.answers, road.code = set(), code
    road.supervisor.want([CTL])
    await asyncio.wait_for(road.talking.get(), 10)
    assert asked == [most_s]


async def test_addresses_are_tried_in_order(road: Road) -> None:
    road.answers = {"outside"}
    road.supervisor.want([CTL])
    assert (await asyncio.wait_for(road.talking.get(), 10)).address == "outside"
    assert road.dialled == ["inside", "outside"]


async def test_control_and_streams_never_share_a_connection_and_one_is_opened_for_all(road: Road) -> None:
    road.supervisor.want([CTL])
    link = await asyncio.wait_for(road.talking.get(), 10)
    streams = await asyncio.gather(*(road.supervisor.carrier("ctl-1", "127.64.0.1", 80) for _ in range(10)))
    assert len(set(map(id, streams))) == 1
    assert cast("Any", streams[0]) is not link
    assert len(road.offered) == 1


async def test_the_first_connection_of_a_process_is_a_link(road: Road) -> None:
    """Or the stream would be closed with the connections of the process of before."""
    road.open.clear()
    road.supervisor.want([CTL])
    asked = asyncio.create_task(road.supervisor.carrier("ctl-1", "127.64.0.1", 80))
    for _ in range(10):
        await asyncio.sleep(0)
    assert road.dialled == ["inside"]
    road.open.set()
    link = await asyncio.wait_for(road.talking.get(), 10)
    assert cast("Any", await asyncio.wait_for(asked, 10)) is not link


async def test_whoever_waits_for_a_controller_that_leaves_is_told(road: Road) -> None:
    road.open.clear()
    road.supervisor.want([CTL])
    asked = [asyncio.create_task(road.supervisor.stream_to("ctl-1")) for _ in range(3)]
    for _ in range(10):
        await asyncio.sleep(0)
    road.supervisor.want([])
    async with asyncio.timeout(10):
        refusals = await asyncio.gather(*asked, return_exceptions=True)
    assert [cast("Refused", one).code for one in refusals] == ["FL-STREAM-DOWN"] * 3


async def test_who_asks_for_a_stream_before_there_is_a_link_has_it_tried_at_once(
        road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FullJitter, "next", lambda *_: 1000.0)
    road.answers = set()
    road.supervisor.want([CTL])
    await asyncio.wait_for(road.failures.get(), 10)
    with pytest.raises(Refused) as refusal:  # at once: nobody waits for a delay to pass
        await asyncio.wait_for(road.supervisor.carrier("ctl-1", "127.64.0.1", 80), 5)
    assert refusal.value.code == "FL-STREAM-DOWN"
    road.answers = {"inside"}
    assert await asyncio.wait_for(road.supervisor.carrier("ctl-1", "127.64.0.1", 80), 5)


async def test_who_is_no_controller_carries_nothing(road: Road) -> None:
    with pytest.raises(Refused) as refusal:
        await road.supervisor.carrier("se-9", "127.64.1.9", 80)
    assert refusal.value.code == "FL-STREAM-DOWN"


async def test_a_controller_that_left_is_hung_up_on(road: Road) -> None:
    road.supervisor.want([CTL])
    link = await asyncio.wait_for(road.talking.get(), 10)
    road.supervisor.want([])
    assert link.closed.is_set()
    assert not road.supervisor.connected


async def test_another_host_key_ends_what_was_made_with_the_old_one(road: Road) -> None:
    road.supervisor.want([CTL])
    link = await asyncio.wait_for(road.talking.get(), 10)
    road.supervisor.want([CTL.model_copy(update={"host_key": "other"})])
    assert link.closed.is_set()


async def test_a_host_key_that_changes_by_steps_ends_nothing(road: Road) -> None:
    road.supervisor.want([CTL])
    link = await asyncio.wait_for(road.talking.get(), 10)
    for keys in (("h", "next"), ("next", "h"), ("next", ""), ("next", "third"), ("third", "")):
        road.supervisor.want([CTL.model_copy(update=dict(zip(("host_key", "next_host_key"), keys, strict=True)))])
        assert not link.closed.is_set()
    for keys in (("other", ""), ("h", "")):
        road.supervisor.want([CTL.model_copy(update=dict(zip(("host_key", "next_host_key"), keys, strict=True)))])
        assert link.closed.is_set()


async def test_failures_are_told_and_a_bug_is_not_swallowed(road: Road) -> None:
    road.answers = set()
    road.supervisor.want([CTL])
    assert (await asyncio.wait_for(road.failures.get(), 10)).code == "FL-SSH-UNREACHABLE"
    road.answers, road.bug = {"inside"}, ZeroDivisionError()
    road.supervisor.want([CTL.model_copy(update={"ssh_port": 23})])  # a changed plan: at once
    (await asyncio.wait_for(road.talking.get(), 10)).close("cut")
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(road.supervisor.watch(), 10)


async def test_a_controller_that_shows_itself_is_dialled_at_once(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peers may have tried in vain for long, and wait for long by now."""
    monkeypatch.setattr(FullJitter, "next", lambda *_: 3600.0)
    road.answers = set()
    road.supervisor.want([CTL])
    await asyncio.wait_for(road.failures.get(), 10)
    road.answers = {"inside"}
    road.supervisor.nudge("ctl-1")
    await asyncio.wait_for(road.talking.get(), 10)
    dialled = len(road.dialled)
    road.supervisor.nudge("ctl-1")  # it is connected
    road.supervisor.nudge("ctl-9")  # nobody
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(road.talking.get(), 0.05)
    assert len(road.dialled) == dialled
