"""What a peer, a name or a program may do in the wrong moment, and what comes of it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from fairlead.transport import connection
from fairlead.transport.accelerated.link import Link
from fairlead.transport.accelerated.packets import Sealer
from fairlead.transport.accelerated.poller import Poller
from fairlead.transport.accelerated.stream import Stream
from fairlead.transport.forwarder import forward
from fairlead.transport.peer import Target
from fairlead.transport.resets import resetting
from tests.unit.transport.hostile import OPEN_CONFIRMATION, OPEN_FAILURE, Hostile
from tests.unit.transport.world import World, echo, until, world

ORIGIN = String("127.0.0.1") + UInt32(1)
KEXINIT, GLOBAL_REQUEST, DATA, EOF, CLOSE, REQUEST = 20, 80, 94, 96, 97, 98


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_a_service_may_be_known_by_a_name_and_nobody_waits_for_the_resolver(
        monkeypatch: pytest.MonkeyPatch, w: World, alice: Hostile) -> None:
    port, asked, answered = await w.serve(echo), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **_: object) -> list[object]:
        asked.set()
        await answered.wait()
        if host == "nowhere.test":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    w.door.targets["db", 1] = Target("db.test", port, "db")
    w.door.targets["none", 1] = Target("nowhere.test", port, "none")
    alice.open("direct-tcpip", String("db"), UInt32(1), ORIGIN)
    async with asyncio.timeout(10):
        await asked.wait()
    alice.request("keepalive@openssh.com")
    assert await alice.answer() == 81  # meanwhile
    answered.set()
    assert await alice.answer() == OPEN_CONFIRMATION
    alice.open("direct-tcpip", String("none"), UInt32(1), ORIGIN)
    kind, payload = await alice.answer_in_full()
    assert (kind, payload[4:8]) == (OPEN_FAILURE, UInt32(2))


class Heard:
    """Stands where asyncssh keeps a channel: tells the test what comes for it."""

    def __init__(self, client: Hostile) -> None:
        self._client = client

    def log_received_packet(self, *_: Any) -> None: ...

    def process_connection_close(self, _: Exception | None) -> None: ...

    def process_packet(self, kind: int, _number: int, packet: SSHPacket) -> bool:
        self._client.answers.put_nowait((kind, packet.get_remaining_payload()))
        return True


async def test_nothing_is_said_of_a_channel_behind_its_close(w: World, alice: Hostile) -> None:
    async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resetting(writer.get_extra_info("socket"))

    w.door.targets["db", 1] = Target("127.0.0.1", await w.serve(resets), "db")
    alice._channels[7] = Heard(alice)  # type: ignore[assignment]
    alice.open("direct-tcpip", String("db"), UInt32(1), ORIGIN)
    kind, payload = await alice.answer_in_full()
    assert kind == OPEN_CONFIRMATION
    while await alice.answer() != CLOSE:
        pass
    alice.send_packet(REQUEST, payload[4:8], String("keepalive@openssh.com"), Boolean(True))  # has not read it yet
    alice.request("keepalive@openssh.com")
    assert await alice.answer() == 81


async def test_who_fills_windows_and_goes_leaves_nothing_behind(
        w: World, alice: Hostile, monkeypatch: pytest.MonkeyPatch, way_of_streams: str) -> None:
    if way_of_streams == "stock":
        return  # asyncssh keeps the channel itself, and asyncio no more than its own buffer
    monkeypatch.setattr(connection, "MOST_CHANNELS", 2)
    answer = Stream.answer

    def narrow(stream: Stream, peer: int, window: int, most: int) -> None:
        assert stream._sock
        stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        answer(stream, peer, window, most)

    monkeypatch.setattr(Stream, "answer", narrow)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        w.door.targets["db", 1] = Target("127.0.0.1", deaf.getsockname()[1], "db")
        alice._channels[7] = Heard(alice)  # type: ignore[assignment]
        for _ in range(2):
            alice.open("direct-tcpip", String("db"), UInt32(1), ORIGIN)
            kind, payload = await alice.answer_in_full()
            assert kind == OPEN_CONFIRMATION
            for _ in range(8):
                alice.send_packet(DATA, payload[4:8], String(bytes(32768)))
            alice.send_packet(EOF, payload[4:8])
            alice.send_packet(CLOSE, payload[4:8])
        alice.open("direct-tcpip", String("db"), UInt32(1), ORIGIN)
        kind, payload = await alice.answer_in_full()
        assert (kind, payload[4:8]) == (OPEN_FAILURE, UInt32(4)), "they count until the program has what came"
        assert w.door.tunnels[0].streams == 2
        alice.abort()
        async with asyncio.timeout(10):
            await w.door.departure.wait()
        for _ in range(2):
            sock, _ = deaf.accept()
            with sock, pytest.raises(ConnectionResetError):
                while sock.recv(65536):
                    pass
        assert w.door.gone[0].streams == 0


async def test_a_peer_that_talks_and_never_answers_is_cut(w: World, alice: Hostile, way_of_streams: str) -> None:
    if way_of_streams == "stock":
        return  # asyncssh's own keepalives
    alice._packet_handlers = {**alice._packet_handlers, GLOBAL_REQUEST: lambda *_: True}  # type: ignore[dict-item]
    asked = w.door.tunnels[0].connection
    for _ in range(asked._keepalive_count_max):
        assert asked.look_after(1e9, 0) == 1  # it has said something meanwhile, if not that
        assert not asked.gone
    asked.look_after(1e9, 0)
    assert asked.gone


async def test_a_peer_that_asks_and_never_ends_its_key_exchange_is_cut(
        monkeypatch: pytest.MonkeyPatch, w: World, alice: Hostile) -> None:
    monkeypatch.setattr(connection, "MOST_DEFERRED", 100)
    alice._packet_handlers = {**alice._packet_handlers, KEXINIT: lambda *_: True}  # type: ignore[dict-item]
    alice._send_kexinit()
    alice._kex_complete = True
    async with asyncio.timeout(10):
        for _ in range(150):
            alice.request("keepalive@openssh.com")
        await w.door.departure.wait()
    assert "key exchange" in w.door.gone[0].reason


async def test_streams_wait_for_a_key_exchange_that_begins_as_another_ends(
        monkeypatch: pytest.MonkeyPatch, w: World) -> None:
    exchanging = (await w.dial()).connection
    if not exchanging.link:
        return
    link, finish, seen = exchanging.link, exchanging._send_deferred_packets, []

    def another() -> None:
        monkeypatch.setattr(exchanging, "_send_deferred_packets", finish)
        exchanging._rekey()

    keyed = Link.keyed

    def noted(which: Link, sealer: Sealer) -> None:
        if which is link:
            seen.append(exchanging._kex_complete)
        keyed(which, sealer)

    monkeypatch.setattr(exchanging, "_send_deferred_packets", another)
    monkeypatch.setattr(Link, "keyed", noted)
    exchanging._rekey()
    await until(lambda: bool(seen))
    assert seen == [True]
    assert link.sending


async def test_a_program_that_goes_away_after_its_own_end_takes_its_stream_along(w: World, way_of_streams: str) -> None:
    if way_of_streams == "stock":
        return  # asyncio looks no more at what has come to its end
    ended, over = asyncio.Event(), asyncio.Event()

    async def idle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        await over.wait()  # says nothing, so that nobody finds out by telling it to the program

    w.door.targets["db", 1] = Target("127.0.0.1", await w.serve(idle), "db")
    front = await w.front(await w.dial(), "db", 1)
    _, writer = await w.connect(front.port)
    writer.write_eof()
    async with asyncio.timeout(10):
        await ended.wait()
        resetting(writer.get_extra_info("socket"))
        writer.transport.abort()
        await until(lambda: w.door.tunnels[0].streams == 0)
    over.set()


async def test_a_fault_while_another_is_dealt_with_keeps_nobody_else_from_going_on() -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))

    class Faulty:
        flushed = False

        def ready(self, _: int) -> None:
            raise ValueError("first")

        def fail(self, _: Exception) -> None:
            raise ValueError("second")

        def turn(self) -> None: ...

        def flush(self) -> None:
            self.flushed = True

        def sweep(self, _: float) -> None: ...

    one, other = socket.socketpair()
    poller, faulty = Poller(loop), Faulty()
    try:
        poller.watch(one, faulty)  # it can be written to: an event
        await until(lambda: bool(told))
        await asyncio.sleep(0)
        poller.written(faulty)
        await until(lambda: faulty.flushed)
        assert told == ["first", "second"]
    finally:
        poller.close()
        one.close()
        other.close()


async def test_who_aborts_a_stream_does_not_wait_for_the_peer(w: World, way_of_streams: str) -> None:
    if way_of_streams == "stock":
        return  # a task, which ends when it is cancelled
    w.door.targets["db", 1] = Target("127.0.0.1", await w.serve(echo), "db")
    tunnel = await w.dial()
    ends: list[str] = []
    near, program = socket.socketpair()
    near.setblocking(False)
    with program:
        carrying = forward(near, tunnel, "db", 1, lambda error: ends.append(error.code if error else ""))
        await until(lambda: tunnel.streams == 1)
        carrying.abort()
        assert ends == ["FL-STREAM-LOST"]  # before the peer could say a word
        await until(lambda: tunnel.streams == 0)
        assert len(ends) == 1
