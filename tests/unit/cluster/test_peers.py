"""Questions between Controllers: answered with their refusals, never waited for when nobody is there."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.cluster import peers as rooms
from fairlead.cluster.peers import Peers, converse
from fairlead.link import frames
from fairlead.link.controllers import Reply
from fairlead.link.messages import PlanController
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel
from tests.contract.backends import ManualClock
from tests.world import refusal

DEADLINE = 10
CTL_2 = PlanController(node_id="id-2", name="ctl-2", addresses=["192.0.2.20"], ssh_port=22, portal_port=8443,
                       internal_address="127.64.0.2", host_key="h", user_key="u")
ME = Peer("id-1", "ctl-1", "controller", "avictlruser", "active", "")


class End:
    """One end of a channel in memory."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.other: End = self
        self.gone = False

    async def receive(self) -> bytes:
        return await self.incoming.get()

    async def send(self, data: bytes) -> None:
        if self.gone:
            raise Refused("FL-STREAM-LOST", "the tunnel is gone")
        self.other.incoming.put_nowait(data)

    def hang_up(self) -> None:
        for end in (self, self.other):
            end.gone = True
            end.incoming.put_nowait(b"")


@dataclass
class FakeTunnel:
    end: End
    reason: str = ""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def subsystem(self, name: str) -> End:
        assert name == "fairlead-controller"
        return self.end

    def close(self, reason: str) -> None:
        self.reason = reason
        self.closed.set()
        self.end.hang_up()


class Wire:
    """ctl-1 asks, ctl-2 answers with what the test says."""

    def __init__(self) -> None:
        self.near, self.far = End(), End()
        self.near.other, self.far.other = self.far, self.near
        self.here, self.there = ManualClock(), ManualClock()
        self.peers = Peers(self.here)
        self.tunnel = FakeTunnel(self.near)
        self.entered, self.release = asyncio.Event(), asyncio.Event()
        self.bugs: list[Any] = []

    async def answer(self, peer: Peer, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        assert peer is ME
        match op:
            case "double":
                return {"twice": fields["n"] * 2}
            case "wait":
                self.entered.set()
                await self.release.wait()
                return {}
            case "down":
                raise StoreUnavailable("no quorum")
            case "bug":
                raise ZeroDivisionError
            case _:
                raise Refused("FL-NODE-UNKNOWN", f"there is no {op}", "look again")


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: made.bugs.append(context.get("exception")))
    tasks = [asyncio.ensure_future(made.peers.talk(CTL_2, cast("Tunnel", made.tunnel))),
             asyncio.ensure_future(converse(made.answer, made.there, ME, cast("Channel", made.far)))]
    async with asyncio.timeout(DEADLINE):
        while "ctl-2" not in made.peers.offsets:  # noqa: ASYNC110 - the first beat
            await asyncio.sleep(0)
    yield made
    made.near.hang_up()
    await asyncio.wait(tasks, timeout=DEADLINE)
    assert all(task.done() and task.exception() is None for task in tasks)


async def test_questions_are_answered_each_in_its_own_time(wire: Wire) -> None:
    assert wire.peers.connected == ["ctl-2"]
    slow = asyncio.ensure_future(wire.peers.ask("ctl-2", "wait"))
    await asyncio.wait_for(wire.entered.wait(), DEADLINE)
    answers = await asyncio.gather(*(wire.peers.ask("ctl-2", "double", n=n) for n in range(300)))
    assert [answer["twice"] for answer in answers] == [2 * n for n in range(300)]
    assert not slow.done()
    wire.release.set()
    assert await slow == {}


async def test_a_refusal_comes_over_as_it_was_decided(wire: Wire) -> None:
    with pytest.raises(Refused) as caught:
        await wire.peers.ask("ctl-2", "engine")
    assert (caught.value.code, caught.value.message, caught.value.remedy) == (
        "FL-NODE-UNKNOWN", "there is no engine", "look again")
    with pytest.raises(StoreUnavailable, match="no quorum"):
        await wire.peers.ask("ctl-2", "down")


async def test_a_fault_over_there_is_told_over_there_and_ends_no_conversation(wire: Wire) -> None:
    assert await refusal(wire.peers.ask("ctl-2", "bug", timeout_s=60)) == "FL-STORE"  # at once
    assert [type(bug) for bug in wire.bugs] == [ZeroDivisionError]
    assert (await wire.peers.ask("ctl-2", "double", n=1))["twice"] == 2


