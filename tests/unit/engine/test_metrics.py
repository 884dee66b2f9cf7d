"""An engine tells the numbers that it is asked for, now and then, and no others."""

import asyncio
import contextlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.base.clock import SystemClock
from fairlead.engine import metrics
from fairlead.engine.link import Link
from fairlead.link import frames
from fairlead.link.messages import Heartbeat, Hello, Metrics, MetricsWanted, Welcome, from_engine
from fairlead.transport.traffic import Traffic


class Controller:
    """The other end: it welcomes, may ask for numbers, and answers each heartbeat."""

    def __init__(self, *asks: MetricsWanted) -> None:
        self.told: asyncio.Queue[bytes] = asyncio.Queue()
        self.heard: list[Any] = []
        self.decoder = frames.Decoder()
        for message in (Welcome(v=1, epoch=1, server_time=0, heartbeat_s=0.01), *asks):
            self.told.put_nowait(frames.encode(message.model_dump()))

    async def subsystem(self, name: str) -> "Controller":
        return self

    async def receive(self) -> bytes:
        return await self.told.get()

    async def send(self, data: bytes) -> None:
        for message in map(from_engine, self.decoder.feed(data)):
            self.heard.append(message)
            if isinstance(message, Heartbeat):
                self.told.put_nowait(frames.encode(Heartbeat(sequence=message.sequence, time=0).model_dump()))


async def talk(controller: Controller, heartbeats: int) -> list[Metrics]:
    """What it told of itself in so many heartbeats."""
    numbers = itertools.count()
    engine: Any = SimpleNamespace(plan=None, problems=[], heard=lambda _: None, documents=SimpleNamespace(
        left=lambda _: None), measure=lambda: {"load1": float(next(numbers)), "streams": 2})
    talking = asyncio.ensure_future(Link(engine, SystemClock(), "fairlead/1").talk(
        cast("Any", SimpleNamespace(name="ctl-1")), cast("Any", controller)))
    async with asyncio.timeout(20):
        while sum(isinstance(one, Heartbeat) for one in controller.heard) <= heartbeats:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    assert isinstance(controller.heard[0], Hello)
    assert "metrics/1" in controller.heard[0].software.split()
    return [one for one in controller.heard if isinstance(one, Metrics)]


@pytest.mark.parametrize(("every_s", "names", "told"), [
    (0.001, ["load1"], [{"load1": 0.0}, {"load1": 1.0}]), (3600, ["load1", "of_another_version"], [{"load1": 0.0}]),
    (3600, [], [{}])])
async def test_it_tells_what_is_asked_for_about_so_often(every_s: float, names: list[str], told: list[Any]) -> None:
    said = await talk(Controller(MetricsWanted(every_s=every_s, names=names)), 5)
    assert [one.values for one in said[:2]] == told


async def test_a_controller_that_does_not_ask_is_told_nothing() -> None:
    assert await talk(Controller(), 3) == []


def test_what_is_measured_is_there_and_is_what_messages_take() -> None:
    ended = cast("Any", SimpleNamespace(streams=0, bytes_in=3, bytes_out=4))
    live = cast("Any", SimpleNamespace(streams=2, bytes_in=1, bytes_out=1))
    traffic = Traffic()
    traffic.ended(ended)
    documents = cast("Any", SimpleNamespace(held=[SimpleNamespace(tried=0), SimpleNamespace(tried=7)]))
    found = {**metrics.of_process(12.5), **metrics.of_streams(traffic, [live]), **metrics.of_documents(documents),
             **metrics.of_spool(cast("Any", SimpleNamespace(pending=5, most=9, dropped=2)))}
    assert Metrics(values=found).values == found
    assert (found["streams"], found["stream_bytes_in"], found["stream_bytes_out"]) == (2, 4, 5)
    assert (found["uptime_seconds"], found["documents_refused"]) == (12.5, 1)
    assert (found["spool_bytes"], found["spool_most_bytes"], found["spool_dropped_bytes"]) == (5, 9, 2)
    assert found["resident_bytes"] > 1_000_000


def test_descriptors_are_counted_as_they_are_opened_whatever_the_kernel_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> float:
        return metrics.of_process(1.0)["open_descriptors"]

    with contextlib.ExitStack() as opened:
        before = count()
        for _ in range(7):
            opened.enter_context(Path("/dev/null").open())
        assert count() == before + 7
        old_kernel = SimpleNamespace(st_size=0)
        monkeypatch.setattr("fairlead.engine.metrics.os.stat", lambda _: old_kernel)
        assert before + 7 <= count() <= before + 8, "the folder that is read is open itself"
