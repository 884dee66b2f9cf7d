"""Bundle files on a node: kept by their hash, come by piece by piece.

Rules, and what each stops:

1. A file is called by its SHA-256 only when its bytes were seen to have it; until then it is ``.part``. What was cut
   off anywhere goes on from the bytes that are there, and what went wrong on the way is noticed at its end.
2. What is appended belongs exactly at the end: nothing is doubled, nothing is skipped, no more comes than was said.
3. One file has a most, and all together have one: what nobody uses goes first, the oldest of it, and what does not fit
   is refused before its first byte. What has been promised counts as if it were here: many that begin at once get no
   more than there is. The disk keeps some space free for all else on it (the store, the journals): images fill the
   disks of all Controllers at once. A full disk costs the piece that did not fit, and nothing else.
4. Files are ours alone (0600), and no link is followed.

    images/<sha256>          a whole file
    images/<sha256>.part     the beginning of one

Nothing here says that a bundle is good: that is `verify`'s, of the very descriptor that is used afterwards.
"""

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fairlead.base import files
from fairlead.base.errors import OperatorError, Refused, printable
from fairlead.link.images import MOST_SIZE

FOLDER = "images"
MOST_BYTES = 8 * 1024 * 1024 * 1024
"""Of all of them."""
KEPT_FREE = 1024 * 1024 * 1024
"""On the disk, for all else; on a small one a tenth of it."""
PART = ".part"
_BLOCK = 1024 * 1024
_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Moved:
    """What a node has fetched since it was started, for figures."""

    bytes: int = 0
    files: int = 0
    verify_s: float = 0.0
    """Of the last verification, seconds."""


class Source(Protocol):
    """Where the rest of a file comes from."""

    def rest(self, sha256: str, size: int, offset: int) -> AsyncGenerator[bytes]:
        """Its bytes from *offset* on; perhaps not all of them. Raises FairleadError."""
        ...


