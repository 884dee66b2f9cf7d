"""Streams: every byte, both ends of file, no memory, and a cut that is never taken for an end."""

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from fairlead.base.errors import Refused
from fairlead.transport import opening, stock
from fairlead.transport.accelerated import link, poller, stream
from fairlead.transport.forwarder import bridge, carry
from fairlead.transport.options import HIGH_WATER, WINDOW
from fairlead.transport.peer import Target
from fairlead.transport.tunnel import Tunnel
from tests.unit.transport.world import Front, World, bound, echo, until, world

HOST, PORT = "127.64.0.1", 5432


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def out(w: World, port: int) -> tuple[Tunnel, Front]:
    """A front on the dialling side for a service on the listening side."""
    w.door.targets[HOST, PORT] = Target("127.0.0.1", port, "db")
    tunnel = await w.dial()
    return tunnel, await w.front(tunnel, HOST, PORT)


async def back(w: World, port: int) -> tuple[Tunnel, Front]:
    """A front on the listening side for a service on the dialling side."""
    w.door.reverses.add((HOST, PORT))
    tunnel = await w.dial()
    await tunnel.request_reverse(HOST, PORT, lambda: Target("127.0.0.1", port, "db"))
    return w.door.tunnels[0], await w.front(w.door.tunnels[0], HOST, PORT)


async def within(what: "asyncio.Future[None] | asyncio.Task[None]") -> None:
    async with asyncio.timeout(20):
        await what


@pytest.mark.parametrize("way", [out, back])
async def test_32_mib_both_ways_at_once(w: World, way: object) -> None:
    there, here = os.urandom(32 << 20), os.urandom(32 << 20)
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def give() -> None:
            writer.write(here)
            await writer.drain()
            writer.write_eof()

        digest, task = hashlib.sha256(), asyncio.ensure_future(give())
        while data := await reader.read(1 << 16):
            digest.update(data)
        seen.put_nowait(digest.digest())
        await task

    tunnel, front = await (out if way is out else back)(w, await w.serve(service))
    reader, writer = await w.connect(front.port)
    writer.write(there)
    writer.write_eof()
    async with asyncio.timeout(60):
        got = await reader.read(-1)
        await front.carried[0]
        assert await seen.get() == hashlib.sha256(there).digest()
    assert hashlib.sha256(got).digest() == hashlib.sha256(here).digest()
    assert (tunnel.bytes_out, tunnel.bytes_in, tunnel.streams) == (len(there), len(here), 0)


@pytest.mark.parametrize("way", [out, back])
async def test_half_close_from_the_program_that_asks(w: World, way: object) -> None:
    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said: " + await reader.read(-1))
        await writer.drain()

    _, front = await (out if way is out else back)(w, await w.serve(service))
    reader, writer = await w.connect(front.port)
    writer.write(b"all of it")
    writer.write_eof()
    assert await reader.read(-1) == b"you said: all of it"
    await within(front.carried[0])


@pytest.mark.parametrize("way", [out, back])
async def test_half_close_from_the_program_that_serves(w: World, way: object) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        heard.put_nowait(await reader.read(-1))

    tunnel, front = await (out if way is out else back)(w, await w.serve(service))
    reader, writer = await w.connect(front.port)
    assert await reader.read(-1) == b"hello"
    assert tunnel.streams == 1
    writer.write(b"x" * (2 << 20))  # more than a window, so that its end of file has to wait
    writer.write_eof()
    async with asyncio.timeout(10):
        assert len(await heard.get()) == 2 << 20
    await within(front.carried[0])