async def test_nobody_is_waited_for_who_is_not_there(wire: Wire) -> None:
    assert await refusal(wire.peers.ask("ctl-3", "double", n=1)) == "FL-STORE"
    asking = asyncio.ensure_future(wire.peers.ask("ctl-2", "wait", timeout_s=60))
    await asyncio.wait_for(wire.entered.wait(), DEADLINE)
    wire.near.hang_up()
    assert await asyncio.wait_for(refusal(asking_of(asking)), DEADLINE) == "FL-STORE"
    async with asyncio.timeout(DEADLINE):
        while wire.peers.connected:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert await refusal(wire.peers.ask("ctl-2", "double", n=1)) == "FL-STORE"


async def asking_of(asking: "asyncio.Future[dict[str, Any]]") -> dict[str, Any]:
    return await asking


async def test_who_does_not_answer_the_beat_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "SILENT_S", 0.1)
    wire = Wire()  # whose far end nobody serves
    talking = asyncio.ensure_future(wire.peers.talk(CTL_2, cast("Tunnel", wire.tunnel)))
    await asyncio.wait_for(wire.tunnel.closed.wait(), DEADLINE)
    assert "does not answer" in wire.tunnel.reason
    await asyncio.wait_for(talking, DEADLINE)


async def test_how_far_the_clocks_are_apart_is_known(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wire.peers.offsets["ctl-2"] == 0
    monkeypatch.setattr(rooms, "BEAT_S", 0.0)
    wire.there.instant += 90 * SECOND
    async with asyncio.timeout(DEADLINE):
        while wire.peers.offsets["ctl-2"] != 90:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_clock_that_is_set_here_shows_at_once(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking again: whose own clock jumps must not lead with it for another second."""
    right = wire.here.monotonic
    monkeypatch.setattr(wire.here, "monotonic", lambda: right() - 3600)
    wire.here.instant += 3600 * SECOND
    assert wire.peers.offsets["ctl-2"] == -3600


async def test_whose_clock_was_right_is_remembered_for_a_while(wire: Wire) -> None:
    """When one of three is gone, the other two would not know which of them is wrong."""
    wire.near.hang_up()
    async with asyncio.timeout(DEADLINE):
        while wire.peers.connected:  # noqa: ASYNC110
            await asyncio.sleep(0)
    wire.here.instant += 60 * SECOND
    assert wire.peers.offsets == {"ctl-2": 0}  # the other one's clock has gone on
    wire.here.instant += 3600 * SECOND
    assert wire.peers.offsets == {}


@pytest.mark.parametrize("said", [b"\0\0\0\x02{}", frames.encode({"id": 1, "op": "x", "more": 1}),
                                  frames.encode({"id": -1, "op": "x"}), b"\xff\xff\xff\xff"])
async def test_attack_what_is_no_question_ends_the_conversation(said: bytes) -> None:
    wire = Wire()
    serving = asyncio.ensure_future(converse(wire.answer, wire.there, ME, cast("Channel", wire.far)))
    wire.far.incoming.put_nowait(said)
    await asyncio.wait_for(serving, DEADLINE)


async def test_attack_a_reply_to_a_question_that_nobody_asked_is_nothing(wire: Wire) -> None:
    wire.near.incoming.put_nowait(frames.encode(Reply(id=2**40, result={"twice": 0}).model_dump()))
    assert (await wire.peers.ask("ctl-2", "double", n=3))["twice"] == 6


@pytest.mark.parametrize("instant", [10**314, -1, "x", None, True, 1.5])
async def test_attack_a_time_that_is_none_ends_the_connection_and_moves_no_median(
        instant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stands for leader reckons with these: a number beyond all calendars would end the daemon there."""
    wire = Wire()
    monkeypatch.setattr(wire.there, "now", lambda: instant)
    tasks = [asyncio.ensure_future(wire.peers.talk(CTL_2, cast("Tunnel", wire.tunnel))),
             asyncio.ensure_future(converse(wire.answer, wire.there, ME, cast("Channel", wire.far)))]
    await asyncio.wait_for(wire.tunnel.closed.wait(), DEADLINE)
    assert wire.peers.offsets == {}
    await asyncio.wait(tasks, timeout=DEADLINE)
