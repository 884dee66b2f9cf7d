"""Brings what is spooled to a Controller: late rather than often, resumably, at a pace, beside the streams.

Rules, and what each stops:

1. A connection for streams is opened for logs only when there is much of them, or some for long, or when somebody
   asks; one that is open is used sooner. A fleet that comes back after an outage does not log in twice for that.
2. The Controller says from where on, and how fast. What it does not settle is sent again, to another one if there is
   one: a Controller that takes no logs keeps them from nobody else.
3. Nothing is sent that a power cut could take from here: one sync for each upload.
"""

import asyncio
import random
from typing import Protocol

import structlog

from fairlead.base.backoff import FullJitter
from fairlead.base.errors import FairleadError, Refused
from fairlead.engine.spool import Spool
from fairlead.link import frames
from fairlead.link.logs import MOST_CHUNK, SUBSYSTEM, VERSION, Have, Settlements, Want, chunk, want
from fairlead.transport.channel import Channel
from fairlead.transport.tunnel import Tunnel

MUCH = 1024 * 1024
SOON_S = 30.0
"""After a line, where a stream connection is open."""
LATE_S = 300.0
"""After a line, where one has to be opened."""
GREET_S = 60.0
"""A Controller lets few engines upload at once."""
SILENT_S = 30.0
WINDOW = 512 * 1024
"""Bytes under way that are not settled."""

log = structlog.get_logger("fairlead.engine")


class Ways(Protocol):
    """The connections to Controllers."""

    def streams(self) -> list[str]:
        """The Controllers to which a stream connection is open."""
        ...

    def controllers(self) -> list[str]:
        """Those to which there is a link."""
        ...

    async def stream_to(self, name: str) -> Tunnel:
        """A stream connection. Raises FairleadError."""
        ...


class Upload:
    """One engine's."""

    def __init__(self, spool: Spool, ways: Ways) -> None:
        self._spool = spool
        self._ways = ways
        self._asked = asyncio.Event()
        self._moved = asyncio.Condition()
        self._failed: dict[str, float] = {}
        """The Controllers that took not all the last time, and when that was."""

    async def flush(self) -> int:
        """Have everything that is logged by now at a Controller; where it ends."""
        end = self._spool.end
        self._asked.set()
        async with self._moved:
            await self._moved.wait_for(lambda: max(self._spool.settled, self._spool.begin) >= end)
        return end

    async def run(self) -> None:
        """Upload, until cancelled."""
        delay, draw = FullJitter(1.0, 60.0), random.SystemRandom()
        self._spool.wake(asyncio.get_running_loop())
        while True:
            await self._due(draw.uniform(0.8, 1.2))
            asked = self._asked.is_set()
            self._asked.clear()  # whoever asks from now on may mean lines that this upload does not bring
            try:
                await self._send()
                delay.reset()
            except (FairleadError, TimeoutError, OSError) as error:
                if asked:
                    self._asked.set()
                log.debug("logs.later", reason=str(error))
                await asyncio.sleep(delay.next())

    async def _due(self, jitter: float) -> None:
        """Return when it is time."""
        while not self._spool.pending and not self._asked.is_set():
            await self._either(None)
        began = asyncio.get_running_loop().time()
        while not self._asked.is_set() and self._spool.pending < MUCH:
            patience = SOON_S if self._ways.streams() else LATE_S
            left = began + patience * jitter - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._either(min(left, SOON_S))

    async def _either(self, within_s: float | None) -> None:
        """Until there is news, or somebody asks."""
        self._spool.news.clear()
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._spool.news, self._asked)]
        try:
            await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def _send(self) -> None:
        """To the first Controller that has not failed, else to the one whose failure is longest ago."""
        names = [*self._ways.streams(), *self._ways.controllers()]
        if not names:
            raise Refused("FL-STREAM-DOWN", "no Controller is connected")
        controller = min(names, key=lambda name: self._failed.get(name, 0.0))
        try:
            await self._send_to(controller)
            self._failed.pop(controller, None)
        except (FairleadError, TimeoutError, OSError) as error:
            if controller not in self._failed:
                log.warning("logs.refused", controller=controller, reason=str(error) or "it does not answer")
            self._failed[controller] = asyncio.get_running_loop().time()
            raise

    async def _send_to(self, controller: str) -> None:
        tunnel = await self._ways.stream_to(controller)
        channel = await tunnel.subsystem(SUBSYSTEM)
        try:
            await self._talk(channel)
        finally:
            channel.close()

    async def _talk(self, channel: Channel) -> None:
        spool = self._spool
        end = await asyncio.to_thread(spool.sync)
        await channel.send(frames.encode(Have(v=VERSION, spool=spool.id, begin=max(spool.settled, spool.begin),
                                              end=end).model_dump()))
        async with asyncio.timeout(GREET_S):
            answer = await _greeted(channel)
        if answer.offset > end:
            await asyncio.to_thread(spool.take_another_id)
            log.warning("spool.anew", reason="a Controller has more of these logs than this disk: it was set back")
            raise Refused("FL-STREAM-LOST", "its logs begin anew")
        await self._settle(answer.offset)
        settlements, place = Settlements(), answer.offset
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while True:
            at, data = spool.read(place, MOST_CHUNK)
            data = data[:max(0, end - at)]
            if not data and spool.settled >= place:
                return
            if data and place - spool.settled < WINDOW:
                await channel.send(chunk(at, data))
                place, sent = at + len(data), sent + len(data)
                await asyncio.sleep(max(0.0, began + sent / answer.rate - loop.time()))
                continue
            async with asyncio.timeout(SILENT_S):
                said = await channel.receive()
            if not said:
                raise Refused("FL-STREAM-LOST", "the Controller takes no more logs")
            if (settled := settlements.feed(said)) is not None:
                await self._settle(settled)

    async def _settle(self, offset: int) -> None:
        await asyncio.to_thread(self._spool.settle, offset)
        async with self._moved:
            self._moved.notify_all()


async def _greeted(channel: Channel) -> Want:
    """What the Controller says first. Raises Refused."""
    decoder = frames.Decoder(MOST_CHUNK)
    while said := await channel.receive():
        for fields in decoder.feed(said):
            return want(fields)
    raise Refused("FL-STREAM-LOST", "the Controller takes no logs")
