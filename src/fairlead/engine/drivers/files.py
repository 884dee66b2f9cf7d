"""The driver ``files``: files at places that the engine's own settings declare.

Rules, and what each stops:

1. Where files go, and which programs check and reload, is the engine's settings' to say; a document says which of those
   destinations it means. Whoever writes documents does not choose either.
2. Folders below a destination are entered one by one and never through a link: what another user of the machine puts
   there leads nowhere.
3. Each file is replaced whole, by a synced temporary and a rename. When the disk, the check or the reload refuses,
   everything is put back as it was, and reloaded once more; what cannot be is said, and keeps nothing else from it.
4. A file belongs to one document: two never take turns in one place.
"""

import asyncio
import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.engine.drivers import program
from fairlead.engine.settings import Destination
from fairlead.link.documents import Files, read

MOST_KEPT = 16 * 1024 * 1024
"""Of a file that is there before: it is kept in memory until the new one has proven itself."""
STATE = "state"
"""The destination that every engine has: `files` in its state folder, without programs."""


@dataclass(frozen=True, slots=True)
class _Content:
    data: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class FilesDriver:
    """Writes the files of documents."""

    state: Path
    destinations: Callable[[], Mapping[str, Destination]]
    """As the settings are now."""

    async def apply(self, name: str, text: str, others: Mapping[str, str]) -> None:
        """Put the files of *text* in place of those that this document, *name*, had; see `engine.documents.Driver`."""
        body: Files = read("files", text)
        destination = self._destination(body)
        most = 0o700 if body.destination == STATE else 0o777  # nothing in a state folder is open to others
        wanted = {file.path: _Content(file.data, int(file.mode, 8) & most) for file in body.files}
        for other, held in others.items():
            if other != name and (theirs := read("files", held)).destination == body.destination:
                for path in wanted.keys() & {file.path for file in theirs.files}:
                    raise Refused("FL-DRIVER-TAKEN", f"{path} at {body.destination} belongs to the document {other}",
                                  "give it another path, or delete the other document")
        moved: list[tuple[Destination, set[str]]] = []
        if name in others:
            before: Files = read("files", others[name])
            gone = {file.path for file in before.files}
            if before.destination == body.destination:
                gone -= wanted.keys()
            with contextlib.suppress(Refused):  # its destination is declared no longer: nothing there is ours to touch
                moved.append((self._destination(before), gone))
        await _replace(destination, wanted, moved)

    async def remove(self, name: str, others: Mapping[str, str]) -> None:
        """Take the files of the document *name* away."""
        before: Files = read("files", others[name])
        with contextlib.suppress(Refused):
            destination = self._destination(before)
            await _replace(destination, {}, [(destination, {file.path for file in before.files})])

    async def restore(self, held: Mapping[str, str]) -> None:
        """Have every file be as the documents *held* say: a crash may have left the next one's, or some of them."""
        for name, text in held.items():
            await self.apply(name, text, held)

    @property
    def problems(self) -> list[str]:
        """None: nothing runs."""
        return []

    async def close(self) -> None:
        """Nothing runs."""

    def _destination(self, body: Files) -> Destination:
        if body.destination == STATE:
            return Destination(folder=str(self.state / "files"))
        found = self.destinations().get(body.destination)
        if found is None:
            raise Refused("FL-DRIVER-UNDECLARED", f"this engine declares no destination {body.destination}",
                          f"write [destinations.{body.destination}] with a folder into its fairlead.toml, then reload "
                          "it")
        return found


async def _replace(destination: Destination, wanted: Mapping[str, _Content],
                   gone: Iterable[tuple[Destination, set[str]]]) -> None:
    changed: list[tuple[Destination, str, _Content | None]] = []
    """What was there, the newest change last."""
    try:
        for place, path, content in [*((destination, path, content) for path, content in wanted.items()), *(
                (place, path, None) for place, paths in gone for path in sorted(paths))]:
            before = await asyncio.to_thread(_exchange, place, path, content)
            if before != content:
                changed.append((place, path, before))
        if changed:
            await _tell(destination, check=True)
            for place in {place.folder: place for place, _, _ in changed}.values():
                if place != destination:
                    await _tell(place, check=False)
    except BaseException as error:
        stuck = []
        for place, path, before in reversed(changed):
            try:
                _exchange(place, path, before)
            except FairleadError as why:
                stuck.append(why.message)
        if changed:
            with contextlib.suppress(Refused):
                await _tell(destination, check=False)
        if stuck and isinstance(error, FairleadError):
            raise OperatorError(error.code, f"{error.message}; {len(stuck)} of {len(changed)} changes could not be "
                                f"taken back: {stuck[0]}", error.remedy) from None
        raise


async def _tell(destination: Destination, *, check: bool) -> None:
    if check and destination.check:
        await program.run(destination.check)
    if destination.reload:
        await program.run(destination.reload)


def _exchange(destination: Destination, path: str, content: _Content | None) -> _Content | None:
    """Put *content* at *path* (None: nothing), and say what was there. Raises OperatorError, Refused."""
    *folders, file = path.split("/")
    try:
        private = content is not None and not content.mode & 0o077
        with _opened(Path(destination.folder), folders, None if content is None else 0o700 if private else 0o755
                     ) as folder:
            before = _read(folder, file)
            if content is None:
                if before is not None:
                    os.unlink(file, dir_fd=folder)
                    os.fsync(folder)
            elif content != before:
                _write(folder, file, content)
            return before
    except FileNotFoundError:
        if content is None:
            return None
        raise _unwritable(destination, path, "a folder is missing") from None
    except OSError as error:
        raise _unwritable(destination, path, error.strerror or str(error)) from None


@contextlib.contextmanager
def _opened(root: Path, folders: Iterable[str], made: int | None) -> Iterator[int]:
    """The folder, entered step by step. *made*: the mode of those that are missing; None: they are not made."""
    if made is not None:
        root.mkdir(mode=made, parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in folders:
            if made is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, made, dir_fd=handle)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _read(folder: int, name: str) -> _Content | None:
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is no regular file")
        if os.fstat(handle).st_size > MOST_KEPT:
            raise OSError(0, "what is there is too large to be put back if need be")
        return _Content(file.read(), stat.S_IMODE(mode))


def _write(folder: int, name: str, content: _Content) -> None:
    temporary = f".{name}.{secrets.token_hex(4)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                     dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.data)
            os.fchmod(handle, content.mode)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _unwritable(destination: Destination, path: str, why: str) -> OperatorError:
    return OperatorError("FL-DRIVER-FILE", f"{printable(f'{destination.folder}/{path}', 300)} cannot be written: {why}",
                         "see the folder's owner, mode and disk on the engine")
