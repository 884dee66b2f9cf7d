"""The audit chain of a node without a store: the same records, one a line, in a file of its own.

Rules, and what each stops:

1. A record is on the disk before `Journal.append` returns: no crash takes back what was recorded.
2. A last line without its end was never answered for; it is cut off, and that is recorded. A whole line that does not
   read as a record is no crash but somebody's doing: the journal does not open.
3. One process at a time, 0600, no symbolic link: nobody else continues or reads the chain.
"""

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from fairlead.audit.record import GENESIS, AuditRecord, Entry, Head, broken, chain, decode, verify
from fairlead.base.clock import Clock
from fairlead.base.errors import OperatorError
from fairlead.base.files import sync_folder


class Journal:
    """Open it with `open`, end it with `close`. Blocks for a sync of the disk per record; not for several threads."""

    def __init__(self, file: int, path: Path, node: str, clock: Clock, end: int, last: AuditRecord | None) -> None:
        """Takes over the descriptor *file*, whose last whole line ends at *end* and holds *last*."""
        self._file = file
        self._path = path
        self._node = node
        self._clock = clock
        self._end = end
        self._last = last
        self.moved = asyncio.Event()
        """It may have moved on; whoever waits for it clears it."""
        self.moved.set()

    @property
    def head(self) -> Head:
        """Where it ends."""
        return self._last.head() if self._last else GENESIS

    @classmethod
    def open(cls, path: Path, node: str, clock: Clock) -> "Journal":
        """The journal at *path*, made where it is missing; *node* is whose it is.

        Raises OperatorError (``FL-STATE-OPEN``, ``FL-STATE-UNWRITABLE``, ``FL-AUDIT-LOCKED``, ``FL-DISK``), Refused
        ``FL-AUDIT-BROKEN`` when the last line is not a record of *node*.
        """
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperatorError("FL-STATE-UNWRITABLE", f"the journal {path} cannot be opened: {error.strerror}",
                                "check the state folder and its owner") from error
        try:
            mode = os.fstat(file).st_mode
            if mode & 0o077 or not stat.S_ISREG(mode):
                raise OperatorError("FL-STATE-OPEN", f"{path} is open to others (mode {stat.S_IMODE(mode):04o})",
                                    f"chmod 600 {path}")
            lock(file, path)
            sync_folder(path.parent)
            content = read(file, path)
            end = content.rfind(b"\n") + 1
            last = decode(content[:end].split(b"\n")[-2], f"the last line of {path}") if end else None
            if last and last.node != node:
                raise broken(f"{path} is the journal of {last.node}, not of {node}")
            journal = cls(file, path, node, clock, end, last)
            if len(content) > end:
                journal.append(Entry("journal.torn", node, node, {"bytes": len(content) - end}))
        except BaseException:
            os.close(file)
            raise
        return journal

    def close(self) -> None:
        """Let go of the file; once more does nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1  # the number may be another file's by now

    def append(self, entry: Entry) -> AuditRecord:
        """Record *entry*, on the disk when this returns. Raises OperatorError ``FL-DISK``: then nothing is recorded."""
        record = chain(self._last, entry, self._node, self._clock.now())
        line = record.encoded() + b"\n"
        try:
            os.ftruncate(self._file, self._end)  # a former failure may have left something there
            written = 0
            while written < len(line):
                written += os.pwrite(self._file, line[written:], self._end + written)
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise OperatorError("FL-DISK", f"{self._path} cannot be written: {error.strerror}",
                                "free some space or mend the disk; nothing was lost") from error
        self._end += len(line)
        self._last = record
        self.moved.set()
        return record

    def records(self) -> Sequence[AuditRecord]:
        """All records, the oldest first. Raises Refused ``FL-AUDIT-BROKEN``, OperatorError ``FL-DISK``."""
        lines = read(self._file, self._path)[:self._end].split(b"\n")[:-1]
        return [decode(line, f"line {number} of {self._path}") for number, line in enumerate(lines, 1)]

    def verify(self, head: Head | None = None) -> Head:
        """Check the whole chain; where it ends. *head*: an end noted before. Raises Refused ``FL-AUDIT-BROKEN``."""
        return verify(self.records(), head or (self._last.head() if self._last else None), self._node)


def read(file: int, path: Path) -> bytes:
    """The whole of *file*. Raises OperatorError ``FL-DISK``."""
    content = bytearray()
    try:
        while block := os.pread(file, 1 << 20, len(content)):
            content += block
    except OSError as error:
        raise OperatorError("FL-DISK", f"{path} cannot be read: {error.strerror}", "mend the disk") from error
    return bytes(content)


def lock(file: int, path: Path) -> None:
    """Keep every other process out until *file* is closed. Raises OperatorError ``FL-AUDIT-LOCKED``."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OperatorError("FL-AUDIT-LOCKED", f"another process has the journal {path} open",
                            "stop the fairlead that runs on this state folder") from error
