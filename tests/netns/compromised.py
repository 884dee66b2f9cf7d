"""An engine that was taken over, with its genuine key: ``python -m tests.netns.compromised STATE MANNER [DIGEST]``.

MANNER is one of

  flood     messages of the link, small ones and those that cost most to answer, as fast as they are taken
  huge      after the first word, a frame that says it is larger than any may be
  endless   frames as large as may be that never end: on a link, and on every channel of every connection that it gets
  deaf      asks for the document's body with that DIGEST without end, and reads nothing

Who is hung up on comes again at once. A line on stdin asks how it goes.
"""

import asyncio
import contextlib
import json
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.engine.link import ABILITIES
from fairlead.enrol.trust import USER_KEY, load, load_key
from fairlead.link import frames
from fairlead.link.messages import (
    SUBSYSTEM,
    AnyFromEngine,
    BodyWanted,
    Heartbeat,
    Held,
    Hello,
    Holding,
    JournalHeadsWanted,
    Metrics,
    Plan,
)
from fairlead.mesh.dialling import dialling
from fairlead.transport.channel import Channel
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Stock

CONNECTIONS = 8
CHANNELS = 64
"""Of each."""


@dataclass
class Tally:
    """How it goes."""

    came: int = 0
    """Connections that were let in."""
    hung_up: int = 0
    """That have ended."""
    sent: int = 0
    """Bytes that were taken on links."""
    channels: int = 0
    """That were opened."""


class Thief:
    """One engine's keys, in other hands."""

    def __init__(self, state: Path, manner: str, digest: str = "") -> None:
        self.tally = Tally()
        self._manner = manner
        self._digest = digest
        self._trust = load(state)
        self._key = load_key(state, USER_KEY)
        self._to = Plan.model_validate_json((state / "plan.json").read_bytes()).controllers[0]
        self._way = Stock()

    async def come_again_and_again(self) -> NoReturn:
        """One connection at a time, for ever."""
        while True:
            with contextlib.suppress(FairleadError):
                async with self._tunnel() as tunnel:
                    await self._behave(tunnel)
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def _tunnel(self) -> AsyncIterator[Tunnel]:
        dial = dialling(self._trust.user, lambda: [self._key], 15.0, SystemClock(), self._way)
        tunnel = await dial(self._to, self._to.addresses[0])
        self.tally.came += 1
        try:
            yield tunnel
        finally:
            tunnel.close("enough")
            self.tally.hung_up += 1

    async def _behave(self, tunnel: Tunnel) -> None:
        channel = await self._channel(tunnel)
        if self._manner == "endless":
            async with asyncio.TaskGroup() as group:
                for number in range(CHANNELS):
                    group.create_task(self._never_end(tunnel, _hello() if number % 2 else b""))
            await tunnel.wait_closed()
            return
        await self._send(channel, _hello())
        if self._manner == "huge":
            await self._send(channel, struct.pack(">I", 0x7fff_ffff) + bytes(60_000))
            await tunnel.wait_closed()
            return
        if self._manner == "deaf":
            said = _frames(BodyWanted(digest=self._digest))
        else:
            said = _frames(Holding(documents=_HELD), Metrics(values={"load1": 1.0}), JournalHeadsWanted(number=1),
                           *(Heartbeat(sequence=n, time=n, problems=["x"]) for n in range(100)))
            reading = asyncio.create_task(_read(channel))
            reading.add_done_callback(lambda _: tunnel.close("it was hung up on"))
        while not tunnel.closed.is_set():
            await self._send(channel, said)

    async def _never_end(self, tunnel: Tunnel, first: bytes) -> None:
        with contextlib.suppress(FairleadError):
            channel = await self._channel(tunnel)
            await self._send(channel, first + struct.pack(">I", frames.MOST_BYTES))
            for _ in range(frames.MOST_BYTES // 65536 - 1):
                await self._send(channel, bytes(65536))
        await tunnel.wait_closed()

    async def _channel(self, tunnel: Tunnel) -> Channel:
        channel = await tunnel.subsystem(SUBSYSTEM)
        self.tally.channels += 1
        return channel

    async def _send(self, channel: Channel, data: bytes) -> None:
        await channel.send(data)
        self.tally.sent += len(data)


_HELD = [Held(kind="files", name=f"x-{number}", revision=1, digest="", since=1, words="x" * 1000)
         for number in range(200)]


def _hello() -> bytes:
    return _frames(Hello(v=1, software=" ".join(("x", *ABILITIES)), instance="thief", generation="", plan_revision=0))


def _frames(*messages: AnyFromEngine) -> bytes:
    return b"".join(frames.encode(message.model_dump()) for message in messages)


async def _read(channel: Channel) -> None:
    while await channel.receive():
        pass


async def main(state: str, manner: str, digest: str = "") -> None:
    """Go on until nobody asks any more."""
    thief = Thief(Path(state), manner, digest)
    at_once = [asyncio.create_task(thief.come_again_and_again())
               for _ in range(CONNECTIONS if manner == "endless" else 1)]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        sys.stdout.write(json.dumps(asdict(thief.tally)) + "\n")
        sys.stdout.flush()
    for one in at_once:
        one.cancel()
    await asyncio.gather(*at_once, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
