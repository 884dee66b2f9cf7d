"""Local users cannot fill a node: streams have a limit, in all and for each listener, and the last descriptors stay."""

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from fairlead.base import descriptors
from fairlead.mesh import listeners
from fairlead.mesh.listeners import Listeners, no_carrier
from fairlead.mesh.plan import Listener
from fairlead.transport.tunnel import Tunnel
from tests.processes import free_port


class Nobody:
    """Carries nothing, and refuses when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.refusing = asyncio.Event()

    def ready(self, owner: str, address: str, port: int) -> Tunnel | None:
        return None

    async def carrier(self, owner: str, address: str, port: int) -> Tunnel:
        self.asked.release()
        await self.refusing.wait()
        raise no_carrier(owner)

    async def asked_for(self, times: int) -> None:
        async with asyncio.timeout(30):
            for _ in range(times):
                await self.asked.acquire()


@pytest.fixture
def carriers(monkeypatch: pytest.MonkeyPatch) -> Nobody:
    monkeypatch.setattr(listeners, "MOST_STREAMS", 5)
    monkeypatch.setattr(listeners, "MOST_PER_LISTENER", 3)
    return Nobody()


def planned(*services: str) -> list[Listener]:
    return [Listener("127.0.0.1", free_port(), service, "ctl-1", "127.64.0.1", None) for service in services]


async def opened(listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(listener.host, listener.port)


async def reset(listener: Listener) -> bool:
    """Whether a new stream is reset at once."""
    try:
        reader, writer = await opened(listener)
    except ConnectionResetError:  # before it was connected, for whoever looks so late
        return True
    try:
        async with asyncio.timeout(30):
            return await reader.read() == b""
    except ConnectionResetError:
        return True
    finally:
        writer.close()


async def test_streams_have_a_limit_in_all_and_for_each_listener(carriers: Nobody) -> None:
    db, web = planned("db", "web")
    mesh = Listeners(carriers)
    try:
        await mesh.apply([db, web])
        held = [await opened(db) for _ in range(3)]
        await carriers.asked_for(3)
        with capture_logs() as logs:
            assert await reset(db)
            assert await reset(db)
            held += [await opened(web) for _ in range(2)]  # whoever fills one leaves room at the other
            await carriers.asked_for(2)
            assert await reset(web)  # all that there are
        full = [entry for entry in logs if entry["event"] == "listener.full"]
        assert [(entry["service"], entry["code"]) for entry in full] == [("db", "FL-LISTENER-FULL")]  # once a minute
        carriers.refusing.set()
        for reader, writer in held:
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
        again, writer = await opened(db)
        await carriers.asked_for(1)
        with pytest.raises(ConnectionResetError):
            await again.read()
        writer.close()
    finally:
        await mesh.close()


async def test_streams_leave_the_last_descriptors(carriers: Nobody, monkeypatch: pytest.MonkeyPatch) -> None:
    db, = planned("db")
    mesh = Listeners(carriers)
    try:
        await mesh.apply([db])
        monkeypatch.setattr(descriptors, "_enough", lambda: 0)
        assert await reset(db)
        assert carriers.asked.locked()
    finally:
        await mesh.close()


async def test_a_listener_that_is_no_longer_planned_is_free_at_once(carriers: Nobody) -> None:
    db, = planned("db")
    mesh = Listeners(carriers)
    try:
        for wanted in ([db], [], [db], []):
            await mesh.apply(wanted)
            assert mesh.problems == []
        with socket.socket() as sock:
            sock.bind((db.host, db.port))
    finally:
        await mesh.close()


async def test_what_a_closing_listener_cuts_is_not_called_refused(carriers: Nobody) -> None:
    db, = planned("db")
    mesh = Listeners(carriers)
    await mesh.apply([db])
    reader, writer = await opened(db)
    await carriers.asked_for(1)
    with capture_logs() as logs:
        await mesh.close()
    assert [entry for entry in logs if entry["event"] == "stream.refused"] == []
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
