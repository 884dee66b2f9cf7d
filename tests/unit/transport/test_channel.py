"""Subsystems: bytes in order, a bounded buffer, an end that is seen, and faults that are heard of."""

import asyncio
import os

import pytest

from fairlead.base.errors import Refused
from fairlead.transport.channel import Channel
from fairlead.transport.options import MOST_SESSIONS, WINDOW
from tests.unit.transport.world import until, world


async def repeat(channel: Channel) -> None:
    while data := await channel.receive():
        await channel.send(data)


async def test_bytes_come_back_and_the_end_is_seen() -> None:
    async with world() as w:
        w.door.subsystems["echo"] = repeat
        tunnel = await w.dial()
        channel = await tunnel.subsystem("echo")
        data = os.urandom(3 << 20)

        async def give() -> None:
            await channel.send(data)

        task = asyncio.ensure_future(give())
        got = b""
        async with asyncio.timeout(20):
            while len(got) < len(data):
                got += await channel.receive()
            await task
            assert got == data
            channel.close()
            await channel.wait_closed()
            assert await channel.receive() == b""
        with pytest.raises(Refused) as refusal:
            await channel.send(b"late")
        assert refusal.value.code == "FL-STREAM-LOST"
        assert not tunnel.closed.is_set()


async def test_any_number_of_channels_is_had_one_after_the_other() -> None:
    async with world() as w:
        w.door.subsystems["echo"] = repeat
        tunnel = await w.dial()
        for _ in range(3 * MOST_SESSIONS):
            channel = await tunnel.subsystem("echo")
            await channel.send(b"x")
            async with asyncio.timeout(5):
                assert await channel.receive() == b"x"
                channel.close()
                await channel.wait_closed()


async def test_the_handler_that_returns_ends_the_channel() -> None:
    async def greet(channel: Channel) -> None:
        await channel.send(b"hello")

    async with world() as w:
        w.door.subsystems["greet"] = greet
        channel = await (await w.dial()).subsystem("greet")
        async with asyncio.timeout(5):
            assert await channel.receive() == b"hello"
            assert await channel.receive() == b""


async def test_sending_waits_for_a_reader_and_holds_little() -> None:
    go = asyncio.Event()
    total = 0

    async def late(channel: Channel) -> None:
        nonlocal total
        await go.wait()
        while data := await channel.receive():
            total += len(data)
        await channel.send(b"all")

    async with world() as w:
        w.door.subsystems["late"] = late
        channel = await (await w.dial()).subsystem("late")
        sent = 0

        async def give() -> None:
            nonlocal sent
            for _ in range(100):
                await channel.send(bytes(65536))
                sent += 65536

        assert channel.send_now(b"1")
        task = asyncio.ensure_future(give())
        await asyncio.wait((task,), timeout=0.5)
        assert not task.done()
        assert sent <= WINDOW + (256 << 10)
        assert not channel.send_now(b"2"), "it would come between, or wait"
        go.set()
        async with asyncio.timeout(10):
            await task
            channel.close()
            await until(lambda: total == 1 + 100 * 65536)
        with pytest.raises(Refused) as refusal:
            channel.send_now(b"late")
        assert refusal.value.code == "FL-STREAM-LOST"


async def test_senders_do_not_mix() -> None:
    async with world() as w:
        w.door.subsystems["echo"] = repeat
        channel = await (await w.dial()).subsystem("echo")
        whole = [bytes([number]) * 300_000 for number in range(8)]
        tasks = [asyncio.ensure_future(channel.send(piece)) for piece in whole]
        got = b""
        async with asyncio.timeout(20):
            while len(got) < 8 * 300_000:
                got += await channel.receive()
        assert got == b"".join(whole)
        await asyncio.gather(*tasks)


async def test_the_end_of_the_tunnel_ends_its_channels() -> None:
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def wait(channel: Channel) -> None:
        ended.put_nowait(await channel.receive())

    async with world() as w:
        w.door.subsystems["wait"] = wait
        tunnel = await w.dial()
        channel = await tunnel.subsystem("wait")
        w.door.tunnels[0].close("revoked")
        async with asyncio.timeout(5):
            assert await channel.receive() == b""
            assert await ended.get() == b""
        with pytest.raises(Refused) as refusal:
            await tunnel.subsystem("wait")
        assert refusal.value.code == "FL-STREAM-LOST"


async def test_what_is_not_granted_is_refused() -> None:
    async with world() as w:
        tunnel = await w.dial()
        for name in ("sftp", "echo", ""):
            with pytest.raises(Refused) as refusal:
                await tunnel.subsystem(name)
            assert refusal.value.code == "FL-STREAM-REFUSED"
        assert not tunnel.closed.is_set()


async def test_a_fault_in_a_handler_is_heard_of_and_a_refusal_is_not_a_fault() -> None:
    async def fault(channel: Channel) -> None:
        raise ZeroDivisionError

    async def refuse(channel: Channel) -> None:
        raise Refused("FL-X", "no")

    async with world() as w:
        w.door.subsystems.update(fault=fault, refuse=refuse)
        tunnel = await w.dial()
        async with asyncio.timeout(5):
            assert await (await tunnel.subsystem("fault")).receive() == b""
            assert await (await tunnel.subsystem("refuse")).receive() == b""
        assert [type(fault["exception"]) for fault in w.faults] == [ZeroDivisionError]
        w.faults.clear()
