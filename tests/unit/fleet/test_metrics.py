"""What engines tell in numbers stands under their own names, while they are connected, and changes nothing else."""

import asyncio
import json
import math
import struct
from typing import Any

import pytest

from fairlead.fleet.metrics import EngineMetrics
from fairlead.keys.ssh import PrivateKey
from fairlead.link.messages import Heartbeat, Metrics, MetricsWanted
from fairlead.link.metrics import NAMES
from tests.unit.fleet import test_sessions as sessions
from tests.unit.fleet.test_sessions import FakeChannel, House
from tests.unit.nodes.test_policy import SE_1, SE_2

house = sessions.house
SECOND_USER = PrivateKey.from_seed(b"v" * 32)


class Fleet:
    """A house whose engines are asked for numbers."""

    def __init__(self, here: House) -> None:
        self.house = here
        self.metrics = EngineMetrics(here.sessions)
        here.sessions.add(self.metrics)
        here.key(SE_2, SECOND_USER, "user")

    async def link(self, key: PrivateKey | None = None, software: str = "x metrics/1") -> tuple[Any, FakeChannel]:
        tunnel = self.house.tunnel(key) if key else self.house.tunnel()
        return tunnel, await self.house.link(tunnel, software=software)

    def last(self) -> dict[str, dict[str, float]]:
        return {node_id: {name: value for name, value in zip(NAMES, values, strict=True) if not math.isnan(value)}
                for node_id, values in self.metrics.last().items()}


@pytest.fixture
async def fleet(house: House) -> Fleet:
    return Fleet(house)


async def answered(channel: FakeChannel) -> None:
    """Everything that was told before has been heard."""
    channel.tell(Heartbeat(sequence=9, time=1))
    assert isinstance(await channel.hear(), Heartbeat)


async def test_an_engine_is_asked_and_its_last_numbers_are_kept_until_it_goes(fleet: Fleet) -> None:
    tunnel, channel = await fleet.link()
    assert await channel.hear() == MetricsWanted(every_s=15.0, names=list(NAMES))
    for load in (1.0, 2.0):
        channel.tell(Metrics(values={"load1": load, "streams": 3}))
    await answered(channel)
    assert fleet.last() == {SE_1.id: {"load1": 2.0, "streams": 3.0}}
    channel.told.put_nowait(b"")
    await asyncio.wait_for(tunnel.wait_closed(), 10)
    assert fleet.last() == {}


async def test_who_does_not_know_of_numbers_is_not_asked(fleet: Fleet) -> None:
    _, channel = await fleet.link(software="x")
    channel.tell(Metrics(values={"load1": 1.0}))
    await answered(channel)
    assert fleet.last() == {}


def frame(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode()


@pytest.mark.parametrize("text", [
    '{"kind":"metrics","values":{"load1":NaN}}', '{"kind":"metrics","values":{"load1":1e999}}',
    '{"kind":"metrics","values":{"load1":1e300}}', '{"kind":"metrics","values":{"load1":-1}}',
    '{"kind":"metrics","values":{"up":1}}', '{"kind":"metrics","values":{"load1":1},"engine":"se-2"}',
    '{"kind":"metrics","values":{"load1":1,"load1":2}}',
    json.dumps({"kind": "metrics", "values": {f"x{number}": 1.0 for number in range(100_000)}})])
async def test_attack_absurd_numbers_end_the_link_that_said_them_and_change_nothing_for_others(
        fleet: Fleet, text: str) -> None:
    hostile, channel = await fleet.link()
    other, honest = await fleet.link(SECOND_USER)
    honest.tell(Metrics(values={"load1": 0.25}))
    await honest.hear()
    await answered(honest)
    channel.told.put_nowait(frame(text))
    await asyncio.wait_for(hostile.wait_closed(), 10)
    await answered(honest)
    assert not other.closed.is_set()
    assert fleet.last() == {SE_2.id: {"load1": 0.25}}