async def test_an_end_that_is_followed_by_a_close_reaches_a_slow_reader(w: World, way_of_streams: str) -> None:
    """asyncssh drops the end of file when the close comes while data waits; the reader would see a reset."""
    size = WINDOW - 65536

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read(-1) == b"give"
        writer.write(bytes(size))
        await writer.drain()

    tunnel, _ = await out(w, await w.serve(service))
    tasks: list[asyncio.Task[None]] = []
    loop, narrow = asyncio.get_running_loop(), bound()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    w.accept(lambda local: tasks.append(loop.create_task(carry(local, tunnel, HOST, PORT))), narrow)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, narrow.getsockname())
    await loop.sock_sendall(sock, b"give")
    sock.shutdown(socket.SHUT_WR)
    far = w.door.tunnels[0]
    stays = way_of_streams == "accelerated"  # a channel counts until the program has taken everything
    await until(lambda: far.bytes_out == size and far.streams == stays)
    assert tunnel.streams == 1
    total = 0
    while data := await loop.sock_recv(sock, 32768):
        total += len(data)
    sock.close()
    assert total == size
    await within(tasks[0])
    await until(lambda: far.streams == tunnel.streams == 0)


async def test_an_end_that_waits_for_the_window_is_sent_before_the_close(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncssh forgets it; the program at the far end would see a reset after the last byte."""
    monkeypatch.setattr(stock, "WINDOW", 65536)
    monkeypatch.setattr(stream, "WINDOW", 65536)
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        heard.put_nowait(-1 if await reset_by(reader) else 1)

    tunnel, front = await out(w, await w.serve(service))
    reader, writer = await w.connect(front.port)
    assert await reader.read(-1) == b"hello"
    far = w.door.tunnels[0].connection
    assert far._transport
    far._transport.pause_reading()
    writer.write(bytes(65536 + 30_000))
    writer.write_eof()
    (channel,) = tunnel.connection._channels.values()
    await until(lambda: not channel._send_window)
    if tunnel.transport == "stock":
        await until(lambda: channel._send_state == "eof_pending")
    far._transport.resume_reading()
    async with asyncio.timeout(10):
        assert await heard.get() == 1
    await within(front.carried[0])
    assert w.door.tunnels[0].bytes_in == 65536 + 30_000


async def test_what_comes_before_it_is_carried_is_kept(w: World) -> None:
    tunnel, _ = await out(w, await w.serve(echo))
    waiting: asyncio.Queue[socket.socket] = asyncio.Queue()
    reader, writer = await w.connect(w.accept(waiting.put_nowait))
    writer.write(b"early" * 100_000)
    writer.write_eof()
    task = asyncio.get_running_loop().create_task(carry(await waiting.get(), tunnel, HOST, PORT))
    assert await reader.read(-1) == b"early" * 100_000
    await within(task)


@pytest.mark.parametrize("way", [out, back])
async def test_a_slow_reader_stops_the_source(w: World, way: object) -> None:
    sent, moved = 0, asyncio.Event()

    async def service(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(0)
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536
            moved.set()

    tunnel, front = await (out if way is out else back)(w, await w.serve(service))
    reader, writer = await w.connect(front.port)
    writer.write(b"go")
    assert await reader.readexactly(1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        moved.clear()
        try:
            async with asyncio.timeout(0.5):
                await moved.wait()
        except TimeoutError:
            break
        assert sent < 64 << 20
    kernel = 2 * 3 * (6 << 20)  # what socket buffers may take on the way
    assert sent < WINDOW + HIGH_WATER + kernel
    buffered = tunnel.bytes_in
    assert buffered < WINDOW + (6 << 20)  # through the tunnel: a window beyond what the reader's socket took
    ping, pong = await w.connect(front.port)  # and the tunnel is free for others
    pong.write(b"go")
    assert await ping.readexactly(1)
    pong.transport.abort()
    writer.transport.abort()


async def test_a_full_connection_stops_its_streams(w: World) -> None:
    """The far end grants any window and does not read: nothing piles up in the connection's own buffer."""
    async def service(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass

    tunnel, front = await out(w, await w.serve(service))
    far = w.door.tunnels[0].connection
    assert far._transport
    assert tunnel.connection._transport
    _, first = await w.connect(front.port)
    first.write(b"x")
    await until(lambda: tunnel.streams == 1)
    for channel in tunnel.connection._channels.values():
        channel._send_window = 1 << 31
    far._transport.pause_reading()
    for _ in range(400):
        first.write(bytes(1 << 18))
        await asyncio.sleep(0)
    peak = tunnel.connection._transport.get_write_buffer_size()
    assert peak < HIGH_WATER + (1 << 20)
    if tunnel.transport == "stock":
        assert peak > HIGH_WATER / 2
    assert tunnel.bytes_out < 30 << 20
    far._transport.resume_reading()
    first.transport.abort()


async def reset_by(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(10):
            while await reader.read(1 << 16):
                pass
    except ConnectionResetError:
        return True
    return False


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("way", [out, back])
async def test_a_reset_goes_through_both_ways(w: World, way: object) -> None:
    was_reset: asyncio.Queue[bool] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"!":
            reset(writer)
        else:
            was_reset.put_nowait(await reset_by(reader))

    _, front = await (out if way is out else back)(w, await w.serve(service))
    reader, writer = await w.connect(front.port)
    writer.write(b"!")
    assert await reset_by(reader)
    with pytest.raises(Refused) as cut:
        await within(front.carried[0])
    assert cut.value.code == "FL-STREAM-LOST"
    _, writer = await w.connect(front.port)
    writer.write(b"x")
    async with asyncio.timeout(10):
        await until(lambda: w.door.tunnels[0].streams == 1)
        reset(writer)
        assert await was_reset.get()
    await within(front.carried[1])  # the program itself left: nothing to complain of


@pytest.mark.parametrize("way", [out, back])
async def test_the_end_of_the_tunnel_resets_its_streams(w: World, way: object) -> None:
    was_reset: asyncio.Queue[bool] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        was_reset.put_nowait(await reset_by(reader))

    tunnel, front = await (out if way is out else back)(w, await w.serve(service))
    reader, _ = await w.connect(front.port)
    assert await reader.readexactly(1) == b"x"
    tunnel.close("revoked")
    assert await reset_by(reader)
    async with asyncio.timeout(10):
        assert await was_reset.get()
        await tunnel.wait_closed()
    with pytest.raises(Refused) as cut:
        await within(front.carried[0])
    assert cut.value.code == "FL-STREAM-LOST"
    assert tunnel.streams == 0
    reader, _ = await w.connect(front.port)
    assert await reset_by(reader)
    with pytest.raises(Refused):
        await within(front.carried[1])


async def test_what_is_refused_resets_the_program(w: World) -> None:
    tunnel = await w.dial()
    front = await w.front(tunnel, "127.64.0.9", 1)
    reader, _ = await w.connect(front.port)
    assert await reset_by(reader)
    with pytest.raises(Refused) as refusal:
        await within(front.carried[0])
    assert refusal.value.code == "FL-STREAM-REFUSED"
    assert tunnel.streams == 0
    dead = await w.front(tunnel, HOST, PORT)
    w.door.targets[HOST, PORT] = Target("127.0.0.1", 1, "dead")
    reader, _ = await w.connect(dead.port)
    assert await reset_by(reader)
    with pytest.raises(Refused, match="connect failed"):
        await within(dead.carried[0])


async def test_a_reverse_is_checked_again_for_each_connection(w: World) -> None:
    w.door.reverses.add((HOST, PORT))
    tunnel = await w.dial()
    where: list[Target | None] = [Target("127.0.0.1", await w.serve(echo), "db")]
    await tunnel.request_reverse(HOST, PORT, lambda: where[0])
    (seen,) = w.door.tunnels
    front = await w.front(seen, HOST, PORT)
    reader, writer = await w.connect(front.port)
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    where[0] = None
    late, _ = await w.connect(front.port)
    assert await reset_by(late)
    writer.write(b"pong")
    assert await reader.readexactly(4) == b"pong"  # what is open stays
    await tunnel.cancel_reverse(HOST, PORT)
    assert w.door.ended == [(HOST, PORT)]
    other, _ = await w.connect(front.port)
    assert await reset_by(other)
    writer.write_eof()
    assert await reader.read(-1) == b""
    await asyncio.gather(*front.carried, return_exceptions=True)


async def test_nothing_goes_back_that_was_not_asked_for(w: World) -> None:
    await w.dial()
    await w.door.arrival.wait()
    front = await w.front(w.door.tunnels[0], HOST, PORT)
    reader, _ = await w.connect(front.port)
    assert await reset_by(reader)
    with pytest.raises(Refused) as refusal:
        await within(front.carried[0])
    assert refusal.value.code == "FL-STREAM-REFUSED"
    assert w.door.tunnels[0].connection._next_recv_chan == 0  # the peer was not even asked


async def test_a_peer_that_never_answers_is_given_up_and_its_late_channel_closed(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "OPEN_TIMEOUT", 0.1)
    monkeypatch.setattr(link, "OPEN_TIMEOUT", 0.1)
    monkeypatch.setattr(poller, "SWEEP_S", 0.05)
    tunnel, front = await out(w, await w.serve(echo))
    far = w.door.tunnels[0].connection
    assert far._transport
    far._transport.pause_reading()
    reader, _ = await w.connect(front.port)
    assert await reset_by(reader)
    with pytest.raises(Refused, match="no answer"):
        await within(front.carried[0])
    far._transport.resume_reading()
    await until(lambda: not tunnel.connection._channels and not far._channels)
    assert not tunnel.closed.is_set()


async def test_a_program_that_leaves_while_the_channel_opens_takes_it_along(w: World) -> None:
    tunnel, front = await out(w, await w.serve(echo))
    far = w.door.tunnels[0].connection
    assert far._transport
    far._transport.pause_reading()
    _, writer = await w.connect(front.port)
    await until(lambda: bool(tunnel.connection._channels))
    reset(writer)
    if tunnel.transport == "accelerated":  # it knows at once; the other way a program that left is seen later
        await within(front.carried[0])
    far._transport.resume_reading()
    await within(front.carried[0])
    await until(lambda: not tunnel.connection._channels and not far._channels)


async def test_cancelling_resets_both_ends(w: World) -> None:
    was_reset: asyncio.Queue[bool] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        was_reset.put_nowait(await reset_by(reader))

    _, front = await out(w, await w.serve(service))
    reader, _ = await w.connect(front.port)
    assert await reader.readexactly(1) == b"x"
    front.carried[0].cancel()
    assert await reset_by(reader)
    async with asyncio.timeout(10):
        assert await was_reset.get()


async def test_the_owner_serves_itself_without_a_tunnel(w: World) -> None:
    port = await w.serve(echo)
    tasks: list[asyncio.Task[None]] = []

    def take(local: socket.socket) -> None:
        target = Target("127.0.0.1", port if not tasks else 1, "db")
        tasks.append(asyncio.get_running_loop().create_task(bridge(local, target)))

    front = w.accept(take)
    reader, writer = await w.connect(front)
    data = os.urandom(4 << 20)
    writer.write(data)
    writer.write_eof()
    assert await reader.read(-1) == data
    await within(tasks[0])
    reader, _ = await w.connect(front)
    assert await reset_by(reader)
    with pytest.raises(Refused) as refusal:
        await within(tasks[1])
    assert refusal.value.code == "FL-STREAM-REFUSED"


async def test_a_connection_that_has_gone_before_it_is_carried_is_a_cut_and_no_fault(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: object, **__: object) -> None:
        raise OSError(22, "gone already")

    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", gone)
    near, program = socket.socketpair()
    with program, pytest.raises(Refused) as cut:
        await bridge(near, Target("127.0.0.1", 1, "db"))
    assert (cut.value.code, near.fileno()) == ("FL-STREAM-LOST", -1)
