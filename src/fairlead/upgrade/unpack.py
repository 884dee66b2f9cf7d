"""Writing what was verified, and nothing else.

Rules, and the attack each stops:

1. Bytes come through the descriptor that was verified, from the places that were verified, and each file is hashed
   again as it is written: whoever rewrites the bundle after it was verified is noticed (RAUC, CVE-2020-25860).
2. A wheel is copied first, to a file without a name in the private folder, and compared; only the copy is opened.
3. Only the manifest's files are written, each made anew, never through a link. What was begun goes when anything fails.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fairlead.base.errors import OperatorError, Refused
from fairlead.base.files import sync_folder
from fairlead.upgrade.container import PIECE
from fairlead.upgrade.manifest import File, distinct
from fairlead.upgrade.verify import Verified
from fairlead.upgrade.wheel import Room, Wheel

FILES, LIBRARY = "files", "lib"


def unpack(fd: int, verified: Verified, into: Path) -> None:
    """Write plain files to ``into/files``, wheels taken apart to ``into/lib``; *into* is empty and private.

    All is synced. Raises Refused FL-UPGRADE-CHANGED, FL-UPGRADE-WHEEL, OperatorError FL-DISK; then *into* is empty.
    """
    try:
        _unpack(fd, verified, into)
    except BaseException as error:
        for name in (FILES, LIBRARY):
            shutil.rmtree(into / name, ignore_errors=True)
        if isinstance(error, OSError):
            raise OperatorError("FL-DISK", f"the version cannot be written to {into}: {error.strerror}",
                                "free some space or mend the disk, then repeat the upgrade; nothing was changed"
                                ) from error
        raise


def _unpack(fd: int, verified: Verified, into: Path) -> None:
    room = Room()
    taken: list[str] = []
    for file, offset in zip(verified.manifest.files, verified.offsets, strict=True):
        if not file.path.endswith(".whl"):
            _write(into / FILES, file.path, _checked(fd, file, offset))
            continue
        with tempfile.TemporaryFile(dir=into) as copy:
            for piece in _checked(fd, file, offset):
                copy.write(piece)
            wheel = Wheel(file.path.rpartition("/")[2], cast("BinaryIO", copy), room)
            taken += wheel.targets
            try:
                distinct(taken)
            except ValueError as error:
                raise Refused("FL-UPGRADE-WHEEL", f"two wheels of the bundle bring one file: {error}",
                              "build the bundle from wheels that go together") from None
            wheel.unpack(lambda path, pieces: _write(into / LIBRARY, path, pieces))
    for folder, _, _ in os.walk(into, topdown=False):
        sync_folder(Path(folder))


def _checked(fd: int, file: File, offset: int) -> Iterator[bytes]:
    """The content of *file*; at its end it is known to be the one that was verified, and not before."""
    digest, left, at = hashlib.sha256(), file.size, offset
    while left:
        piece = os.pread(fd, min(PIECE, left), at)
        if not piece:
            break
        digest.update(piece)
        left, at = left - len(piece), at + len(piece)
        yield piece
    if left or digest.hexdigest() != file.sha256:
        raise Refused("FL-UPGRADE-CHANGED", f"{file.path} has changed since the bundle was verified",
                      "see who else writes to the bundle; fetch it again")


def _write(top: Path, path: str, pieces: Iterable[bytes]) -> None:
    where = top / path
    for folder in reversed(where.relative_to(top.parent).parents):  # `parents=True` leaves their modes to the umask
        (top.parent / folder).mkdir(mode=0o700, exist_ok=True)
    handle = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
