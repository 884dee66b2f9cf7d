"""Connections that came and went leave nothing behind that a look for garbage does not find, however seldom it is."""

import gc

from fairlead.transport.accelerated.link import Link
from fairlead.transport.accelerated.stream import Stream
from fairlead.transport.connection import Guarded
from fairlead.transport.peer import Target
from fairlead.transport.server import Guest
from fairlead.transport.tunnel import Tunnel
from tests.unit.transport.world import echo, until, world

KINDS = (Link, Stream, Guarded, Guest, Tunnel)
TIMES = 25


def alive() -> dict[str, int]:
    """How many of each there are."""
    found = [type(one) for one in gc.get_objects()]
    return {kind.__name__: sum(issubclass(one, kind) for one in found) for kind in KINDS}


async def test_connections_that_come_and_go_leave_nothing() -> None:
    gc.collect()
    before = alive()
    async with world() as w:
        w.door.targets["127.64.0.1", 80] = Target("127.0.0.1", await w.serve(echo), "web")
        for _ in range(TIMES):
            tunnel = await w.dial()
            front = await w.front(tunnel, "127.64.0.1", 80)
            for _ in range(3):
                reader, writer = await w.connect(front.port)
                writer.write(b"there and back")
                assert await reader.readexactly(14) == b"there and back"
            tunnel.close("seen enough")
            await tunnel.wait_closed()
        await until(lambda: len(w.door.gone) == TIMES)
        w.door.tunnels.clear()
        w.door.gone.clear()
        await w.stack.aclose()
        del tunnel, front
        await until(lambda: not gc.collect())
        assert alive() == before
