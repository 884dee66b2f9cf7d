"""What a link does about its path: the kernel's figures are made up, everything else is real."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from fairlead.transport.accelerated import kernel, pace
from fairlead.transport.accelerated.link import Link
from fairlead.transport.options import MOST_WINDOW
from fairlead.transport.peer import Target
from tests.unit.transport.world import World, echo, until, world

HOST, PORT = "127.64.0.1", 5432
SIZE = 24 << 20


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world(environment={}) as made:
        yield made


async def to_echo(w: World) -> tuple[Link, asyncio.StreamReader, asyncio.StreamWriter]:
    """The link that dials, and a program whose bytes come back."""
    w.door.targets[HOST, PORT] = Target("127.0.0.1", await w.serve(echo), "db")
    tunnel = await w.dial()
    front = await w.front(tunnel, HOST, PORT)
    link = tunnel.connection.link
    assert isinstance(link, Link)
    return link, *await w.connect(front.port)


async def test_a_link_with_enough_under_way_waits_and_goes_on_by_itself(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    link, reader, writer = await to_echo(w)
    writer.write(b"first")
    assert await reader.readexactly(5) == b"first"
    path, now = link._pace, link.poller.now
    under_way = 1 << 30
    monkeypatch.setattr(kernel, "min_rtt", lambda _: 0.002)
    monkeypatch.setattr(kernel, "under_way", lambda _: under_way)
    for step in range(5):
        path.seen(now - 1 + 0.1 * step, 0.002, step << 30, under_way, stopped=True)
    assert path.budget
    link._look_at = 0.0
    writer.write(bytes(1 << 20))
    await until(lambda: link._pausing is not None)
    assert not link.sending
    under_way = 0
    async with asyncio.timeout(20):
        assert await reader.readexactly(1 << 20) == bytes(1 << 20)
    assert link.sending
    assert link._pausing is None, "a timer without anything to wait for"


async def test_a_window_grows_where_the_path_is_long_and_every_byte_arrives(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "min_rtt", lambda _: 5.0)
    windows: list[int] = []
    rule = pace.window

    def noted(present: int, elapsed: float, min_rtt: float | None) -> int:
        windows.append(rule(present, elapsed, min_rtt))
        return windows[-1]

    monkeypatch.setattr(pace, "window", noted)
    _, reader, writer = await to_echo(w)
    writer.write(bytes(SIZE))
    async with asyncio.timeout(60):
        assert await reader.readexactly(SIZE) == bytes(SIZE)
    assert max(windows) == MOST_WINDOW


async def test_without_figures_of_the_kernel_nothing_is_limited(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "under_way", lambda _: None)
    link, reader, writer = await to_echo(w)
    writer.write(bytes(1 << 20))
    async with asyncio.timeout(20):
        assert await reader.readexactly(1 << 20) == bytes(1 << 20)
    assert link._pace.budget is None
