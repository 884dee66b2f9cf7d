"""Somebody in between changes one bit of a stream that is under way: the tunnel ends, and no program sees an end."""

import asyncio

import pytest

from fairlead.transport.peer import Target
from fairlead.transport.way import VARIABLE
from tests.hostile.between import Between, Way, flip
from tests.unit.transport.world import echo, until, world

HOST, PORT = "127.64.0.1", 5432
DATA = bytes(range(256)) * 8192


@pytest.mark.parametrize("transport", ["accelerated", "stock"])
@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("at", [300_000, 300_001, 1_000_003])
async def test_a_flipped_bit_ends_the_tunnel_and_resets_its_streams(
        way: Way, at: int, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, transport)
    async with world() as w:
        w.door.targets[HOST, PORT] = Target("127.0.0.1", await w.serve(echo), "db")
        with Between(("127.0.0.1", w.port), harm=flip(way, at)).listening() as between:
            tunnel = await w.dial(port=between.port)
            reader, writer = await w.connect((await w.front(tunnel, HOST, PORT)).port)
            got = bytearray()

            async def listen() -> None:
                while data := await reader.read(65536):
                    got.extend(data)

            writer.write(DATA)
            async with asyncio.timeout(20):
                with pytest.raises(ConnectionResetError):
                    await listen()
                await tunnel.wait_closed()
                await until(lambda: len(w.door.gone) == 1)
            assert DATA.startswith(got), "nothing that was harmed is passed on"
            assert len(got) < at
            assert between.conversations[0].changed
            assert any("MAC" in end.reason for end in (tunnel, w.door.gone[0]))
            assert w.door.gone[0].streams == tunnel.streams == 0
