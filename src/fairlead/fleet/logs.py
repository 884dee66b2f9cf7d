"""Logs of engines, as they come up: appended where they belong, synced, settled, bounded, and read by whoever may.

Rules, and what each stops:

1. Whose logs they are is the key that the connection proved; a folder by the node's id, files by spool and offset.
2. An offset is taken once: what comes again is passed over, what is missing begins another file. Nothing is settled
   before it is on the disk.
3. There is a bound for each engine, the oldest files go first, and few engines upload at once, each at a pace: neither
   a talkative engine nor thousands after an outage fill the disk or starve what else runs here.
4. What engines write is theirs: it is stored and shown, and nothing of it is believed.

    logs/<node id>/<spool>.<offset, 20 digits>.log
"""

import asyncio
import contextlib
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from fairlead.base import files
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.link import frames
from fairlead.link.logs import VERSION, Chunks, Have, Want, have, settled
from fairlead.nodes.node import Node
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer

FOLDER = "logs"
FILE_BYTES = 8 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024
"""Of one engine."""
AT_ONCE = 16
"""Engines that upload."""
RATE = 4 * 1024 * 1024
"""Bytes a second of each."""
HELLO_S = 10.0
SILENT_S = 30.0
"""An engine that has said nothing for so long makes room for another."""
MOST_PAGE = 512 * 1024
_NAME = re.compile(r"([0-9a-f]{32})\.([0-9]{20})\.log")
_PLACE = re.compile(r"([0-9a-f]{32})\.([0-9]{1,20})")

log = structlog.get_logger("fairlead.fleet")


class Nodes(Protocol):
    """The directory."""

    nodes: dict[str, Node]

    def named(self, name: str) -> Node | None:
        """The node of that name."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class _File:
    spool: str
    begin: int
    size: int
    changed: float
    path: Path

    @property
    def end(self) -> int:
        return self.begin + self.size


@dataclass(frozen=True, slots=True)
class Page:
    """A part of an engine's logs: whole lines, and where the next ones begin."""

    text: str
    place: str


