"""Gives bundle files to nodes that ask: engines, and the other Controllers.

Rules, and what each stops:

1. Who asks is the key that the connection proved, of a node in good standing; control connections carry no images.
2. Only what the cluster has on record is given: an upload that nobody has verified leaves this Controller nowhere.
3. Few are given at once, each at a pace, in turns that end: thousands of engines that want the same file wait in a
   row, and control traffic goes on beside them. Who reads slowly loses his turn, and who waits holds a frame of memory.
4. A node has one question: whoever asks again ends the older one at once, whether that is served or still waits. Many
   questions of one node are one task, not a row of them.

What is given is not meant to be believed: each node verifies it by itself.
"""

import asyncio
import contextlib
import os
from typing import Protocol

import structlog

from fairlead.base.errors import FairleadError, Refused
from fairlead.link import frames
from fairlead.link.images import MOST_HELLO, VERSION, Have, Want, want
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer
from fairlead.upgrade.images import Images

AT_ONCE = 8
"""Nodes that are given something."""
RATE = 16 * 1024 * 1024
"""Bytes a second to each."""
TURN_BYTES = 64 * 1024 * 1024
"""Then the next one has a turn."""
TURN_S = 60.0
"""So long a turn takes at most."""
HELLO_S = 10.0
CHUNK = 128 * 1024

log = structlog.get_logger("fairlead.fleet")


class Recorded(Protocol):
    """The cluster's record of images."""

    def size_of(self, sha256: str) -> int | None:
        """Of an image on record; None: there is none."""
        ...


class Giving:
    """This Controller's files, for others."""

    def __init__(self, images: Images, recorded: Recorded, *, rate: int = RATE, turn_bytes: int = TURN_BYTES,
                 turn_s: float = TURN_S, at_once: int = AT_ONCE) -> None:
        self._images = images
        self._recorded = recorded
        self._rate = rate
        self._turn_bytes = turn_bytes
        self._turn_s = turn_s
        self._places = asyncio.Semaphore(at_once)
        self._newest: dict[str, asyncio.Timeout] = {}
        """Who is being served, or waits for it, by id: by when that ends."""
        self.given = 0
        """Bytes, in total."""

    async def serve(self, peer: Peer, channel: Channel) -> None:
        """Give *peer* what it asks for, until its turn is over."""
        try:
            async with asyncio.timeout(HELLO_S):
                wanted = await _hello(channel)
            async with asyncio.timeout(None) as question:
                if (older := self._newest.get(peer.node_id)) is not None and not older.expired():
                    older.reschedule(0)
                self._newest[peer.node_id] = question
                try:
                    async with self._places:
                        if self._newest.get(peer.node_id) is question:  # else it is over, and just does not know yet
                            question.reschedule(asyncio.get_running_loop().time() + self._turn_s)
                            await self._give(wanted, channel)
                finally:
                    if self._newest.get(peer.node_id) is question:
                        del self._newest[peer.node_id]
        except TimeoutError:
            log.info("image.slow", peer=peer.node)
        except Refused as refusal:
            log.info("image.not-given", peer=peer.node, code=refusal.code, reason=refusal.message)
            with contextlib.suppress(FairleadError):
                channel.send_now(frames.encode(Have(v=VERSION, size=0, code=refusal.code,
                                                    words=refusal.message[:1000]).model_dump()))
        except (FairleadError, OSError) as error:
            log.warning("image.not-given", peer=peer.node, reason=str(error))

    async def _give(self, wanted: Want, channel: Channel) -> None:
        size = self._recorded.size_of(wanted.sha256)
        if size is None:
            raise Refused("FL-IMAGE-UNKNOWN", "the cluster has no such image")
        handle = self._images.open(wanted.sha256)  # in no thread: what one opens after the question's end stays open
        try:
            await channel.send(frames.encode(Have(v=VERSION, size=size).model_dump()))
            loop = asyncio.get_running_loop()
            began, place, end = loop.time(), wanted.offset, min(size, wanted.offset + self._turn_bytes)
            while place < end:
                data = await asyncio.to_thread(os.pread, handle, min(CHUNK, end - place), place)
                if not data:
                    return
                await channel.send(data)
                place += len(data)
                self.given += len(data)
                await asyncio.sleep(max(0.0, began + (place - wanted.offset) / self._rate - loop.time()))
        finally:
            os.close(handle)


async def _hello(channel: Channel) -> Want:
    decoder = frames.Decoder(MOST_HELLO)
    while data := await channel.receive():
        for fields in decoder.feed(data):
            return want(fields)
    raise Refused("FL-STREAM-LOST", "it said nothing")