def free(folder: Path) -> int:
    """How many bytes of the disk of *folder* images may still take. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize - min(KEPT_FREE, disk.f_blocks * disk.f_frsize // 10)


class Images:
    """The files of one node, below *state*. Its methods block; one caller at a time for each file."""

    def __init__(self, state: Path, *, most_bytes: int = MOST_BYTES, most_size: int = MOST_SIZE,
                 space: Callable[[Path], int] = free) -> None:
        """*space*: how many bytes images may still take of the disk of a folder."""
        self._folder = state / FOLDER
        self._most = most_bytes
        self._space = space
        self.most_size = most_size
        """Of one file."""

    def path(self, sha256: str) -> Path:
        """Where the whole file is, or would be. Raises Refused FL-IMAGE-HASH for what is no hash."""
        if not _NAME.fullmatch(sha256):
            raise Refused("FL-IMAGE-HASH", f"{printable(sha256, 80)!r} is no SHA-256 in hexadecimal",
                          "`sha256sum FILE` says it")
        return self._folder / sha256

    def whole(self, sha256: str) -> int | None:
        """The size of a file that is here as a whole; None: it is not."""
        return _size(self.path(sha256))

    def have(self, sha256: str) -> int:
        """How many bytes of it are here, whole or not."""
        path = self.path(sha256)
        found = _size(path)
        return found if found is not None else _size(path.with_suffix(PART)) or 0

    def begin(self, sha256: str, size: int, used: Mapping[str, int] | None = None) -> None:
        """See that a file of *size* bytes has room, besides those that are *used*: of the others the oldest go.

        *used*: by their hashes, each with the size that it was promised, or 0: as it is here.

        Raises Refused FL-IMAGE-SIZE, FL-IMAGE-ROOM, OperatorError.
        """
        path = self.path(sha256)
        if not 0 < size <= self.most_size:
            raise Refused("FL-IMAGE-SIZE", f"an image has 1 to {self.most_size} bytes, not {size}",
                          "see that this is an upgrade bundle")
        for private in (self._folder.parent, self._folder):
            files.make_private_folder(private)
        with _told():
            self._room(path, size, used or {})

    def _room(self, path: Path, size: int, used: Mapping[str, int]) -> None:
        others = [(one, one.stat()) for one in self._folder.iterdir() if one.stem != path.name]
        here = {one.stem: found.st_size for one, found in others}
        coming = sum(max(0, most - here.get(name, 0)) for name, most in used.items() if name != path.name)
        left = min(self._most - size - sum(found.st_size for _, found in others),
                   self._space(self._folder) - (size - self.have(path.name))) - coming
        for one, found in sorted(others, key=lambda each: each[1].st_mtime):
            if left >= 0:
                return
            if one.stem not in used:
                one.unlink()
                left += found.st_size
        if left < 0:
            raise _no_room()

    def write(self, sha256: str, offset: int, data: bytes, size: int) -> int:
        """Append what belongs at *offset* of a file of *size* bytes; how many bytes are here then.

        Raises Refused FL-IMAGE-OFFSET, FL-IMAGE-SIZE, FL-IMAGE-ROOM, OperatorError FL-DISK.
        """
        part = self.path(sha256).with_suffix(PART)
        if offset + len(data) > size:
            raise Refused("FL-IMAGE-SIZE", f"more comes than the {size} bytes that were said",
                          "begin again, with the file's own size")
        with _told():
            if self._space(self._folder) < len(data):  # whatever else has filled the disk since it was begun
                raise _no_room()
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                there = os.fstat(handle).st_size
                if offset != there:
                    raise Refused("FL-IMAGE-OFFSET", f"a piece for {offset}, and {there} bytes are here",
                                  f"go on from {there}")
                left = memoryview(data)
                while left:
                    left = left[os.write(handle, left):]
            finally:
                os.close(handle)
        return offset + len(data)

    def finish(self, sha256: str) -> None:
        """What came is all of it: from now on it is whole. Raises Refused FL-IMAGE-HASH, and nothing of it is left;
        OperatorError FL-DISK.
        """
        path = self.path(sha256)
        part = path.with_suffix(PART)
        with _told():
            handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _digest(handle) != sha256:
                    part.unlink()
                    raise Refused("FL-IMAGE-HASH", f"what came is not {sha256}: its bytes have another hash",
                                  "bring it again; if that repeats, see who changes it on the way")
                os.fsync(handle)
            finally:
                os.close(handle)
            part.replace(path)
            files.sync_folder(self._folder)

    def open(self, sha256: str) -> int:
        """A descriptor of the whole file, for reading; the caller closes it. Raises Refused FL-IMAGE-UNKNOWN."""
        try:
            handle = os.open(self.path(sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise Refused("FL-IMAGE-UNKNOWN", f"the image {sha256} is not here", "have it brought first") from None
        with contextlib.suppress(OSError):
            os.utime(handle)  # it is in use: others go first
        return handle

    def remove(self, sha256: str) -> None:
        """Nothing of it is kept. Raises OperatorError FL-DISK."""
        path = self.path(sha256)
        for one in (path, path.with_suffix(PART)):
            files.remove(one)

    def forget(self, keep: Collection[str]) -> None:
        """Nothing but those is kept. Raises OperatorError FL-DISK."""
        if self._folder.is_dir():
            for one in list(self._folder.iterdir()):
                if one.stem not in keep:
                    files.remove(one)


async def fetch(images: Images, sha256: str, size: int, source: Source) -> int:
    """Append what *source* gives; the file is whole when all of it is there. How many bytes came.

    Raises FairleadError; what has come by then stays, but for a file whose hash is wrong.
    """
    if await asyncio.to_thread(images.whole, sha256) is not None:
        return 0
    offset = begun = await asyncio.to_thread(images.have, sha256)
    if offset > size:
        await asyncio.to_thread(images.remove, sha256)
        offset = begun = 0
    if offset < size:
        async with contextlib.aclosing(source.rest(sha256, size, offset)) as pieces:
            async for data in pieces:
                offset = await asyncio.to_thread(images.write, sha256, offset, data, size)
    if offset == size:
        await asyncio.to_thread(images.finish, sha256)
    return offset - begun


def _no_room() -> Refused:
    return Refused("FL-IMAGE-ROOM", "images have no more room on this node",
                   "delete images that are not needed any more, or free some space on its disk")


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _disk(error) from None


def _digest(handle: int) -> str:
    found, place = hashlib.sha256(), 0
    while data := os.pread(handle, _BLOCK, place):
        found.update(data)
        place += len(data)
    return found.hexdigest()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk(error) from None


def _disk(error: OSError) -> OperatorError:
    return OperatorError("FL-DISK", f"an image cannot be kept: {error.strerror}",
                         "free some space or mend the disk; what has come is kept, and it goes on from there")
