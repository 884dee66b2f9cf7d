"""Logs of engines, as they come up: appended where they belong, synced, settled, bounded. `fleet.reading` reads them.

Rules, and what each stops:

1. Whose logs they are is the key that the connection proved; a folder by the node's id, files by spool and offset.
2. An offset is taken once: what comes again is passed over, what is missing begins another file. Nothing is settled
   before it is on the disk.
3. There is a bound for each engine, of bytes and of files, the oldest files go first, and few engines upload at once,
   each at a pace: neither a talkative engine nor thousands after an outage fill the disk or starve what else runs here.
   Who keeps to neither is read no faster, and has no file for what comes with more gaps than there can be.
4. What engines write is theirs: it is stored and shown, and nothing of it is believed.

    logs/<node id>/<spool>.<offset, 20 digits>.log
"""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from fairlead.base import files
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.link import frames
from fairlead.link.engines import MOST_PARTS, Part
from fairlead.link.logs import VERSION, Chunks, Have, Want, have, settled
from fairlead.nodes.node import Node
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer

FOLDER = "logs"
FILE_BYTES = 8 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024
"""Of one engine."""
MOST_FILES = 512
"""Likewise. One is begun for each 8 MiB, and wherever something is missing in between."""
MOST_GAPS = 16
"""In what comes at once: as many as chunks fit into what an engine has under way. Each costs a file, and two syncs."""
AT_ONCE = 16
"""Engines that upload."""
RATE = 4 * 1024 * 1024
"""Bytes a second of each."""
HELLO_S = 10.0
SILENT_S = 30.0
"""An engine that has said nothing for so long makes room for another."""
_NAME = re.compile(r"([0-9a-f]{32})\.([0-9]{20})\.log")

log = structlog.get_logger("fairlead.fleet")

T = TypeVar("T")


class Nodes(Protocol):
    """The directory."""

    nodes: dict[str, Node]


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
        loop = asyncio.get_running_loop()
        began, came = loop.time(), 0
        try:
            while True:
                await asyncio.sleep(max(0.0, began + came / self._rate - loop.time()))
                async with asyncio.timeout(SILENT_S):
                    data = await channel.receive()
                if not data:
                    return
                came += len(data)
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
        total, left = sum(one.size for one in found), len(found)
        for one in found[:-1]:
            if total <= self._most and left <= MOST_FILES:
                return
            one.path.unlink(missing_ok=True)
            total -= one.size
            left -= 1

    async def parts(self, node_id: str, spool: str, offset: int) -> list[Part]:
        """Of each spool of that engine that is here, the first run that goes on after *offset* of *spool*; of others,
        the first. Raises OperatorError FL-DISK.
        """
        return await _told(lambda: _parts(self._folder / node_id, spool, offset))

    async def read(self, node_id: str, spool: str, offset: int, most: int) -> bytes:
        """At most *most* bytes of a spool from *offset* on; empty where there is nothing.

        Raises OperatorError FL-DISK.
        """
        return await _told(lambda: _read(self._folder / node_id, spool, offset, most))

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
        """Append what is new of *chunks*; on the disk when this returns. Raises OSError, Refused FL-LINK-MESSAGE."""
        if _gaps(chunks, self.end) > MOST_GAPS:
            raise Refused("FL-LINK-MESSAGE", f"logs with more than {MOST_GAPS} gaps at once")
        touched = False
        for offset, whole in chunks:
            data = whole[max(0, self.end - offset):]
            if not data:
                continue
            place = max(offset, self.end)
            if place > self.end or self._handle < 0 or self._size >= self._most:
                self._open(place)
            files.append(self._handle, data)
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
                               os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        files.sync_folder(self._folder)
        self._size = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _gaps(chunks: list[tuple[int, bytes]], end: int) -> int:
    """How often something is missing before a chunk, of those that go on where *end* is."""
    gaps = 0
    for offset, data in chunks:
        gaps += offset > end
        end = max(end, offset + len(data))
    return gaps


def _files(folder: Path) -> list[_File]:
    """By spool and offset."""
    found = []
    for path in folder.glob("*.log"):
        if (named := _NAME.fullmatch(path.name)) is not None:
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile, for the bound
                now = path.stat()
                found.append(_File(named[1], int(named[2]), now.st_size, now.st_mtime, path))
    return sorted(found)


def _parts(folder: Path, spool: str, offset: int) -> list[Part]:
    spools: dict[str, list[_File]] = {}
    for file in _files(folder):
        spools.setdefault(file.spool, []).append(file)
    found = []
    for name, files_of in spools.items():
        after = offset if name == spool else -1
        begin = end = max(file.end for file in files_of)
        ahead = [file for file in files_of if file.size and file.end > after]
        if ahead:
            begin, end = ahead[0].begin, ahead[0].end
            for file in ahead[1:]:
                if file.begin > end:
                    break
                end = max(end, file.end)
        found.append(Part(spool=name, since=max(0.0, min(file.changed for file in files_of)), begin=begin, end=end))
    return sorted(found, key=lambda part: (part.since, part.spool))[:MOST_PARTS]


def _read(folder: Path, spool: str, offset: int, most: int) -> bytes:
    for file in _files(folder):
        if file.spool == spool and file.begin <= offset < file.end:
            try:
                with file.path.open("rb") as opened:
                    opened.seek(offset - file.begin)
                    return opened.read(most)
            except FileNotFoundError:  # it went meanwhile, for the bound
                return b""
    return b""


async def _told(work: Callable[[], T]) -> T:
    """What *work* finds on the disk. Raises OperatorError FL-DISK."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise OperatorError("FL-DISK", f"logs of engines cannot be read: {error.strerror}", "mend the disk") from None


async def _hello(channel: Channel) -> tuple[Have, Chunks]:
    decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
    while data := await channel.receive():
        for fields in decoder.feed(data):
            return have(fields), Chunks()
    raise Refused("FL-STREAM-LOST", "it said nothing")
