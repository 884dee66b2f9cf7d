"""The one file that a bundle is: a tar in which every bit has one right value.

`tar xf` gives a TUF repository, as a stock client reads it: ``metadata/N.root.json`` from 1 on, ``timestamp.json``,
``N.snapshot.json``, ``N.targets.json``, then ``targets/`` with the manifest first. Rules, and the attack each stops:

1. Nothing is taken from a header: a reader says which name must come next, writes the header that a builder would have
   written, and compares. So no second reading of a header exists, and no field in which something could be hidden.
2. Padding is zero, the order is fixed, and the file ends where it must.
3. A length is bounded before anything of it is read: no endless data.
4. Each byte is read once, from one descriptor, and what was read is what is judged: nobody can change it in between.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from fairlead.base.errors import OperatorError, Refused

BLOCK = 512
PIECE = 1 << 20
END = bytes(2 * BLOCK)
_LONG = "././@LongLink"
_SIZE = re.compile(rb"[0-7]{11}\0")
_BESIDE = 1 << 16
"""Pieces below this are not worth another thread."""


def header(name: str, size: int) -> bytes:
    """What stands before the *size* bytes of *name*; GNU's way for names of more than 100 characters."""
    text = name.encode()
    if len(text) <= 100:
        return _block(text, size, b"0")
    return _block(_LONG.encode(), len(text) + 1, b"L") + text + bytes(-len(text) % BLOCK or BLOCK) \
        + _block(text[:100], size, b"0")


def padding(size: int) -> int:
    """How many zeros follow *size* bytes."""
    return -size % BLOCK


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    front = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    back = (kind + bytes(100) + b"ustar  \0").ljust(BLOCK - 156, b"\0")
    return front + b"%06o\0 " % sum(front + b" " * 8 + back) + back


class Reader:
    """Reads a bundle once, from its first byte to its last, and hashes it on the way."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.at = 0
        self._whole = hashlib.sha256()
        self._beside: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._beside is not None:
            self._beside.shutdown()

    def entry(self, name: str, most: int, size: int | None = None) -> bytes:
        """The content of the entry that must come now; *size* where it is known. Raises Refused."""
        return self.either((name,), most, size)[1]

    def either(self, names: Sequence[str], most: int, size: int | None = None) -> tuple[str, bytes]:
        """The name and the content of the entry that must come now, one of *names* (short ones). Raises Refused."""
        head = self._take(BLOCK)
        name = next((name for name in names if head[:100] == name.encode().ljust(100, b"\0")), None)
        if name is None:
            raise _other(head, names)
        if not _SIZE.fullmatch(head[124:136]):  # no stand-in for it: `header` writes a size of -1 as well
            raise _not_as_written(name)
        said = int(head[124:135], 8)
        if said > most:
            raise too_long(f"{name} is said to have {said} bytes, {most} are allowed")
        if head != header(name, said):
            raise _not_as_written(name)
        if size is not None and said != size:
            raise too_long(f"{name} has {said} bytes, and {size} are signed")
        content = self._take(said)
        self._zeros(said)
        return name, content

    def stream(self, name: str, size: int, use: Callable[[memoryview], object]) -> int:
        """Hand the content of *name* to *use* by pieces; where it begins. Raises Refused."""
        head = header(name, size)
        if (found := self._take(len(head))) != head:
            last = found[-BLOCK:]
            if _SIZE.fullmatch(last[124:136]) and found == header(name, said := int(last[124:135], 8)):
                raise too_long(f"{name} is said to have {said} bytes, and {size} are signed")
            raise _not_as_written(name)
        begin, left = self.at, size
        buffers = (bytearray(min(PIECE, size)), bytearray(min(PIECE, size)))
        while left:
            buffers = buffers[::-1]  # the other one may still be hashed
            piece = memoryview(buffers[0])[:min(PIECE, left)]
            self._fill(piece)
            use(piece)
            left -= len(piece)
        self._settle()
        self._zeros(size)
        return begin

    def end(self) -> tuple[str, int]:
        """Whether the file ends here; its SHA-256, hex, and its size. Raises Refused."""
        if self._take(len(END)) != END:
            raise malformed("its end is not as it is written")
        if self._read(memoryview(bytearray(1)), self.at):
            raise malformed("something follows its end")
        return self._whole.hexdigest(), self.at

    def _zeros(self, size: int) -> None:
        if any(self._take(padding(size))):
            raise malformed("its padding is not empty")

    def _take(self, size: int) -> bytes:
        buffer = bytearray(size)
        self._fill(memoryview(buffer))
        self._settle()
        return bytes(buffer)

    def _fill(self, into: memoryview) -> None:
        filled = 0
        while filled < len(into):
            got = self._read(into[filled:], self.at + filled)
            if not got:
                raise malformed("it ends too early")
            filled += got
        self.at += filled
        self._settle()
        if filled < _BESIDE:
            self._whole.update(into)
            return
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._pending = self._beside.submit(self._whole.update, into)

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _read(self, into: memoryview, at: int) -> int:
        try:
            return os.preadv(self._fd, [into], at)
        except OSError as error:
            raise OperatorError("FL-FILE", f"the bundle cannot be read: {error.strerror}",
                                "see that it is a plain file on a disk that can be read") from None


def malformed(why: str) -> Refused:
    """The file is no bundle, or was changed."""
    return Refused("FL-UPGRADE-FORMAT", f"this is no upgrade bundle as it was built: {why}",
                   "fetch it again; `sha256sum` on both sides shows whether it came over whole")


def too_long(why: str) -> Refused:
    """Endless data: more than is allowed, or than is signed."""
    return Refused("FL-UPGRADE-SIZE", f"the bundle is larger than it may be, or says so: {why}",
                   "fetch it again, from where it was built")


def mixed(why: str) -> Refused:
    """Mix-and-match: parts of several bundles."""
    return Refused("FL-UPGRADE-MIXED", f"the bundle is put together from parts that do not belong together: {why}",
                   "fetch it again, from where it was built")


def _not_as_written(name: str) -> Refused:
    return malformed(f"the header of {name} is not as it is written")


def _other(head: bytes, names: Sequence[str]) -> Refused:
    found = head[:100].rstrip(b"\0").decode("ascii", "replace")
    kind = names[-1].partition(".")[2]
    if kind and re.fullmatch(rf"metadata/[0-9]+\.{re.escape(kind)}", found):
        return mixed(f"{found} stands where {names[-1]} belongs")
    return malformed(f"{names[-1]} does not come where it must")