@dataclass(frozen=True, slots=True)
class _Busy:
    channel: Channel
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Logs:
    """What engines have brought, below *state*."""

    def __init__(self, state: Path, nodes: Nodes, *, most_bytes: int = MOST_BYTES, file_bytes: int = FILE_BYTES,
                 rate: int = RATE) -> None:
        self._folder = state / FOLDER
        self._nodes = nodes
        self._most = most_bytes
        self._file = file_bytes
        self._rate = rate
        self._places = asyncio.Semaphore(AT_ONCE)
        self._busy: dict[str, _Busy] = {}
        """Who uploads now, by id: a newer connection of the same engine takes the place of an older one."""

    async def serve(self, peer: Peer, channel: Channel) -> None:
        """Take what *peer*, an engine, brings, until it ends."""
        try:
            async with asyncio.timeout(HELLO_S):
                offered, chunks = await _hello(channel)
            async with self._places:
                while (older := self._busy.get(peer.node_id)) is not None:
                    older.channel.close()
                    await older.over.wait()  # its last write, too
                busy = self._busy[peer.node_id] = _Busy(channel)
                try:
                    await self._take(peer.node_id, offered, channel, chunks)
                finally:
                    del self._busy[peer.node_id]
                    busy.over.set()
        except TimeoutError:
            pass  # it has nothing to bring for now
        except (FairleadError, OSError) as error:
            log.warning("logs.refused", peer=peer.node, reason=str(error))

    async def _take(self, node_id: str, offered: Have, channel: Channel, chunks: Chunks) -> None:
        folder = self._folder / node_id
        for private in (self._folder, folder):  # each: what is made on the way to one is open to others
            await asyncio.to_thread(files.make_private_folder, private)
        last = next((one for one in reversed(_files(folder)) if one.spool == offered.spool), None)
        place = max(last.end, offered.begin) if last is not None else offered.begin
        await channel.send(frames.encode(Want(v=VERSION, offset=place, rate=self._rate).model_dump()))
        file = _Appending(folder, offered.spool, place, self._file)
        if last is not None and last.end == place and last.size < self._file:
            file.go_on(last)
        try:
            while True:
                async with asyncio.timeout(SILENT_S):
                    data = await channel.receive()
                if not data:
                    return
                brought = chunks.feed(data)
                if brought:
                    await asyncio.to_thread(file.take, brought)
                    await asyncio.to_thread(self._bound, folder)
                    await channel.send(settled(file.end))
        finally:
            file.close()

    def _bound(self, folder: Path) -> None:
        """Let the oldest files go."""
        found = sorted(_files(folder), key=lambda one: (one.changed, one.begin))
        total = sum(one.size for one in found)
        for one in found[:-1]:
            if total <= self._most:
                return
            one.path.unlink(missing_ok=True)
            total -= one.size

    async def page(self, name: str, place: str) -> Page:
        """The lines of the engine *name* from *place* on; empty: from the oldest that is here. Raises Refused."""
        node = self._nodes.named(name)
        if node is None or node.role != "engine":
            raise Refused("FL-NODE-UNKNOWN", f"there is no engine {printable(name, 80)!r}", "see `fairlead node list`")
        found = _PLACE.fullmatch(place)
        if place and found is None:
            raise Refused("FL-LOGS-PLACE", "that is no place in a log", "take it from the page before")
        spool, offset = (found[1], int(found[2])) if found else ("", 0)
        try:
            return await asyncio.to_thread(self._page, self._folder / node.id, spool, offset)
        except OSError as error:
            raise OperatorError("FL-DISK", f"the logs of {name} cannot be read: {error.strerror}",
                                "mend the disk") from None

    def _page(self, folder: Path, spool: str, offset: int) -> Page:
        order = sorted(_files(folder), key=lambda one: (one.changed, one.begin))
        spools = list(dict.fromkeys(one.spool for one in order))
        for one in sorted(order, key=lambda one: (spools.index(one.spool), one.begin)):
            if spool in spools and (spools.index(one.spool), one.end) <= (spools.index(spool), offset):
                continue
            begin = max(one.begin, offset) if one.spool == spool else one.begin
            try:
                with one.path.open("rb") as file:
                    file.seek(begin - one.begin)
                    data = file.read(MOST_PAGE)
            except FileNotFoundError:
                continue
            if len(data) == MOST_PAGE and b"\n" in data:  # whole lines, where there are any
                data = data[:data.rindex(b"\n") + 1]
            if data:
                return Page(data.decode(errors="replace"), f"{one.spool}.{begin + len(data)}")
        return Page("", f"{spool}.{offset}" if spool else "")

    async def forget(self) -> None:
        """Remove what is left of engines that are no longer in the cluster."""
        def work() -> None:
            if self._folder.is_dir():
                for folder in self._folder.iterdir():
                    if folder.name not in self._nodes.nodes:
                        shutil.rmtree(folder, ignore_errors=True)
        await asyncio.to_thread(work)


class _Appending:
    """The end of one spool's files. Not for several threads at once."""

    def __init__(self, folder: Path, spool: str, place: int, most: int) -> None:
        self._folder = folder
        self._spool = spool
        self._most = most
        self._handle = -1
        self._size = 0
        self.end = place

    def take(self, chunks: list[tuple[int, bytes]]) -> None:
        """Append what is new of *chunks*; on the disk when this returns. Raises OSError."""
        touched = False
        for offset, whole in chunks:
            data = whole[max(0, self.end - offset):]
            if not data:
                continue
            place = max(offset, self.end)
            if place > self.end or self._handle < 0 or self._size >= self._most:
                self._open(place)
            os.write(self._handle, data)
            self._size += len(data)
            self.end = place + len(data)
            touched = True
        if touched:
            os.fsync(self._handle)

    def go_on(self, last: _File) -> None:
        """Append to that file, which ends where this begins."""
        self._handle = os.open(last.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = last.size

    def _open(self, place: int) -> None:
        if self._handle >= 0:
            os.fsync(self._handle)
            os.close(self._handle)
        self._handle = os.open(self._folder / f"{self._spool}.{place:020d}.log",
                               os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        files.sync_folder(self._folder)
        self._size = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _files(folder: Path) -> list[_File]:
    """By spool and offset."""
    found = []
    for path in folder.glob("*.log"):
        if (named := _NAME.fullmatch(path.name)) is not None:
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile, for the bound
                now = path.stat()
                found.append(_File(named[1], int(named[2]), now.st_size, now.st_mtime, path))
    return sorted(found)


async def _hello(channel: Channel) -> tuple[Have, Chunks]:
    decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
    while data := await channel.receive():
        for fields in decoder.feed(data):
            return have(fields), Chunks()
    raise Refused("FL-STREAM-LOST", "it said nothing")
