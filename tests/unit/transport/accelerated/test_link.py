"""What a link does about its path: the kernel's figures are made up, everything else is real."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from fairlead.transport.accelerated import kernel, pace
from fairlead.transport.accelerated.link import Link
from fairlead.transport.accelerated.pace import LEAST_BUDGET
from fairlead.transport.accelerated.stream import Stream
from fairlead.transport.options import MOST_WINDOW
from fairlead.transport.peer import Target
from tests.unit.transport.world import World, echo, until, world

HOST, PORT = "127.64.0.1", 5432
SIZE = 24 << 20


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world(ways=("accelerated", "accelerated")) as made:
        yield made


async def to_echo(w: World) -> tuple[Link, asyncio.StreamReader, asyncio.StreamWriter]:
    """The link that dials, and a program whose bytes come back."""
    w.door.targets[HOST, PORT] = Target("127.0.0.1", await w.serve(echo), "db")
    tunnel = await w.dial()
    front = await w.front(tunnel, HOST, PORT)
    link = tunnel.connection.link
    assert isinstance(link, Link)
    return link, *await w.connect(front.port)


@pytest.fixture
def unsent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What kernels were told to take beyond what they send at once."""
    told: list[int] = []
    monkeypatch.setattr(kernel, "limit_unsent", lambda _, size: told.append(size))
    return told


def slow(link: Link, monkeypatch: pytest.MonkeyPatch, under_way: Callable[[], int]) -> None:
    """Have *link* believe that its path is long and slow, and look again in an hour or when too much was sent."""
    monkeypatch.setattr(kernel, "min_rtt", lambda _: 0.02)
    monkeypatch.setattr(kernel, "under_way", lambda _: under_way())
    now = link.poller.now
    for step in range(6):
        link._pace.seen(now - 6 + step, 0.02, step * 1_000_000, 1 << 20, stopped=True)
    assert link._pace.budget == LEAST_BUDGET
    link._look_at = 0.0
    link._look()
    link._look_at = now + 3600


async def test_a_link_with_enough_under_way_waits_and_goes_on_by_itself(
        w: World, monkeypatch: pytest.MonkeyPatch, unsent: list[int]) -> None:
    link, reader, writer = await to_echo(w)
    writer.write(b"first")
    assert await reader.readexactly(5) == b"first"
    arrives, before, under_way = False, 0, 0

    def seen() -> int:
        nonlocal under_way
        under_way = 0 if arrives else link._sent - before
        return under_way

    before = link._sent
    slow(link, monkeypatch, seen)
    assert (link.packet, unsent) == (16 * 1024, [32 * 1024])
    writer.write(bytes(1 << 20))
    await until(lambda: link._pausing is not None)
    assert not link.sending
    assert LEAST_BUDGET - 17 * 1024 < under_way <= LEAST_BUDGET
    arrives = True
    async with asyncio.timeout(20):
        assert await reader.readexactly(1 << 20) == bytes(1 << 20)
    assert link.sending
    assert link._pausing is None, "a timer without anything to wait for"


async def test_a_link_that_goes_on_by_itself_measures_with_the_present_time(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    link, reader, writer = await to_echo(w)
    writer.write(b"first")
    assert await reader.readexactly(5) == b"first"
    slow(link, monkeypatch, lambda: 0)
    link.poller.now = 0.0
    link._go_on()
    assert link.poller.now > 0.0


async def test_a_link_whose_path_is_dead_looks_no_more_than_once_a_round_trip(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    link, reader, writer = await to_echo(w)
    writer.write(b"first")
    assert await reader.readexactly(5) == b"first"
    slow(link, monkeypatch, lambda: LEAST_BUDGET - 16 * 1024 + 1)
    waits = []
    for _ in range(9):
        link._go_on()
        assert link._pausing
        waits.append(link._pausing.when() - link.poller.now)
    assert waits[0] < 0.01
    assert 0.019 < waits[-1] < 0.1
    link.connection.abort()


async def test_a_link_that_ends_leaves_no_timer(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    link, reader, writer = await to_echo(w)
    writer.write(b"first")
    assert await reader.readexactly(5) == b"first"
    slow(link, monkeypatch, lambda: 1 << 30)
    timer = link._pausing
    assert timer is not None
    link.connection.abort()
    await until(link.is_closing)
    assert timer.cancelled()


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
    asked: list[object] = []
    monkeypatch.setattr(kernel, "under_way", asked.append)
    link, reader, writer = await to_echo(w)
    writer.write(bytes(1 << 20))
    async with asyncio.timeout(20):
        assert await reader.readexactly(1 << 20) == bytes(1 << 20)
    assert link._pace.budget is None
    assert len(asked) == 2, "once for each end: it will not be better another time"


async def test_nothing_of_a_stream_is_sent_during_a_key_exchange(w: World) -> None:
    link, reader, writer = await to_echo(w)
    writer.write(b"first")
    assert await reader.readexactly(5) == b"first"
    far = w.door.tunnels[0].connection.link
    assert far
    far.pause_reading()  # so that the exchange does not end
    link.connection._rekey()
    sent = link.meter.bytes_out
    writer.write(b"later")
    await until(lambda: bool(link._queue))  # seen, and waits
    assert link.meter.bytes_out == sent
    far.resume_reading()
    async with asyncio.timeout(10):
        assert await reader.readexactly(5) == b"later"


async def test_a_service_that_has_said_all_before_it_is_looked_at_is_heard_to_its_end(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        w.door.targets[HOST, PORT] = Target("127.0.0.1", service.getsockname()[1], "db")
        answer = Stream.answer

        def slowly(stream: Stream, peer: int, window: int, most: int) -> None:
            answer(stream, peer, window, most)
            sock, _ = service.accept()
            with sock:
                sock.sendall(b"that is all")

        monkeypatch.setattr(Stream, "answer", slowly)
        front = await w.front(await w.dial(), HOST, PORT)
        reader, _ = await w.connect(front.port)
        async with asyncio.timeout(10):
            assert await reader.read() == b"that is all"
