"""What an engine has logged and no Controller has yet: on its disk, within a bound, found again after a restart.

Rules, and the fault that each stops:

1. A line that is logged is in a file at once; a crash of the process loses none. (A power cut may lose the last ones:
   logs are not worth a sync each.) What is offered to a Controller is synced first: or after a power cut new lines
   would come at places of which a Controller has what was there before.
2. The spool has a bound. When it is full, the oldest part goes, and a line says how much; logging never stops the
   engine, and never fills its disk. A disk that is full of other things costs whole lines, which are counted and told
   of.
3. Offsets count all bytes there ever were: what goes and what is dropped moves nothing else. Where a Controller has
   more than is here (the disk was set back to an older state), what came since goes on under another id.

A part is a file, named by the offset at which it begins.
"""

import asyncio
import contextlib
import json
import os
import secrets
import threading
from pathlib import Path

from fairlead.base import files
from fairlead.base.errors import OperatorError

FOLDER = "spool"
PART_BYTES = 4 * 1024 * 1024
MOST_BYTES = 256 * 1024 * 1024
_ID = "id"
_SETTLED = "settled"


class Spool:
    """Lines go in at its end, from any thread; bytes are read from anywhere; what is settled goes at its beginning."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES, part_bytes: int = PART_BYTES) -> None:
        """Opens or makes it. Raises OperatorError."""
        self._folder = folder
        self.most = most_bytes
        self.dropped = 0
        """Bytes that went without any Controller having them, since this was opened."""
        self._part = part_bytes
        self._turn = threading.Lock()
        self._lost = 0
        """Lines that the disk refused."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._file = -1
        self.news = asyncio.Event()
        """There is more than before; whoever waits for it clears it."""
        files.make_private_folder(folder)
        try:
            self.id = files.read_private(folder / _ID).decode()
        except FileNotFoundError:
            self.id = secrets.token_hex(16)
            for path in folder.glob("*.log"):  # of another life, before its id was lost
                path.unlink()
            files.write_private(folder / _ID, self.id.encode())
        self._parts = sorted((int(path.stem), path.stat().st_size) for path in folder.glob("*.log")
                             if path.stem.isdigit())
        self.end = max(sum(self._parts[-1]) if self._parts else 0, self._settled())
        self.settled = max(self._settled(), self.begin)
        """Up to where a Controller has all on its disk."""
        self._synced = 0
        """Up to where no power cut takes anything."""
        self._opened = self.end
        """Where it ended when this was opened."""

    @property
    def begin(self) -> int:
        """The offset of the oldest byte that is still here."""
        return self._parts[0][0] if self._parts else self.end

    @property
    def pending(self) -> int:
        """Bytes that no Controller has."""
        return self.end - max(self.settled, self.begin)

    def close(self) -> None:
        """Write nothing more."""
        with self._turn:
            self._shut()

    def append(self, line: str) -> None:
        """One line. Never raises: what the disk refuses is counted, and told of when it takes lines again."""
        with self._turn:
            try:
                if self._lost:
                    self._write(json.dumps({"event": "spool.lost", "level": "warning", "lines": self._lost}))
                    self._lost = 0
                self._write(line)
            except OSError:
                self._lost += 1
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.news.set)

    def wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, set `news` there."""
        self._loop = loop

    def read(self, offset: int, most: int) -> tuple[int, bytes]:
        """At most *most* bytes from *offset*, or from where there is something; and that place. May raise OSError.

        Whole lines, but of one that is longer than that: what is made of them elsewhere has ends of lines for seams.
        """
        with self._turn:
            for begin, size in self._parts:
                if offset < begin + size:
                    place = max(offset, begin)
                    with (self._folder / _name(begin)).open("rb") as file:
                        file.seek(place - begin)
                        data = file.read(most)
                    return place, data[:data.rfind(b"\n") + 1] or data
            return self.end, b""

    def sync(self) -> int:
        """Have all that is here by now outlive a power cut; where that ends. Blocks. Raises OSError."""
        with self._turn:
            end = self.end
            fresh = [begin for begin, size in self._parts if begin + size > self._synced]
        for begin in fresh:
            with contextlib.suppress(FileNotFoundError), (self._folder / _name(begin)).open("rb") as file:
                os.fsync(file.fileno())
        files.sync_folder(self._folder)
        self._synced = end
        return end

    def roll(self) -> None:
        """Let what comes next begin another part."""
        with self._turn:
            self._shut()

    def settle(self, offset: int) -> None:
        """A Controller has everything below *offset* on its disk: whole parts of it go. Blocks."""
        with self._turn:
            self.settled = settled = max(self.settled, min(offset, self.end))
            some_go = bool(self._parts) and sum(self._parts[0]) <= settled
        kept = 0
        try:  # safe before parts go: then nothing else says which offsets there were
            files.write_private(self._folder / _SETTLED, str(settled).encode(), synced=some_go)
        except OperatorError:
            kept = 1  # the newest part says it, too; all others go, and make room
        with self._turn:
            while len(self._parts) > kept and sum(self._parts[0]) <= settled:
                if len(self._parts) == 1:
                    self._shut()
                self._remove()

    def take_another_id(self) -> None:
        """A Controller has more of this spool than is here, so it has all that was here when this was opened. What
        came since is at offsets that it knows otherwise: it counts under another id. Blocks. Raises OperatorError.
        """
        another = secrets.token_hex(16)
        self.settle(self._opened)
        files.write_private(self._folder / _ID, another.encode())
        self.id = another

    def _write(self, line: str) -> None:
        data = line.encode(errors="replace") + b"\n"
        if self._file < 0 or self._parts[-1][1] + len(data) > self._part:
            self._open()
        files.append(self._file, data)
        begin, size = self._parts[-1]
        self._parts[-1] = begin, size + len(data)
        self.end += len(data)
        if self.end - self.begin > self.most and len(self._parts) > 1:
            dropped = sum(self._parts[0]) - max(self.settled, self.begin)
            self._remove()
            if dropped > 0:
                self.dropped += dropped
                self._write(json.dumps({"event": "spool.dropped", "level": "warning", "bytes": dropped}))

    def _open(self) -> None:
        self._shut()
        if self._parts and not self._parts[-1][1]:
            self._parts.pop()
        self._file = os.open(self._folder / _name(self.end), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
                             0o600)
        self._parts.append((self.end, 0))

    def _shut(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _remove(self) -> None:
        begin, _ = self._parts.pop(0)
        with contextlib.suppress(OSError):
            (self._folder / _name(begin)).unlink()

    def _settled(self) -> int:
        try:
            return int((self._folder / _SETTLED).read_text())
        except (OSError, ValueError):
            return 0


def _name(begin: int) -> str:
    return f"{begin:020d}.log"
