"""The same stories by each way at each end: what programs see does not depend on who carries it.

A story is made of a seed: several streams at once, both programs of each write chunks of random sizes, stop in
the middle, end their half or, in every other story, reset the connection. Their sockets hold little, and they read
slowly now and then. Keys change every few hundred kilobytes meanwhile, and windows are small.
"""

import asyncio
import hashlib
import random
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal

import pytest

from fairlead.base.errors import FairleadError
from fairlead.transport import stock
from fairlead.transport.accelerated import stream
from fairlead.transport.peer import Target
from tests.unit.transport.world import World, bound, until, world

HOST, PORT = "127.64.0.1", 80
WAYS = [(here, there) for here in ("accelerated", "stock") for there in ("accelerated", "stock")]
STREAMS = 4
REKEY = 300_000

End = Literal["eof", "reset"]


@dataclass
class Part:
    """What a program does: chunks with pauses, and how it ends its half."""

    chunks: list[bytes]
    pauses: set[int]
    last: End

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(b"".join(self.chunks)).digest()


@dataclass
class Seen:
    """What a program read, and how it ended."""

    size: int = 0
    digest: bytes = b""
    end: End = "eof"


@dataclass
class Stream:
    """Who connects and who serves."""

    caller: Part
    server: Part
    seen: dict[str, Seen] = field(default_factory=dict)


def part(chance: random.Random, *, may_reset: bool) -> Part:
    sizes = [chance.choice((1, 15, 16, 17, 1000, 16_384, 65_535, 65_536, 131_072, 131_073, 200_000))
             for _ in range(chance.randrange(24))]
    return Part([chance.randbytes(size) for size in sizes], {n for n in range(len(sizes)) if chance.random() < 0.3},
                "reset" if may_reset and chance.random() < 0.25 else "eof")


def story(seed: int) -> list[Stream]:
    chance = random.Random(seed)
    streams = []
    for _ in range(STREAMS):
        caller = part(chance, may_reset=bool(seed % 2))
        streams.append(Stream(caller, part(chance, may_reset=bool(seed % 2) and caller.last == "eof")))
    return streams


async def play(sock: socket.socket, mine: Part) -> Seen:
    """Do one's part, and see what comes."""
    loop = asyncio.get_running_loop()

    async def give() -> None:
        for number, chunk in enumerate(mine.chunks):
            if number in mine.pauses:
                await asyncio.sleep(0.001)
            await loop.sock_sendall(sock, chunk)
        if mine.last == "eof":
            sock.shutdown(socket.SHUT_WR)

    seen, digest = Seen(), hashlib.sha256()
    giving = asyncio.ensure_future(give())
    try:
        if mine.last == "reset":
            await giving
        else:
            while data := await loop.sock_recv(sock, 50_000):
                seen.size += len(data)
                digest.update(data)
                if seen.size % 7 == 0:
                    await asyncio.sleep(0.001)
            await giving
    except OSError:
        seen.end = "reset"
    giving.cancel()
    await asyncio.gather(giving, return_exceptions=True)
    if mine.last == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    seen.digest = digest.digest()
    return seen


async def told(w: World, streams: list[Stream], direction: str) -> None:
    """Play the whole story."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
    listening = bound()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # those that are accepted inherit it
    target = Target("127.0.0.1", w.accept(arrived.put_nowait, listening), "web")
    narrow = bound()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that something has to wait for the caller
    tunnel = await w.dial()
    await w.door.arrival.wait()
    (far,) = w.door.tunnels
    for end in (tunnel, far):
        end.connection._rekey_bytes = REKEY
    if direction == "out":
        w.door.targets[HOST, PORT] = target
        front = await w.front(tunnel, HOST, PORT, narrow)
    else:
        w.door.reverses.add((HOST, PORT))
        await tunnel.request_reverse(HOST, PORT, lambda: target)
        front = await w.front(far, HOST, PORT, narrow)
    before = {end: end.connection._send_encryption for end in (tunnel, far)}
    playing = []
    for one in streams:  # each with its own, so that it is known which is which
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.setblocking(False)
        await loop.sock_connect(caller, ("127.0.0.1", front.port))
        playing.append((one, loop.create_task(play(caller, one.caller)),
                        loop.create_task(play(await arrived.get(), one.server))))
    for one, caller_plays, server_plays in playing:
        one.seen = {"caller": await caller_plays, "server": await server_plays}
    outcomes = await asyncio.gather(*front.carried, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, FairleadError) for outcome in outcomes), outcomes
    await until(lambda: not (tunnel.connection._channels or far.connection._channels))
    assert (tunnel.streams, far.streams, tunnel.closed.is_set()) == (0, 0, False)
    if not any("reset" in (one.caller.last, one.server.last) for one in streams):
        assert sum(len(chunk) for one in streams for chunk in one.caller.chunks) > 3 * REKEY
        assert tunnel.connection._send_encryption is not before[tunnel]
        assert far.connection._send_encryption is not before[far]


def consistent(mine: Part, other: Part, seen: Seen) -> bool:
    """Whether a program with *mine* to do saw what the other one did: never an end that was none."""
    if mine.last == "reset":
        return True
    if other.last == "reset":
        return seen.end == "reset"
    return (seen.end, seen.digest) == ("eof", other.digest)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("direction", ["out", "back"])
@pytest.mark.parametrize("ways", WAYS)
async def test_programs_see_the_same_whoever_carries(
        ways: tuple[str, str], direction: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    window = random.Random(seed).choice((20_000, 70_000, 512 * 1024))
    monkeypatch.setattr(stock, "WINDOW", window)
    monkeypatch.setattr(stream, "WINDOW", window)
    streams = story(seed)
    async with asyncio.timeout(60), world(ways=ways) as w:
        await told(w, streams, direction)
    for one in streams:
        assert consistent(one.caller, one.server, one.seen["caller"]), one.seen
        assert consistent(one.server, one.caller, one.seen["server"]), one.seen
