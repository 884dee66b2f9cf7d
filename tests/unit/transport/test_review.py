"""What a peer, a name or a program may do in the wrong moment, and what comes of it."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from asyncssh.packet import String, UInt32

from fairlead.transport.peer import Target
from tests.unit.transport.hostile import OPEN_CONFIRMATION, OPEN_FAILURE, Hostile, hostile
from tests.unit.transport.world import ALICE, World, echo, world

ORIGIN = String("127.0.0.1") + UInt32(1)


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@pytest.fixture
async def alice(w: World) -> AsyncIterator[Hostile]:
    async with hostile(w.port) as client:
        await client.login(ALICE)
        yield client


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
